"""Every way in which a wait fails, as exceptions."""

from __future__ import annotations


class TorporError(Exception):
    """Base of all of them."""


class NotInGuest(TorporError, RuntimeError):
    """This process is not part of an execution: there is nobody to ask."""


class UnknownSecret(TorporError, KeyError):
    """The portion's manifest does not declare a secret of that name."""

    # A KeyError's text is the repr of what it was made with.
    __str__ = Exception.__str__


class WaitTimeout(TorporError, TimeoutError):
    """What was waited for did not happen in the time that was given. A task that was called is cancelled then, one that was spawned runs on."""


class TaskFailed(TorporError):
    """An execution that was called or waited for has no result. The text is its own message."""

    def __init__(
        self,
        message: str,
        *,
        kind: str = "failed",
        execution_id: str | None = None,
        exception: str | None = None,
        traceback: str | None = None,
        exit_code: int | None = None,
        signal: int | None = None,
    ) -> None:
        super().__init__(message)
        #: For people.
        self.message = message
        #: What kind of failure it is, as the API names it: ``exception``, ``exit``, ``signal``, ``out_of_memory``, ...
        self.kind = kind
        #: Of the execution that failed.
        self.execution_id = execution_id
        #: Type of the exception that it raised.
        self.exception = exception
        #: Where it was raised.
        self.traceback = traceback
        #: Exit status of its program.
        self.exit_code = exit_code
        #: Number of the signal that ended its program.
        self.signal = signal

    def __reduce__(self):
        return _rebuilt, (type(self), self.message, {key: value for key, value in self.__dict__.items() if key != "message"})


def _rebuilt(kind, message, more):
    return kind(message, **more)


class TaskTimedOut(TaskFailed):
    """It ran longer than its own policy allows."""


class TaskCancelled(TaskFailed):
    """It was cancelled."""


class Refused(TorporError):
    """The host does not do what was asked for. The text says why."""


class UnknownTask(Refused):
    """There is no task or no version of that name."""


class UnknownExecution(Refused):
    """There is no execution with that id."""


class UnknownEvent(Refused):
    """There is no event with that token, or it is another execution's."""


class WaitCycle(Refused):
    """The execution would wait for itself. The text holds the cycle."""


class TooDeep(Refused):
    """Calls are nested too deeply."""


class TooMany(Refused):
    """Too many of something: children, waits, events, executions in one wait."""


class NotAllowed(Refused):
    """A policy does not allow it: the caller's, or that of what it would call. The text says what would have to be in which."""


class Capacity(Refused):
    """The task would never fit the host, or the host takes no new work."""


class Late(Refused):
    """The result can't be there when it is needed, and ``on_late="refuse"`` was asked for."""


class InvalidRequest(Refused, ValueError):
    """What was asked for makes no sense: an input that JSON can't hold, a time out of range."""


class HostFailure(TorporError):
    """The host failed. The text says how."""


_REFUSALS = {
    "unknown_task": UnknownTask,
    "unknown_execution": UnknownExecution,
    "unknown_event": UnknownEvent,
    "cycle": WaitCycle,
    "too_deep": TooDeep,
    "too_many": TooMany,
    "not_allowed": NotAllowed,
    "capacity": Capacity,
    "late": Late,
    "invalid": InvalidRequest,
    "host": HostFailure,
}
_ENDS = {"timed_out": TaskTimedOut, "cancelled": TaskCancelled}


def refusal(kind: str, message: str) -> TorporError:
    """The exception that a refusal is."""
    return _REFUSALS.get(kind, Refused)(message)


def task_failure(state: str, execution: str, error: dict | None) -> TaskFailed:
    """The exception that an execution without a result is."""
    error = error or {}
    more = {key: error.get(key) for key in ("exception", "traceback", "exit_code", "signal")}
    message = error.get("message") or f"execution {execution} ended as {state}"
    return _ENDS.get(state, TaskFailed)(message, kind=error.get("kind") or state, execution_id=execution, **more)
