"""Asking the agent, over its socket (Torpor's docs/waits.md): for processes that are not alone in their machine. A connection for each thread; it is
blocked in the kernel while it waits, and other threads run.
"""

import json
import os
import socket
import threading

from torpor import _errors

_VARIABLE = "TORPOR_WAIT_SOCKET"
_DEFAULT = "/run/torpor.sock"
_CHUNK = 256 << 10
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_thread = threading.local()

# What the language host puts here: called when an answer says that the machine was parked since the last one.
on_resume = None


def _connect():
    path = os.environ.get(_VARIABLE) or _DEFAULT
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(path)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        connection.close()
        raise _errors.NotInGuest(f"only an execution of a task can ask for this: there is no agent at {path}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def _identity(descriptor):
    """What a number stands for now; ``None`` for nothing."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _forget():
    """Closes this thread's connection, if the program has not done so already: the number may be another file's by now."""
    _, connection, identity = _thread.__dict__.pop("connection", (None, None, None))
    if connection is None:
        return
    if _identity(connection.fileno()) == identity:
        connection.close()
    else:
        connection.detach()


def _connection():
    """This thread's, in this process: one that came with a fork is its parent's."""
    owner, connection, identity = getattr(_thread, "connection", (None, None, None))
    if owner == os.getpid() and _identity(connection.fileno()) == identity:
        return connection
    _forget()
    connection = _connect()
    _thread.connection = os.getpid(), connection, _identity(connection.fileno())
    return connection


def _line(connection):
    """One line, without its end."""
    pieces = []
    while True:
        piece = connection.recv(_CHUNK)
        if not piece:
            raise _errors.HostFailure("the agent closed the connection")
        pieces.append(piece)
        if piece.endswith(b"\n"):
            return b"".join(pieces)


def _exchange(request):
    try:
        connection = _connection()
        connection.settimeout(None)
        connection.sendall(request)
        return json.loads(_line(connection))
    except BaseException as error:
        # An answer that nobody waited for must not be taken for the next one's.
        _forget()
        if isinstance(error, OSError):
            raise _errors.HostFailure(f"the agent can't be asked: {error}") from error
        raise


def _request(what, payload):
    kind = what["ask"]
    if kind in ("call", "spawn"):
        fields = {kind: what["task"]}
    elif kind == "wait":
        fields = {"wait": what["executions"], "any": what["any"], "results": what["results"]}
    elif kind == "sleep":
        fields = {"sleep": what["ms"] / 1000}
    else:
        fields = {"event": what.get("token", "new")}
    need_by = what.get("need_by", {})
    for name, value in need_by.items():
        fields["need_by" if name == "in_ms" else "need_by_at"] = value / 1000
    if "on_late" in what:
        fields["on_late"] = what["on_late"]
    if "timeout_ms" in what:
        fields["timeout"] = what["timeout_ms"] / 1000
    text = _encode(fields).encode()
    if payload:
        # The input is JSON already.
        text = b'%b,"input":%b}' % (text[:-1], payload)
    return text + b"\n"


def _failed(error):
    """A reply for what the agent calls an error."""
    kind, execution = error["kind"], error.get("execution")
    if kind == "timeout" and execution is None:
        return {"answer": "timed_out"}
    if kind == "timeout":
        return {"answer": "waited", "executions": [{"execution": execution, "state": "cancelled"}], "timed_out": True}
    if kind == "task_failed":
        entry = {"execution": execution, "state": error["state"], "error": error.get("failure")}
        return {"answer": "waited", "executions": [entry], "timed_out": False}
    return {"answer": "refused", "kind": kind, "message": error["message"]}


def ask(what, payload=b""):
    """The answer as it would come through the door, and the values that came with it by execution (``None`` for a signal's)."""
    answer = _exchange(_request(what, payload))
    if answer.get("resumed") and on_resume is not None:
        on_resume()
    if "error" in answer:
        return _failed(answer["error"]), {}
    ok, kind = answer["ok"], what["ask"]
    if kind == "call":
        done = {"execution": answer["execution"], "state": "succeeded"}
        return {"answer": "waited", "executions": [done], "timed_out": False}, {answer["execution"]: ok}
    if kind == "wait":
        values = {entry["execution"]: entry["result"] for entry in ok if "result" in entry}
        return {"answer": "waited", "executions": ok, "timed_out": answer["timed_out"]}, values
    if kind == "event_wait":
        return {"answer": "signalled"}, {None: ok}
    if kind == "spawn":
        return {"answer": "spawned", "execution": ok}, {}
    return ({"answer": "event", "token": ok} if kind == "event" else {"answer": "slept"}), {}
