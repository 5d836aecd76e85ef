"""Frames: ``u32 body length, u8 kind, 3 zero bytes, body``, little-endian; the kinds and bodies are those of Torpor's
``protocol`` crate (``agent.rs``). Pure functions over bytes.
"""

import json
import struct

START = 2
ANSWERS = 4
STARTED = 67
LOG = 68
RESULT = 69
FAILED = 70
ASK = 72

MAX_INPUT = 6 << 20
MAX_RESULT = 6 << 20
MAX_LOG_CHUNK = 64 << 10
MAX_FAILURE_TEXT = 64 << 10

HEADER = struct.Struct("<IB3x")
HEADER_LEN = HEADER.size
_U32 = struct.Struct("<I")


class WireError(Exception):
    """Bytes in the inbox that are not what comes next."""


def _split(frame, want, name):
    """The header as a dict, and where the payload starts."""
    if len(frame) < HEADER_LEN + _U32.size:
        raise WireError("the frame is cut off")
    length, kind = HEADER.unpack_from(frame)
    if kind != want or length != len(frame) - HEADER_LEN:
        raise WireError(f"frame of kind {kind} and length {length} where {name} of {len(frame) - HEADER_LEN} bytes comes next")
    (head_length,) = _U32.unpack_from(frame, HEADER_LEN)
    head_start = HEADER_LEN + _U32.size
    if head_length > len(frame) - head_start:
        raise WireError(f"the header of {name} is cut off")
    head_end = head_start + head_length
    return json.loads(str(frame[head_start:head_end], "utf-8")), head_end


def parse_start(frame):
    """The header of a ``Start`` as a dict, and the input's JSON text."""
    head, at = _split(frame, START, "Start")
    return head, str(frame[at:], "utf-8")


def parse_answers(frame, seq):
    """The header of ``Answers`` as a dict, and the answer to ``seq``: a dict and the values that belong to it, by execution (``None`` for the data of a
    signal); ``None`` where it is not among them.
    """
    head, at = _split(frame, ANSWERS, "Answers")
    found = None
    for answer in head["answers"]:
        values = {}
        for key, length in _payloads(answer):
            if length > len(frame) - at:
                raise WireError("the payload of Answers is cut off")
            if answer["seq"] == seq:
                values[key] = json.loads(str(frame[at : at + length], "utf-8"))
            at += length
        if answer["seq"] == seq:
            found = answer, values
    return head, found


def _payloads(answer):
    if answer["answer"] == "signalled":
        yield None, answer["len"]
    for entry in answer.get("executions", ()):
        if entry.get("result") is not None:
            yield entry["execution"], entry["result"]


def ask(head, payload):
    """The body of ``Ask``."""
    return _U32.pack(len(head)) + head + payload


def start_frame(head, text):
    """The other direction: for warming up, and for tests."""
    return _frame(START, head, text.encode())


def answers_frame(head, payload=b""):
    """The other direction: for warming up, and for tests."""
    return _frame(ANSWERS, head, payload)


def _frame(kind, head, payload):
    body = ask(json.dumps(head).encode(), payload)
    return HEADER.pack(len(body), kind) + body


def cut(text, limit=MAX_FAILURE_TEXT):
    """``text`` as UTF-8 can hold it, and of at most ``limit`` bytes: its start and its end where it is longer."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) > limit:
        gap = b"\n[...]\n"
        keep = (limit - len(gap)) // 2
        data = data[:keep] + gap + data[len(data) - keep :]
    return data.decode("utf-8", "ignore")
