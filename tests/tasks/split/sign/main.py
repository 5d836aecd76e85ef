import os

import torpor


def sign(input, context):
    torpor.sleep(0.2)
    found = sorted(os.path.relpath(os.path.join(where, name), "/task") for where, _, names in os.walk("/task") for name in names)
    tried = ""
    try:
        torpor.call("split", {"do": "look"})
    except torpor.NotAllowed as error:
        tried = str(error)
    with open("/proc/meminfo") as info:
        memory = int(info.readline().split()[1])
    return {"files": found, "portion": context.portion, "task": context.task, "tried": tried, "memory": memory, "input": input}
