"""Works as its input says and returns a number that depends on all that it did, in order:
`{"value": 7, "do": [["call", "twig", 3], ["spawn", "tree", {...}], ["gather"], ["sleep", 0.1], ["busy", 0.05]]}`.
"""

import time

import torpor


def mix(total, more):
    return (total * 31 + more) % 1000003


def handler(input, context):
    print("begun", flush=True)
    total, handles = input["value"], []
    for what, *arguments in input["do"]:
        if what == "call":
            total = mix(total, torpor.call(*arguments))
        elif what == "spawn":
            handles.append(torpor.spawn(*arguments))
        elif what == "gather":
            for result in torpor.gather(handles):
                total = mix(total, result)
            handles = []
        elif what == "sleep":
            torpor.sleep(*arguments)
        elif what == "busy":
            time.sleep(*arguments)
    print("done", flush=True)
    return total
