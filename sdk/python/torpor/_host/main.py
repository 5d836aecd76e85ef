"""The states of the language host::

    warming --W--> waits for the agent (runtime template) --L--> loading --L--> at the door (task template) --Start--> running
                                                                  \\--F--> ends                  ^------- result or failure --/

Descriptors that the agent hands over:

- ``DOOR``: ``/dev/door``
- ``CONTROL``: a socket to the agent (``SOCK_SEQPACKET``, one message a packet, named by its first byte)
- ``RAW``: an epoll set of the pipes behind descriptors 1 and 2: ready while they hold what the agent has not taken yet

From ``Start`` to the last frame this calls the kernel twice: to set the clock, and to ask whether raw output is left behind.
"""

import json
import os
import select
import socket
import sys

from torpor import _wait
from torpor._host import failure, rng, task, warm, wire
from torpor._host.door import Door
from torpor._host.sockets import Sockets
from torpor._host.stand import Speaker
from torpor._host.streams import Streams

_MAX_LOAD = 64 << 10
# Texts of a load failure: they travel in one packet.
_LOAD_MESSAGE = 4 << 10
_LOAD_TRACEBACK = 24 << 10


class Host:
    """This process."""

    def __init__(self, door, control, raw, mib):
        self.door = Door(door)
        self.control = socket.socket(fileno=control)
        self.raw = select.epoll.fromfd(raw)
        self.streams = Streams(self.door)
        self.speaker = Speaker(self.door, self.streams)
        self.mib = mib
        sys.stdout = sys.__stdout__ = self.streams.stdout
        sys.stderr = sys.__stderr__ = self.streams.stderr
        sys.dont_write_bytecode = True
        rng.watch()

    def serve(self):
        """All states, in order."""
        self.kept = warm.everything(self.speaker, self.mib)
        self.control.send(b"W")
        packet = self.control.recv(_MAX_LOAD)
        if packet[:1] != b"L":
            return
        message = json.loads(packet[1:])
        loaded = self.load(message)
        if loaded is None:
            return
        if message.get("aux"):
            self.speaker.sockets = Sockets()
        # A second rehearsal: the task's imports may have replaced what the first one used.
        warm.rehearse(self.speaker)
        self.speaker.alone.look()
        warm.settle()
        self.control.send(b"L")
        if self.control.recv(16) != b"G":
            return
        self.streams.use_door(True)
        _wait.use(self.speaker)
        while True:
            # What came before was the agent's, or answers.
            self.door.take_over()
            self.door.wait()
            self.execute(loaded)

    def load(self, message):
        """The task, or ``None`` after the agent has been told why not."""
        try:
            handler = task.load(message["entry"])
            self.streams.flush()
            return task.Task(handler, message["task"], message["version"], message["portion"])
        except task.LoadError as error:
            what = failure.failure("load", str(error))
        except BaseException as error:
            what = failure.of_exception(error)
            what["message"] = f"the task's code can't be imported: {what['exception']}: {what['message']}"
            if what["kind"] != "out_of_memory":
                what["kind"] = "load"
        self.streams.flush()
        what["message"] = wire.cut(what["message"], _LOAD_MESSAGE)
        if "traceback" in what:
            what["traceback"] = wire.cut(what["traceback"], _LOAD_TRACEBACK)
        self.control.send(b"F" + failure.encode(what))
        return None

    def execute(self, loaded):
        """One execution, from the ``Start`` in the inbox to its last frame."""
        before = self.door.raw_output()
        kind, body = loaded.run(self.door, self.streams)
        drain = (self._raw_output_left(before) or self.speaker.connected()) and self._agent_hears()
        if kind == wire.RESULT:
            self.door.send_tagged(kind, int(drain), body)
        else:
            body["drain"] = drain
            self.door.send(kind, failure.encode(body))
        if drain:
            self._drain()

    def _raw_output_left(self, before):
        """Whether descriptors 1 and 2 were written to. The pipes are asked first: what the agent takes out of them it counts before."""
        try:
            left = bool(self.raw.poll(0, 1))
        except (OSError, ValueError):
            left = True
        return left or self.door.raw_output() != before

    def _agent_hears(self):
        """Not when the program has closed what is not its own."""
        try:
            return self.control.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_SEQPACKET
        except OSError:
            return False

    def _drain(self):
        """Lets the agent send the rest, after the last frame: the process must not stand at the door meanwhile."""
        try:
            self.control.send(b"D")
            self.control.recv(16)
        except OSError:
            pass


def main(door, control, raw, mib):
    """Serves one task. Never returns to the interpreter: what the task's code has registered to run at exit is not the host's."""
    host = Host(door, control, raw, mib)
    try:
        host.serve()
    finally:
        host.streams.flush()
    os._exit(0)
