"""A task's code: loading it, and running it once.

``load`` happens before the task template is taken, ``run`` in every execution. Between the two the process stands at the door.
"""

import importlib.util
import json
import linecache
import os
import sys

from torpor import _secret
from torpor._context import Context
from torpor._host import failure, rng, wire

FOLDER = "/task"

# `inspect.CO_COROUTINE`, without importing `inspect`.
_CO_COROUTINE = 0x80
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


class LoadError(Exception):
    """The entry does not name a function in the task's code."""


def _place(entry, folder):
    """File and function of ``FILE.py:FUNCTION``."""
    file, colon, function = entry.partition(":")
    path = os.path.normpath(os.path.join(folder, file))
    if not colon or not function.isidentifier() or not file.endswith(".py"):
        raise LoadError(f"entry {entry!r} is not of the form FILE.py:FUNCTION")
    if os.path.isabs(file) or not path.startswith(os.path.join(folder, "")):
        raise LoadError(f"entry {entry!r} leaves the task's folder")
    if not os.path.isfile(path):
        raise LoadError(f"entry {entry!r}: there is no file {file} in the task's folder")
    return path, function


def _module_name(path):
    """The file's own name, unless something else has it."""
    name = os.path.basename(path)[: -len(".py")]
    taken = name in sys.modules or name in sys.stdlib_module_names or not name.isidentifier()
    return f"task_{name}" if taken else name


def load(entry, folder=FOLDER):
    """The function that ``entry`` names. Raises whatever the task's code raises."""
    path, function = _place(entry, folder)
    os.chdir(folder)
    sys.argv = [path]
    for place in dict.fromkeys((folder, os.path.dirname(path))):
        sys.path.insert(0, place)
    spec = importlib.util.spec_from_file_location(_module_name(path), path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    handler = getattr(module, function, None)
    if not callable(handler):
        what = "is not a function" if hasattr(module, function) else "does not exist"
        raise LoadError(f"entry {entry!r}: {function} {what} in {os.path.relpath(path, folder)}")
    remember_sources(folder)
    return _awaited(handler) if _is_async(handler) else handler


def _is_async(handler):
    code = getattr(handler, "__code__", None)
    return code is not None and bool(code.co_flags & _CO_COROUTINE)


def _awaited(handler):
    """An ``async def`` handler as a plain one."""
    import asyncio  # large: only tasks that need it pay for it

    return lambda value, context: asyncio.run(handler(value, context))


def remember_sources(folder):
    """Puts the source lines of the task's modules where a traceback looks for them, marked as never to be compared with the file: an
    exception in an execution then reads no file.
    """
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if isinstance(path, str) and path.startswith(os.path.join(folder, "")) and path.endswith(".py"):
            lines = linecache.getlines(path)
            linecache.cache[path] = (sum(map(len, lines)), None, lines, path)


class Task:
    """A loaded task."""

    def __init__(self, handler, name, version, portion="main"):
        self.handler = handler
        self.name = name
        self.version = version
        self.portion = portion

    def run(self, door, streams):
        """One execution: takes the ``Start`` in the inbox. Returns kind, tag (or ``None``) and body of its last frame."""
        with door.frame() as frame:
            head, text = wire.parse_start(frame)
        door.sync_clock()
        door.send(wire.STARTED)
        try:
            rng.start(head["seed"])
            _secret._give(head.get("secrets", ()))
            result = self.handler(json.loads(text), Context(head["execution"], self.name, self.version, self.portion))
        except SystemExit as error:
            return self._exited(error, streams)
        except BaseException as error:
            streams.flush()
            return wire.FAILED, failure.of_exception(error)
        streams.flush()
        return self._finished(result)

    @staticmethod
    def _exited(error, streams):
        code, text = failure.exit_code(error)
        if text is not None:
            streams.stderr.write(text + "\n")
        streams.flush()
        return (wire.RESULT, b"null") if code == 0 else (wire.FAILED, failure.of_exit(code))

    @staticmethod
    def _finished(result):
        try:
            data = _encode(result).encode()
        except MemoryError as error:
            return wire.FAILED, failure.of_exception(error)
        except Exception as error:
            return wire.FAILED, failure.of_result(result, error)
        if len(data) > wire.MAX_RESULT:
            return wire.FAILED, failure.of_size(len(data))
        return wire.RESULT, data
