"""``sys.stdout`` and ``sys.stderr`` of a program: text streams whose bytes leave through the door as they are flushed, without a
call of the kernel.

They say that they are descriptors 1 and 2, and processes that inherit those write to pipes that the agent reads. In a forked
child, and before the code is loaded, the streams write to the pipes as well.
"""

import io
import os

from torpor._host import wire

STDOUT = 1
STDERR = 2
_BUFFER = 8 << 10


class Raw(io.RawIOBase):
    """The bytes of one stream."""

    def __init__(self, door, number):
        super().__init__()
        self._door = door
        self._number = number
        self._through_door = False

    def use_door(self, use):
        """Whether the bytes go through the door, or to the descriptor."""
        self._through_door = use

    def writable(self):
        return True

    def fileno(self):
        return self._number

    def isatty(self):
        return False

    def write(self, data):
        view = memoryview(data).cast("B")
        if not self._through_door:
            return os.write(self._number, view)
        for start in range(0, len(view), wire.MAX_LOG_CHUNK):
            self._door.send_tagged(wire.LOG, self._number, view[start : start + wire.MAX_LOG_CHUNK])
        return len(view)


class Streams:
    """Both of them."""

    def __init__(self, door):
        self._door = door
        self._raw = (Raw(door, STDOUT), Raw(door, STDERR))
        self.stdout, self.stderr = (
            io.TextIOWrapper(io.BufferedWriter(raw, _BUFFER), encoding="utf-8", errors="backslashreplace", line_buffering=True)
            for raw in self._raw
        )
        for stream, name in ((self.stdout, "<stdout>"), (self.stderr, "<stderr>")):
            stream.mode = "w"
            stream.buffer.raw.name = name
        os.register_at_fork(after_in_child=self._after_fork)

    def use_door(self, use):
        """Whether both go through the door."""
        for raw in self._raw:
            raw.use_door(use)

    def flush(self):
        """Sends what is buffered. A program may have closed or replaced its streams: that is no failure of it."""
        for stream in (self.stdout, self.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                pass

    def _after_fork(self):
        self.use_door(False)
        self._door.close_in_child()
