import random

calls = 0


def handler(input, context):
    global calls
    calls += 1
    return {"calls": calls, "random": random.random(), "execution": context.execution_id}
