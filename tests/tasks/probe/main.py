"""Does what its input says: `{"do": "raise", ...}` calls `do_raise`. Any other input is given back as it is."""

import ctypes
import logging
import mmap
import os
import random
import signal
import struct
import sys
import time
import uuid

STATE = "/tmp/state"
seen = 0


def handler(input, context):
    if isinstance(input, dict) and "do" in input:
        return globals()["do_" + input["do"]](input)
    return input


def do_raise(input):
    raise ValueError(input["message"])


def do_exit(input):
    sys.exit(input["code"])


def do_quit(input):
    os._exit(input["code"])


def do_signal(input):
    os.kill(os.getpid(), input["signal"])
    time.sleep(60)


def do_loop(input):
    while True:
        pass


def do_sleep(input):
    time.sleep(input["seconds"])
    return "slept"


def do_hog(input):
    kept = []
    while True:
        # Filled by the kernel at once: a fault for each page would take a minute where guest kernels are emulated.
        kept.append(mmap.mmap(-1, 4 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE))


def do_fork_bomb(input):
    while True:
        try:
            os.fork()
        except OSError:
            pass


def do_print(input):
    lines = "\n".join(["x" * 1023] * 64)
    for _ in range(input["bytes"] // (len(lines) + 1)):
        print(lines)
    return "printed"


def do_speak(input):
    print("on stdout", flush=True)
    print("on stderr", file=sys.stderr, flush=True)
    logging.warning("a warning")
    os.write(1, b"raw on stdout\n")
    os.system("echo from a child")
    return None


def do_tick(input):
    for number in range(input["count"]):
        print("tick", number, flush=True)
        time.sleep(input["seconds"])
    return input["count"]


def do_big(input):
    return "y" * input["bytes"]


def do_length(input):
    return len(input["text"])


def do_unserializable(input):
    return {"set": {1, 2}}


def do_nan(input):
    return float("nan")


def do_state(input):
    """What an earlier execution in the same machine would have left behind."""
    global seen
    seen += 1
    found = os.path.exists(STATE)
    with open(STATE, "w") as file:
        file.write("x")
    return {"found": found, "seen": seen, "processes": len([name for name in os.listdir("/proc") if name.isdigit()])}


def do_random(input):
    return {
        "urandom": os.urandom(16).hex(),
        "getrandom": os.getrandom(16).hex(),
        "uuid4": str(uuid.uuid4()),
        "random": random.random(),
        "clock": time.time(),
        "boot_id": open("/proc/sys/kernel/random/uuid").read().strip(),
    }


def do_who(input):
    status = open("/proc/self/status").read()
    caps = [line.split()[1] for line in status.splitlines() if line.startswith(("CapEff", "CapPrm", "CapBnd"))]
    tries = {}
    for name, action in {
        "kill_init": lambda: os.kill(1, signal.SIGKILL),
        "sysrq": lambda: open("/proc/sysrq-trigger", "w").write("c"),
        "code": lambda: open("/task/main.py", "a"),
        "root": lambda: open("/etc/passwd", "a"),
        "disk": lambda: open("/dev/vda", "rb"),
        "memory": lambda: open("/dev/mem", "rb"),
        "log": lambda: open("/dev/kmsg", "w"),
        "setuid": lambda: os.setuid(0),
        "clock": lambda: time.clock_settime(time.CLOCK_REALTIME, 0),
    }.items():
        try:
            action()
            tries[name] = "allowed"
        except (OSError, PermissionError) as error:
            tries[name] = type(error).__name__
    return {"uid": os.getuid(), "caps": caps, "tries": tries}


def do_door(input):
    """Breaks the rules of the door, at which the language host stands: its user may do with it what it wants."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == "/dev/door":
                door = int(name)
        except OSError:
            pass
    window = mmap.mmap(door, (16 << 20) - 4096)
    bell = mmap.mmap(door, 4096, offset=0x10000000)
    body = bytes.fromhex(input["body"])
    announced = input.get("announced", len(body))
    frame = struct.pack("<IB3x", announced, input["kind"]) + body
    outbox = 0x701000
    window[outbox : outbox + len(frame)] = frame
    window[0x10:0x18] = struct.pack("<Q", input.get("length", len(frame)))
    for _ in range(input.get("times", 1)):
        bell[0] = 1
    time.sleep(input.get("then_sleep", 60))
    return "still here"


def do_segfault(input):
    ctypes.string_at(0)
