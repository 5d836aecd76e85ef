"""Whether this process is alone in its machine: no other thread, no other process but PID 1 and the kernel's threads.

Exact, and one system call where nothing was created since it was last known: the kernel numbers what it creates, and the end of
``/proc/loadavg`` is how many threads there are, and the last number given. As long as both stay what they were, nobody was created. Otherwise
it is looked.
"""

import os

_PF_KTHREAD = 0x00200000
# Numbers below are never given a second time: what was a thread of the kernel once is that, or nobody.
_NEVER_AGAIN = 300
_OF_A_FOLDER = 2
_LOADAVG = "/proc/loadavg"


def created(loadavg):
    """The part of ``/proc/loadavg`` that moves when somebody is created."""
    _, slash, rest = loadavg.rpartition(b"/")
    return rest if slash else None


def is_kernel(stat):
    """Whether ``/proc/PID/stat`` is that of a thread of the kernel. Its name, in parentheses, may hold anything."""
    return bool(int(stat.rpartition(b")")[2].split()[6]) & _PF_KTHREAD)


def is_gone(stat):
    """Whether it is that of a process which has ended and was not waited for."""
    fields = stat.rpartition(b")")[2].split()
    return fields[0] in (b"Z", b"X") and int(fields[17]) <= 1


def _stat(pid):
    """``None`` where it is gone."""
    try:
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(descriptor, 4096)
    except OSError:
        return None
    finally:
        os.close(descriptor)


class Alone:
    """What is known about it."""

    def __init__(self):
        self._known = None
        self._kernel = frozenset()
        self._descriptor = None

    def _created(self):
        """``None`` where it can't be told: the program has closed descriptors that are not its own, and may have opened others in their place."""
        try:
            return created(os.pread(self._descriptor, 128, 0))
        except (OSError, TypeError):
            return None

    def sure(self):
        """Whether it is. A program that has closed what is not its own is left to the agent: the door's descriptor is gone as well."""
        now = self._created()
        if now is None and self._known is not None:
            return False
        return True if now is not None and now == self._known else self.look()

    def look(self):
        """The same, the slow way."""
        try:
            return self._look()
        except (OSError, ValueError, IndexError):
            return False

    def _look(self):
        if self._descriptor is None:
            self._descriptor = os.open(_LOADAVG, os.O_RDONLY | os.O_CLOEXEC)
        # First the count: who comes while it is looked makes it differ the next time.
        now = self._created()
        if now is None:
            return False
        if os.stat("/proc/self/task").st_nlink != _OF_A_FOLDER + 1:
            return False
        kernel, known = set(), {1, os.getpid()} | self._kernel
        for name in os.listdir("/proc"):
            if not name.isdigit() or (pid := int(name)) in known:
                continue
            stat = _stat(pid)
            if not stat or is_gone(stat):
                continue
            if not is_kernel(stat):
                return False
            kernel.add(pid)
        self._kernel |= {pid for pid in kernel if pid < _NEVER_AGAIN}
        self._known = now
        return True
