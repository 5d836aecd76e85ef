"""Asking through the door, for a process that is alone in its machine: it sends its ask and stands at the door until the answer is in the inbox. The
kernel has no part in it.
"""

import json
import os
import time

from torpor import _socket, _wait
from torpor._host import rng, wire
from torpor._host.alone import Alone

_TURN = 0.001
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Speaker:
    """What ``torpor._wait`` asks first. Only the process that the door was given to has one."""

    def __init__(self, door, streams):
        self.door = door
        self.streams = streams
        self.alone = Alone()
        # In a rehearsal it stands at the door whoever else is there.
        self.rehearsing = False
        self.seq = 0
        # Of a task that has auxiliary services.
        self.sockets = None
        _socket.on_resume = rng.resume
        os.register_at_fork(after_in_child=lambda: _wait.use(None))

    def ask(self, what, payload):
        """The answer, and the values that came with it by execution (``None`` for a signal's). ``None`` for both: others are there, ask the agent."""
        # Logs are out before the machine may be parked, whoever asks.
        self.streams.flush()
        if not self.rehearsing and (not self.alone.sure() or self.connected()):
            return None
        self.seq = seq = self.seq + 1
        body = wire.ask(_encode({"seq": seq, "standing": True, **what}).encode(), payload)
        # The agent may have been at the door meanwhile.
        self.door.take_over()
        self.door.send(wire.ASK, body)
        body = None
        while True:
            self.door.wait()
            with self.door.frame() as frame:
                head, answer = wire.parse_answers(frame, seq)
            if head.get("resumed"):
                self.resumed(head.get("seed"))
            if answer is not None:
                return answer
            # Something is on its way to the agent: it gets its turn.
            time.sleep(_TURN)

    def connected(self):
        """Something is on its way to or from an auxiliary service, or may come."""
        return self.sockets is not None and self.sockets.open()

    def resumed(self, entropy):
        """The machine was parked."""
        try:
            self.door.sync_clock()
        except OSError:
            pass  # The program has closed the door's descriptor: its clock is its own business.
        rng.resume(entropy)
