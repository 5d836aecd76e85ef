"""What is better done before a template is taken than in an execution: imports, first uses, and memory.

A guest pays dearly for a page that its kernel has to give it; a page that is there already when the template is taken costs an execution
next to nothing.
"""

import ctypes
import faulthandler
import gc
import importlib
import logging
import random
import threading

import torpor
from torpor import _secret, _wait
from torpor._host import failure, wire
from torpor._host.task import Task

# What many programs import and costs little. What draws in large libraries (hashlib, ssl, asyncio) is left to the tasks that use it: it is
# imported when their template is made.
MODULES = (
    "base64 bisect collections contextlib copy csv dataclasses datetime decimal enum functools heapq io itertools json logging math operator os pathlib "
    "random re string struct subprocess textwrap threading time traceback types typing urllib.parse uuid"
).split()

_ROUNDS = 3


def imports():
    """Imports them."""
    for name in MODULES:
        importlib.import_module(name)


def memory(mib):
    """Makes the allocators take memory from the kernel and keep it: a tenth of the guest's, for programs to use. It is zero, so a template's file
    does not hold it.
    """
    budget = (mib << 20) // 10
    # Small objects: arenas stay with the interpreter as long as one object in them lives, so a few are kept.
    small = [bytes(480) for _ in range(budget // 2 // 512)]
    kept = small[:: 1 << 10]
    small = None
    # Larger ones come from the C library, which gives nothing back (see the agent's environment). A page is there once it was written to.
    large = []
    for _ in range(budget // 2 // (64 << 10)):
        large.append(piece := bytearray(64 << 10))
        piece[::4096] = bytes(16)
    large = None
    return kept


def stay_in_memory():
    """Keeps the pages of the interpreter and its libraries in memory. Without, a program that uses all memory up makes the kernel read them from
    the disk again and again, for a minute, before it says that memory is short.
    """
    current, on_fault = 1, 4
    ctypes.CDLL(None).mlockall(current | on_fault)


def _deep(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return repr(value)


def _rehearsal(value, _context):
    """A handler that uses what handlers use."""
    print("rehearsal", value)
    logging.getLogger("rehearsal").info("value %s", value)
    random.random()
    torpor.sleep(0.001)
    torpor.call("rehearsal", value, timeout=60)
    return {"value": value, "list": [1, 2.5, None, True, "ä"]}


def _failing(value, _context):
    raise ValueError(value)


def log_by_default():
    """Records from INFO on go to standard error, until the program configures logging itself: no handler of ours is in its way."""
    last_resort = logging._StderrHandler(logging.INFO)
    last_resort.setFormatter(logging.Formatter(logging.BASIC_FORMAT))
    logging.lastResort = last_resort
    logging.getLogger().setLevel(logging.INFO)


def _answer(speaker):
    """What the host would say to the last ask, after the machine was parked."""
    done = {"execution": "ex_00000000000000000000000001", "state": "succeeded", "result": 2}
    reply = {"seq": speaker.seq, "answer": "waited", "executions": [done], "timed_out": False}
    return wire.answers_frame({"resumed": True, "seed": "00" * 32, "answers": [reply]}, b"{}")


def rehearse(speaker):
    """Complete executions through the very code that serves real ones; nobody hears of them."""
    door, streams = speaker.door, speaker.streams
    head = {"execution": "ex_00000000000000000000000000", "seed": "00" * 32}
    state = random.getstate()
    start = wire.start_frame(head, '{"name": ["rehearsal", 1, 2.5, null, true, "\\u00e4"]}')
    streams.use_door(True)
    _wait.use(speaker)
    speaker.rehearsing = True
    try:
        for handler in (_rehearsal, _failing, lambda value, context: None) * _ROUNDS:
            door.rehearse(start, lambda: _answer(speaker))
            kind, body = Task(handler, "rehearsal", "0").run(door, streams)
            if kind == wire.RESULT:
                door.send_tagged(kind, 0, body)
            else:
                door.send(kind, failure.encode(body))
    finally:
        speaker.rehearsing = False
        speaker.seq = 0
        _wait.use(None)
        _secret._give(None)
        streams.use_door(False)
        door.open_up()
        random.setstate(state)


def threads(count):
    """Stacks of threads that have ended are kept for later ones."""
    together = threading.Barrier(count + 1)
    running = [threading.Thread(target=together.wait) for _ in range(count)]
    for thread in running:
        thread.start()
    together.wait()
    for thread in running:
        thread.join()


def settle():
    """What is there now stays: the collector never looks at it again, so an execution does not write to its pages."""
    gc.collect()
    gc.freeze()


def everything(speaker, mib):
    """All of it, for the runtime template."""
    imports()
    log_by_default()
    # A crash in C code leaves a traceback among the logs.
    faulthandler.enable()
    kept = memory(mib)
    _deep(400)
    threads(2)
    rehearse(speaker)
    stay_in_memory()
    settle()
    return kept
