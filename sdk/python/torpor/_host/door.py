"""The guest's side of the door (Torpor's docs/door.md): a window of shared memory, and a doorbell.

Owns both mappings. The monitor writes the inbox only while ``wait`` stands still and reads the outbox only inside a ring, so
between these both are plain memory. Nothing here but ``sync_clock`` calls the kernel: that is the point of the door.

The doorbell takes one-byte accesses only, which is what an index of an ``mmap`` object is.
"""

import fcntl
import mmap
import struct
import threading

from torpor._host import wire

INBOX_SEQ = 0x00
INBOX_LEN = 0x08
OUTBOX_LEN = 0x10
RAW_OUTPUT = 0x18
INBOX = 0x1000
OUTBOX = 0x701000
BOX_SIZE = 7 << 20
WINDOW_LEN = (16 << 20) - 0x1000
MMAP_DOORBELL = 0x10000000
BELL_OUTBOX = 0x00
BELL_WAIT = 0x08
IOCTL_SYNC = 0x4401

_U64 = struct.Struct("<Q")
_TAGGED = struct.Struct("<IB3xB")
_PAYLOAD = OUTBOX + _TAGGED.size


class _Rehearsal:
    """A doorbell that rings nowhere."""

    def __init__(self, door, answer):
        self._door = door
        self._answer = answer

    def __setitem__(self, register, value):
        pass

    def __getitem__(self, register):
        self._door._put(self._answer())
        # The sequence number is the monitor's: what was seen goes back instead.
        self._door._seen -= 1
        return 0


class Door:
    """``/dev/door``, mapped."""

    def __init__(self, descriptor):
        self._descriptor = descriptor
        self._window = mmap.mmap(descriptor, WINDOW_LEN)
        self._bell = mmap.mmap(descriptor, 0x1000, offset=MMAP_DOORBELL)
        for mapping in (self._window, self._bell):
            # A child that is forked must not speak for the program.
            mapping.madvise(mmap.MADV_DONTFORK)
        self._seen = self._word(INBOX_SEQ)
        self._real_bell = self._bell
        # Threads of the program write to the same outbox.
        self._lock = threading.Lock()

    def _word(self, offset):
        return _U64.unpack_from(self._window, offset)[0]

    def wait(self):
        """Stands at the door until a message is in the inbox. The whole guest stands still meanwhile."""
        while self._word(INBOX_SEQ) == self._seen:
            self._bell[BELL_WAIT]
        self._seen = self._word(INBOX_SEQ)

    def take_over(self):
        """What came so far was for the agent."""
        self._seen = self._word(INBOX_SEQ)

    def frame(self):
        """The frame in the inbox, as a view that must be released before the next ``wait``."""
        length = self._word(INBOX_LEN)
        if length > BOX_SIZE:
            raise wire.WireError(f"the inbox can't hold {length} bytes")
        return memoryview(self._window)[INBOX : INBOX + length]

    def sync_clock(self):
        """Sets the guest's wall clock from the host's."""
        fcntl.ioctl(self._descriptor, IOCTL_SYNC)

    def raw_output(self):
        """A count that moves when the agent takes raw output of descriptors 1 and 2."""
        return self._word(RAW_OUTPUT)

    def send(self, kind, body=b""):
        """One frame."""
        with self._lock:
            wire.HEADER.pack_into(self._window, OUTBOX, len(body), kind)
            start = OUTBOX + wire.HEADER_LEN
            self._window[start : start + len(body)] = body
            self._ring(wire.HEADER_LEN + len(body))

    def send_tagged(self, kind, tag, payload):
        """One frame whose body is one byte and a payload."""
        with self._lock:
            _TAGGED.pack_into(self._window, OUTBOX, len(payload) + 1, kind, tag)
            self._window[_PAYLOAD : _PAYLOAD + len(payload)] = payload
            self._ring(_TAGGED.size + len(payload))

    def _ring(self, length):
        _U64.pack_into(self._window, OUTBOX_LEN, length)
        self._bell[BELL_OUTBOX] = 1

    def rehearse(self, frame, answer):
        """From here to ``open_up`` nobody hears the bell, and ``frame`` is what is in the inbox: for warming up. Who waits finds what ``answer()``
        gives there.
        """
        self._bell = _Rehearsal(self, answer)
        self._put(frame)

    def _put(self, frame):
        self._window[INBOX : INBOX + len(frame)] = frame
        _U64.pack_into(self._window, INBOX_LEN, len(frame))

    def open_up(self):
        """Ends a rehearsal."""
        self._bell = self._real_bell

    def close_in_child(self):
        """In a forked child, where the window is not mapped: a use of it would end the child without a word."""
        self._bell = self._window = self._real_bell = None
        self._lock = threading.Lock()
