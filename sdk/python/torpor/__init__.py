"""What task code may import inside a Torpor guest.

A task of runtime ``python`` is a function ``handler(input, context)``: ``input`` is the execution's JSON input as Python
values, ``context`` is a :class:`Context`, and what it returns is the result, anything that JSON can hold.

What waits (Torpor's docs/waits.md): :func:`call`, :func:`spawn` and its :class:`Handle`, :func:`portion`, :func:`gather`, :func:`wait_any`, :func:`sleep`,
:func:`event` and its :class:`Event`. While nothing in the machine can run but such waits, the machine may be parked: the program then holds no
processor, no memory and no process, and goes on in the middle of its code when what it waited for is there. :func:`secret` gives a secret that
the manifest declares. All failures are :class:`TorporError`.
"""

from torpor._context import Context
from torpor._errors import (
    Capacity,
    HostFailure,
    InvalidRequest,
    Late,
    NotAllowed,
    NotInGuest,
    Refused,
    TaskCancelled,
    TaskFailed,
    TaskTimedOut,
    TooDeep,
    TooMany,
    TorporError,
    UnknownEvent,
    UnknownExecution,
    UnknownSecret,
    UnknownTask,
    WaitCycle,
    WaitTimeout,
)
from torpor._secret import secret
from torpor._wait import Event, Handle, Portion, call, event, gather, portion, sleep, spawn, wait_any

__all__ = [
    "Capacity",
    "Context",
    "Event",
    "Handle",
    "HostFailure",
    "InvalidRequest",
    "Late",
    "NotAllowed",
    "NotInGuest",
    "Portion",
    "Refused",
    "TaskCancelled",
    "TaskFailed",
    "TaskTimedOut",
    "TooDeep",
    "TooMany",
    "TorporError",
    "UnknownEvent",
    "UnknownExecution",
    "UnknownSecret",
    "UnknownTask",
    "WaitCycle",
    "WaitTimeout",
    "__version__",
    "call",
    "event",
    "gather",
    "portion",
    "secret",
    "sleep",
    "spawn",
    "wait_any",
]
__version__ = "0.1.0"
