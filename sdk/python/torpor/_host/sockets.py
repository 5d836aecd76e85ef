"""Whether this machine has connections to auxiliary services, or what was sent over them is still in the machine: a program that stands at the door then
would keep the agent from passing it on. Only for tasks that have such services; a false yes costs time only.
"""

import os

from torpor import _socket

_FILE = "/proc/net/sockstat"
# The thread's own connection to the agent, and the agent's end of it.
_OWN = 2


def count(text):
    """Sockets that are in use, and TCP connections of which one end at least is not done."""
    found = {}
    for line in text.splitlines():
        fields = line.split()
        found[fields[0]] = dict(zip(fields[1::2], map(int, fields[2::2])))
    return found[b"sockets:"][b"used"], found[b"TCP:"][b"inuse"]


def _now():
    descriptor = os.open(_FILE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return count(os.read(descriptor, 4096))
    finally:
        os.close(descriptor)


class Sockets:
    """What is more than there was at first."""

    def __init__(self):
        self._used, self._tcp = _now()

    def open(self):
        try:
            used, tcp = _now()
        except (OSError, LookupError, ValueError):
            return True
        own = _OWN if "connection" in _socket._thread.__dict__ else 0
        return tcp > self._tcp or used > self._used + own
