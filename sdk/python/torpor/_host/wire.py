"""Frames: ``u32 body length, u8 kind, 3 zero bytes, body``, little-endian; the kinds and bodies are those of Torpor's
``protocol`` crate (``agent.rs``). Pure functions over bytes.
"""

import json
import struct

START = 2
STARTED = 67
LOG = 68
RESULT = 69
FAILED = 70

MAX_INPUT = 6 << 20
MAX_RESULT = 6 << 20
MAX_LOG_CHUNK = 64 << 10
MAX_FAILURE_TEXT = 64 << 10

HEADER = struct.Struct("<IB3x")
HEADER_LEN = HEADER.size
_U32 = struct.Struct("<I")


class WireError(Exception):
    """Bytes in the inbox that are not what comes next."""


def parse_start(frame):
    """The header of a ``Start`` as a dict, and the input's JSON text."""
    if len(frame) < HEADER_LEN + _U32.size:
        raise WireError("the frame is cut off")
    length, kind = HEADER.unpack_from(frame)
    if kind != START or length != len(frame) - HEADER_LEN:
        raise WireError(f"frame of kind {kind} and length {length} where a Start of {len(frame) - HEADER_LEN} bytes comes next")
    (head_length,) = _U32.unpack_from(frame, HEADER_LEN)
    head_start = HEADER_LEN + _U32.size
    if head_length > len(frame) - head_start:
        raise WireError("the header of Start is cut off")
    head_end = head_start + head_length
    return json.loads(str(frame[head_start:head_end], "utf-8")), str(frame[head_end:], "utf-8")


def start_frame(head, text):
    """The other direction: for warming up, and for tests."""
    head = json.dumps(head).encode()
    body = _U32.pack(len(head)) + head + text.encode()
    return HEADER.pack(len(body), START) + body


def cut(text, limit=MAX_FAILURE_TEXT):
    """``text`` as UTF-8 can hold it, and of at most ``limit`` bytes: its start and its end where it is longer."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) > limit:
        gap = b"\n[...]\n"
        keep = (limit - len(gap)) // 2
        data = data[:keep] + gap + data[len(data) - keep :]
    return data.decode("utf-8", "ignore")
