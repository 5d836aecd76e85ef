"""From an exception, or from a result that JSON can't hold, to the ``Failure`` of Torpor's protocol. Nothing in here raises, whatever
the program's classes do.
"""

import json
import math
import traceback

from torpor._host import wire

_MAX_DEPTH = 200
_HOST = __name__.rpartition(".")[0] + "."


def failure(kind, message, **more):
    """A ``Failure`` as a dict."""
    return {"kind": kind, "message": wire.cut(message), **more}


def encode(what):
    """The body of ``Failed``."""
    return json.dumps(what, separators=(",", ":"), ensure_ascii=False).encode()


def type_name(kind):
    """As a traceback names it."""
    try:
        module, name = kind.__module__, kind.__qualname__
        return name if module in ("builtins", "__main__") else f"{module}.{name}"
    except Exception:  # a metaclass may do anything
        return "an exception"


def _message(error):
    try:
        return str(error)
    except Exception as second:
        return f"<its message can't be made: {type_name(type(second))}>"


def _without_host(trace):
    """The traceback from the first frame on that is the program's own."""
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith(_HOST):
        trace = trace.tb_next
    return trace


def _traceback(error):
    try:
        return wire.cut("".join(traceback.format_exception(type(error), error, _without_host(error.__traceback__))))
    except Exception as second:
        return f"<its traceback can't be made: {type_name(type(second))}>"


def of_exception(error):
    """The failure that an exception is."""
    kind = "out_of_memory" if isinstance(error, MemoryError) else "exception"
    name = type_name(type(error))
    text = _message(error)
    if kind == "out_of_memory":
        text = f"out of memory: {text or 'an allocation failed'}"
    return failure(kind, text or name, exception=wire.cut(name, 1 << 10), traceback=_traceback(error))


def exit_code(error):
    """The status that ``SystemExit`` asks for, and what Python would print about it."""
    code = error.code
    if code is None:
        return 0, None
    if isinstance(code, int):
        return code & 0xFF, None
    return 1, _message(error)


def of_exit(code):
    """The failure of a program that asked for a status other than 0."""
    return failure("exit", f"the program ended with exit status {code}", exit_code=code)


def of_size(size):
    """The failure of a result that is too large."""
    return failure("result_too_large", f"the result is {size} bytes of JSON, at most {wire.MAX_RESULT} are allowed")


def of_result(result, error):
    """The failure of a result that is not JSON; ``error`` is what the encoder said."""
    try:
        where = _find(result, "result", set(), 0)
    except Exception:
        where = None
    return failure("invalid_result", where or f"the result can't be written as JSON: {type_name(type(error))}: {_message(error)}")


def _find(value, path, inside, depth):
    """What in ``value`` JSON can't hold, and where; ``None`` for nothing."""
    if value is None or isinstance(value, (bool, int)):
        return None
    if isinstance(value, str):
        return _string(value, path)
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{path} is {value!r}, which JSON can't hold"
    if not isinstance(value, (dict, list, tuple)):
        return f"{path} is of type {type_name(type(value))}, which JSON can't hold"
    if id(value) in inside:
        return f"{path} contains itself"
    if depth >= _MAX_DEPTH:
        return f"{path[:200]}... is nested too deeply"
    inside.add(id(value))
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(value, dict) and not isinstance(key, (str, int, float, bool, type(None))):
            return f"{path} has a key of type {type_name(type(key))}, which JSON can't hold"
        if isinstance(key, str) and (found := _string(key, f"a key of {path}")):
            return found
        if found := _find(item, f"{path}[{key!r}]", inside, depth + 1):
            return found
    inside.discard(id(value))
    return None


def _string(text, path):
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"{path} holds half of a surrogate pair, which is not text"
    return None
