import os

import torpor


def files(folder):
    return sorted(os.path.relpath(os.path.join(where, name), folder) for where, _, names in os.walk(folder) for name in names)


def handler(input, context):
    what = input["do"]
    if what == "look":
        return {"files": files("/task"), "portion": context.portion}
    if what == "call":
        return torpor.portion(input["portion"]).call(input.get("input"))
    if what == "twice":
        return [torpor.portion(input["portion"]).call(number) for number in range(2)]
    if what == "refused":
        tried = {}
        for name in input["names"]:
            try:
                torpor.call(name, {"do": "look"})
                tried[name] = "called"
            except torpor.TorporError as error:
                tried[name] = f"{type(error).__name__}: {error}"
        return tried
    raise ValueError(what)
