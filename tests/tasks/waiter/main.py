"""Waits as its input says: `{"do": [["sleep", 0.2], ["call", "probe", 1], ["event"], ...]}` calls `do_sleep(0.2)` and so on, in turn, and
returns the list of what they gave. What happens on the way is in the log, one JSON object a line: `{"step": 2, "token": "..."}`.

A failure of a step ends the execution; with `"catch": true` it is the step's result instead: `{"raised": "TaskFailed", "message": "...", ...}`.
"""

import json
import os
import random
import sys
import threading
import time
import uuid
import zlib

import torpor

# Things that later steps come back to, in the order in which they were made.
handles = []
events = []
ballast = bytearray()
counter = 0
step = 0


def tell(**what):
    print(json.dumps({"step": step, **what}), flush=True)


def handler(input, context):
    global step
    results = []
    for step, (name, *arguments) in enumerate(input["do"]):
        try:
            results.append(globals()["do_" + name](*arguments))
        except torpor.TorporError as error:
            if not input.get("catch"):
                raise
            results.append(raised(error))
    return results


def raised(error):
    told = {"raised": type(error).__name__, "message": str(error)}
    for name in ("kind", "execution_id", "exception", "exit_code", "signal"):
        value = getattr(error, name, None)
        if value is not None:
            told[name] = value
    return told


def do_sleep(seconds):
    torpor.sleep(seconds)
    return None


def do_busy(seconds):
    """Time that counts as running: the machine has a timer."""
    time.sleep(seconds)
    return None


def do_call(task, input=None, timeout=None):
    return torpor.call(task, input, timeout=timeout)


def do_spawn(task, input=None):
    handles.append(torpor.spawn(task, input))
    tell(spawned=handles[-1].id)
    return handles[-1].id


def do_wait(place, timeout=None):
    handles[place].wait(timeout=timeout)
    return None


def do_done(place):
    return handles[place].done()


def do_result(place, timeout=None):
    return handles[place].result(timeout=timeout)


def do_result_of(id, timeout=None):
    return torpor.Handle(id).result(timeout=timeout)


def do_gather(timeout=None):
    return torpor.gather(handles, timeout=timeout)


def do_any(timeout=None):
    return [handles.index(handle) for handle in torpor.wait_any(handles, timeout=timeout)]


def do_event(timeout=None):
    """A new event, and its data."""
    do_new_event()
    return events[-1].wait(timeout=timeout)


def do_new_event():
    events.append(torpor.event())
    tell(token=events[-1].token)
    return events[-1].token


def do_wait_event(place, timeout=None):
    """`place`: of an event of before, or a token."""
    event = torpor.Event(place) if isinstance(place, str) else events[place]
    return event.wait(timeout=timeout)


def do_say(text):
    print(text, flush=True)
    return None


def do_fail(message):
    raise ValueError(message)


def do_count():
    """State that must outlive a park."""
    global counter
    counter += 1
    return counter


def do_fill(mib, seed=0):
    """So much memory with bytes that do not compress; `sum` gives its checksum."""
    global ballast
    ballast = bytearray(random.Random(seed).randbytes(mib << 20))
    return do_sum()


def do_sum():
    return zlib.crc32(ballast)


def do_random():
    return [os.urandom(16).hex(), str(uuid.uuid4()), random.random()]


def do_clock():
    return {"wall": time.time(), "monotonic": time.monotonic()}


def do_threads(count, seconds):
    """Waits in so many threads at once."""
    threads = [threading.Thread(target=torpor.sleep, args=(seconds,)) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return count


def do_nest(depth):
    """Calls itself, so many levels deep."""
    return depth if depth == 0 else 1 + torpor.call("waiter", {"do": [["nest", depth - 1]]})[0]


def do_exit(code):
    sys.exit(code)
