"""What waits. Every function here blocks the thread that calls it, and nothing else but time is lost.

Asks leave in one of two ways: through the door, where the language host has put a speaker and this process is alone in its machine; through the
agent's socket (``_socket``) otherwise. Both give the same answers (Torpor's ``protocol`` crate, ``ask.rs``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torpor import _errors

if TYPE_CHECKING:
    from datetime import datetime, timedelta
    from typing import Literal

_MAX_INPUT = 6 << 20
_MAX_TARGETS = 10_000
_MAX_MS = 366 * 86_400_000
_ENDED = frozenset(("succeeded", "failed", "timed_out", "cancelled"))
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode

# What the language host puts here: asks through the door, or gives `None` where this process is not alone.
_speaker = None


def use(speaker):
    """From here on asks go to ``speaker`` first. For the language host."""
    global _speaker
    _speaker = speaker


def _ask(what, payload=b""):
    answer = None
    if _speaker is not None:
        answer = _speaker.ask(what, payload)
    if answer is None:
        from torpor import _socket

        answer = _socket.ask(what, payload)
    reply = answer[0]
    if reply["answer"] == "refused":
        raise _errors.refusal(reply["kind"], reply["message"])
    return answer


def _input(value):
    try:
        data = _encode(value).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise _errors.InvalidRequest(f"the input can't be written as JSON: {error}") from error
    if len(data) > _MAX_INPUT:
        raise _errors.InvalidRequest(f"the input is {len(data)} bytes of JSON, at most {_MAX_INPUT} are allowed")
    return data


def _task(name):
    if not isinstance(name, str):
        raise TypeError(f"a task is named by a str, not by {type(name).__name__}")
    return name


def _ms(seconds, what):
    """Whole ms, never less than was asked for."""
    ms = seconds * 1000
    if not ms <= _MAX_MS:
        raise _errors.InvalidRequest(f"{what} of {seconds} s: at most {_MAX_MS // 1000} s are allowed")
    return max(0, math.ceil(ms))


def _limited(what, timeout):
    if timeout is not None and timeout != math.inf:
        what["timeout_ms"] = _ms(timeout, "a timeout")
    return what


def _needed(what, need_by, on_late):
    """Adds when a result is needed: seconds from now on, a ``timedelta``, or a moment (an aware ``datetime``)."""
    if on_late not in ("run", "refuse"):
        raise ValueError(f'on_late is "run" or "refuse", not {on_late!r}')
    if on_late == "refuse":
        what["on_late"] = on_late
    if need_by is None:
        return what
    if hasattr(need_by, "timestamp"):
        if need_by.tzinfo is None:
            raise ValueError("need_by is a datetime without a time zone; use datetime.now(timezone.utc) + ..., or seconds")
        what["need_by"] = {"at_ms": max(0, math.floor(need_by.timestamp() * 1000))}
        return what
    if hasattr(need_by, "total_seconds"):
        need_by = need_by.total_seconds()
    if need_by < 0:
        raise ValueError("need_by is in the past")
    what["need_by"] = {"in_ms": _ms(need_by, "a need_by")}
    return what


def _outcome(entry, values):
    """Result, or exception, of an entry of ``waited`` that has ended."""
    if entry["state"] == "succeeded":
        return values[entry["execution"]], None
    return None, _errors.task_failure(entry["state"], entry["execution"], entry.get("error"))


def call(task: str, input: Any = None, timeout: float | None = None) -> Any:
    """Runs ``task`` (``NAME`` or ``NAME@VERSION``) on ``input``, waits for its end and gives its result.

    Raises :class:`TaskFailed` (:class:`TaskTimedOut`, :class:`TaskCancelled`) where it has none, and :class:`WaitTimeout` after ``timeout``
    seconds: the execution is cancelled then.
    """
    reply, values = _ask(_limited({"ask": "call", "task": _task(task)}, timeout), _input(input))
    entry = reply["executions"][0]
    if reply["timed_out"] and entry["state"] not in ("succeeded", "failed", "timed_out"):
        raise _errors.WaitTimeout(f"{task} was not done in {timeout} s; execution {entry['execution']} is cancelled")
    if entry.get("more"):
        return Handle(entry["execution"]).result()
    value, error = _outcome(entry, values)
    if error is not None:
        raise error
    return value


def spawn(
    task: str,
    input: Any = None,
    need_by: float | timedelta | datetime | None = None,
    on_late: Literal["run", "refuse"] = "run",
) -> Handle:
    """Starts ``task`` on ``input`` and does not wait for it. When this returns the execution is recorded and will run.

    ``need_by`` says when its result is needed: in so many seconds, or at a moment (an aware ``datetime``). While the host is busy it may be put off, and
    it is done by then. Where that is already certain to be missed it is run all the same, or with ``on_late="refuse"`` refused: :class:`Late`.
    Who waits for it before it has begun makes it as urgent as itself.
    """
    reply, _ = _ask(_needed({"ask": "spawn", "task": _task(task)}, need_by, on_late), _input(input))
    return Handle(reply["execution"])


class Portion:
    """A portion of this task, which runs in a machine of its own: other code, other rights, other secrets."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        if not isinstance(name, str):
            raise TypeError(f"a portion is named by a str, not by {type(name).__name__}")
        #: As in the task's ``torpor.toml``.
        self.name = name

    def __repr__(self) -> str:
        return f"Portion({self.name!r})"

    def call(self, input: Any = None, timeout: float | None = None) -> Any:
        """Runs the portion on ``input``, waits for its end and gives its result. As :func:`call`; raises :class:`NotAllowed` where the policies of
        both portions do not allow it.
        """
        return call(f"portion:{self.name}", input, timeout)

    def spawn(
        self,
        input: Any = None,
        need_by: float | timedelta | datetime | None = None,
        on_late: Literal["run", "refuse"] = "run",
    ) -> Handle:
        """Starts the portion on ``input`` and does not wait for it. As :func:`spawn`."""
        return spawn(f"portion:{self.name}", input, need_by, on_late)


def portion(name: str) -> Portion:
    """A portion of this task, to be called: ``torpor.portion("sign").call(x)``."""
    return Portion(name)


def sleep(seconds: float) -> None:
    """Waits. Time outside counts, whether the machine was parked meanwhile or not."""
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    ms = _ms(seconds, "a sleep")
    if ms:
        _ask({"ask": "sleep", "ms": ms})


class Handle:
    """An execution, by its id: one that :func:`spawn` started, or any other whose id is known."""

    __slots__ = ("_ended", "_outcome", "id")

    def __init__(self, id: str) -> None:
        if not isinstance(id, str):
            raise TypeError(f"an execution is named by a str, not by {type(id).__name__}")
        #: Of the execution.
        self.id = id
        self._ended = False
        self._outcome = None

    def __repr__(self) -> str:
        return f"Handle({self.id!r})"

    def __eq__(self, other: object) -> bool:
        return self.id == other.id if isinstance(other, Handle) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __getstate__(self):
        return self.id

    def __setstate__(self, state):
        self.__init__(state)

    def wait(self, timeout: float | None = None) -> Handle:
        """Waits until it has ended, however it did, and gives the handle itself. Raises :class:`WaitTimeout` after ``timeout`` seconds."""
        if not self._ended:
            _wait([self], timeout=timeout)
        if not self._ended:
            raise _errors.WaitTimeout(f"execution {self.id} has not ended in {timeout} s")
        return self

    def done(self) -> bool:
        """Whether it has ended, however it did. Does not wait."""
        if not self._ended:
            _wait([self], timeout=0)
        return self._ended

    def result(self, timeout: float | None = None) -> Any:
        """Waits until it has ended and gives its result. Raises :class:`TaskFailed` where it has none, :class:`WaitTimeout` after ``timeout``
        seconds.
        """
        if self._outcome is None:
            _wait([self], results=True, timeout=timeout)
        if self._outcome is None and self._ended:
            raise _errors.HostFailure(f"the host does not give the result of execution {self.id}")
        if self._outcome is None:
            raise _errors.WaitTimeout(f"execution {self.id} has not ended in {timeout} s")
        value, error = self._outcome
        if error is not None:
            raise error
        return value


def _handles(handles):
    return [handle if isinstance(handle, Handle) else Handle(handle) for handle in handles]


def _wait(handles, any=False, results=False, timeout=None):
    """One ask for at most ``_MAX_TARGETS`` different executions; what is learnt is put into the handles. True after a timeout."""
    by_id = {}
    for handle in handles:
        by_id.setdefault(handle.id, []).append(handle)
    what = {"ask": "wait", "executions": list(by_id), "any": any, "results": results}
    reply, values = _ask(_limited(what, timeout))
    for entry in reply["executions"]:
        if entry["state"] not in _ENDED:
            continue
        outcome = _outcome(entry, values) if results and not entry.get("more") else None
        for handle in by_id.get(entry["execution"], ()):
            handle._ended = True
            if outcome is not None:
                handle._outcome = outcome
    return reply["timed_out"]


def gather(handles: Iterable[Handle | str], timeout: float | None = None) -> list[Any]:
    """Waits until all have ended and gives their results, in order. Where some have none, raises the first one's failure, in order, after all have
    ended. Raises :class:`WaitTimeout` where they have not after ``timeout`` seconds.
    """
    handles = _handles(handles)
    missing = [handle for handle in handles if handle._outcome is None]
    if len(missing) > _MAX_TARGETS:
        raise _errors.TooMany(f"{len(missing)} executions in one wait, at most {_MAX_TARGETS} are allowed")
    if missing and _wait(missing, results=True, timeout=timeout):
        raise _errors.WaitTimeout(f"not all of {len(handles)} executions have ended in {timeout} s")
    # What did not fit into one answer is asked for alone.
    results, failed = [], None
    for handle in handles:
        try:
            results.append(handle.result())
        except _errors.TaskFailed as error:
            failed = failed or error
    if failed is not None:
        raise failed
    return results


def wait_any(handles: Iterable[Handle | str], timeout: float | None = None) -> list[Handle]:
    """Waits until at least one has ended and gives those that have, in order. After ``timeout`` seconds: those that have then, which may be none."""
    handles = _handles(handles)
    if not handles:
        return []
    waiting = [handle for handle in handles if not handle._ended]
    if len(waiting) < len(handles):
        timeout = 0
    if waiting:
        _wait(waiting, any=True, timeout=timeout)
    return [handle for handle in handles if handle._ended]


def event() -> Event:
    """Makes an event. Who knows its token may signal it, once."""
    reply, _ = _ask({"ask": "event"})
    return Event(reply["token"])


class Event:
    """An event of this execution, by its token: ``torpor signal TOKEN --data JSON``."""

    __slots__ = ("token",)

    def __init__(self, token: str) -> None:
        if not isinstance(token, str):
            raise TypeError(f"an event's token is a str, not {type(token).__name__}")
        #: To hand out.
        self.token = token

    def __repr__(self) -> str:
        return f"Event({self.token!r})"

    def wait(self, timeout: float | None = None) -> Any:
        """Waits until it is signalled and gives the data of the signal. Raises :class:`WaitTimeout` after ``timeout`` seconds."""
        reply, values = _ask(_limited({"ask": "event_wait", "token": self.token}, timeout))
        if reply["answer"] == "timed_out":
            raise _errors.WaitTimeout(f"event {self.token} was not signalled in {timeout} s")
        return values[None]
