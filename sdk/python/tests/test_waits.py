"""Waits of the SDK: through a door that is a file, and through a socket; `python3 -m unittest discover -s sdk/python/tests`."""

import json
import os
import pickle
import random
import socket
import subprocess
import sys
import tempfile
import threading
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from test_host import Recorder

import torpor
from torpor import _socket, _wait
from torpor._host import alone, rng, sockets, warm, wire
from torpor._host import door as layout
from torpor._host.stand import Speaker
from torpor._host.streams import Streams

SEED = "0123456789abcdef" * 4


class Standing(Recorder):
    """A door at which somebody answers: each stand at it gives the next of the answers, made from the ask."""

    def __init__(self, *answers):
        super().__init__()
        self.answers = list(answers)
        self.synced = 0
        self._bell = self
        self.stood = 0

    def sync_clock(self):
        self.synced += 1

    def __setitem__(self, register, value):
        assert register == layout.BELL_OUTBOX

    def __getitem__(self, register):
        assert register == layout.BELL_WAIT
        self.stood += 1
        kind, body = self.sent[-1]
        assert kind == wire.ASK
        (length,) = wire._U32.unpack_from(body)
        self.ask = json.loads(body[4 : 4 + length])
        self.payload = body[4 + length :]
        head, payload = self.answers.pop(0)(self.ask)
        self.put(wire.answers_frame(head, payload))
        self.__dict__["_seen"] -= 1
        return 0


def reply(payload=b"", resumed=None, **fields):
    """What a host answers."""

    def make(ask):
        head = {"answers": [{"seq": ask["seq"], **fields}]}
        if resumed:
            head |= {"resumed": True, "seed": resumed}
        return head, payload

    return make


def ended(execution="ex_2", state="succeeded", **more):
    return {"execution": execution, "state": state, **more}


class AtTheDoor(unittest.TestCase):
    def stand(self, *answers):
        door = Standing(*answers)
        speaker = Speaker(door, Streams(door))
        speaker.rehearsing = True
        _wait.use(speaker)
        self.addCleanup(_wait.use, None)
        return door

    def test_sockets_are_counted(self):
        text = b"sockets: used 5\nTCP: inuse 3 orphan 0 tw 1 alloc 5 mem 0\nUDP: inuse 0 mem 0\n"
        self.assertEqual(sockets.count(text), (5, 3))
        with self.assertRaises(LookupError):
            sockets.count(b"")

    def test_call_gives_the_result(self):
        door = self.stand(reply(b'{"a":"\xc3\xa4"}', answer="waited", executions=[ended(result=10)], timed_out=False))
        self.assertEqual(torpor.call("t", {"ä": 1}, timeout=1.0004), {"a": "ä"})
        self.assertEqual(door.ask, {"seq": 1, "standing": True, "ask": "call", "task": "t", "timeout_ms": 1001})
        self.assertEqual(door.payload, '{"ä":1}'.encode())

    def test_an_empty_answer_is_waited_on(self):
        door = self.stand(
            lambda ask: ({"answers": []}, b""),
            lambda ask: ({"answers": [{"seq": 1 << 32, "answer": "signalled", "len": 2}]}, b"{}"),
            lambda ask: (
                {"answers": [{"seq": 1 << 33, "answer": "signalled", "len": 2}, {"seq": ask["seq"], "answer": "signalled", "len": 1}]},
                b"{}7",
            ),
        )
        self.assertEqual(torpor.Event("ev").wait(), 7)
        self.assertEqual((door.stood, len(door.sent)), (3, 1))

    def test_numbers_go_up(self):
        door = self.stand(reply(answer="slept"), reply(answer="event", token="ev"))
        torpor.sleep(0.5)
        self.assertEqual((door.ask["ms"], door.ask["seq"]), (500, 1))
        self.assertEqual(torpor.event().token, "ev")
        self.assertEqual(door.ask, {"seq": 2, "standing": True, "ask": "event"})

    def test_logs_leave_before(self):
        door = self.stand(reply(answer="slept"))
        streams = _wait._speaker.streams
        streams.use_door(True)
        streams.stdout.write("half a line")
        torpor.sleep(1)
        self.assertEqual(door.sent[0], (wire.LOG, b"\x01half a line"))

    def test_what_the_agent_left_in_the_inbox_is_not_for_us(self):
        door = self.stand(reply(answer="slept"))
        door._seen -= 5
        torpor.sleep(1)
        self.assertEqual(door.stood, 1)

    def test_failures_are_typed(self):
        error = {"kind": "exception", "message": "no", "exception": "ValueError", "traceback": "Traceback"}
        for state, kind in (("failed", torpor.TaskFailed), ("timed_out", torpor.TaskTimedOut), ("cancelled", torpor.TaskCancelled)):
            self.stand(reply(answer="waited", executions=[ended(state=state, error=error)], timed_out=False))
            with self.assertRaises(torpor.TaskFailed) as caught:
                torpor.call("t")
            self.assertIs(type(caught.exception), kind)
            again = pickle.loads(pickle.dumps(caught.exception))
            for failed in (caught.exception, again):
                self.assertEqual((str(failed), failed.kind, failed.execution_id), ("no", "exception", "ex_2"))
                self.assertEqual((failed.exception, failed.traceback, failed.exit_code), ("ValueError", "Traceback", None))

    def test_refusals_are_typed(self):
        for name, kind in {
            "unknown_task": torpor.UnknownTask,
            "cycle": torpor.WaitCycle,
            "too_many": torpor.TooMany,
            "host": torpor.HostFailure,
            "what_comes_later": torpor.Refused,
        }.items():
            self.stand(reply(answer="refused", kind=name, message="because"))
            with self.assertRaises(torpor.TorporError) as caught:
                torpor.spawn("t")
            self.assertEqual((type(caught.exception), str(caught.exception)), (kind, "because"))

    def test_timeouts(self):
        self.stand(reply(answer="waited", executions=[ended(state="cancelled")], timed_out=True))
        with self.assertRaises(TimeoutError) as caught:
            torpor.call("t", timeout=1)
        self.assertIs(type(caught.exception), torpor.WaitTimeout)
        self.stand(reply(answer="timed_out"))
        self.assertRaises(torpor.WaitTimeout, torpor.Event("e").wait, 0)
        waiting = reply(answer="waited", executions=[ended(state="running")], timed_out=True)
        door = self.stand(waiting, waiting, waiting, waiting)
        handle = torpor.Handle("ex_2")
        self.assertRaises(torpor.WaitTimeout, handle.wait, 1)
        self.assertRaises(torpor.WaitTimeout, handle.result, 1)
        self.assertFalse(handle.done())
        self.assertEqual(door.ask["timeout_ms"], 0)
        self.assertEqual(torpor.wait_any([handle], 1), [])

    def test_handles_remember(self):
        door = self.stand(
            reply(answer="spawned", execution="ex_2"),
            reply(answer="waited", executions=[ended()], timed_out=False),
            reply(b"[1]", answer="waited", executions=[ended(result=3)], timed_out=False),
        )
        handle = torpor.spawn("t")
        self.assertIs(handle.wait(), handle)
        self.assertTrue(handle.done())
        self.assertEqual((handle.result(), handle.result()), ([1], [1]))
        self.assertEqual(door.stood, 3)
        self.assertEqual(pickle.loads(pickle.dumps(handle)), handle)

    def test_spawn_says_when_it_is_needed(self):
        from datetime import datetime, timedelta, timezone

        spawned = reply(answer="spawned", execution="ex_2")
        door = self.stand(spawned, spawned, spawned, spawned, reply(answer="refused", kind="late", message="too late"))
        torpor.spawn("t", need_by=1.5)
        self.assertEqual(door.ask["need_by"], {"in_ms": 1500})
        self.assertNotIn("on_late", door.ask)
        torpor.spawn("t", need_by=timedelta(minutes=1), on_late="refuse")
        self.assertEqual((door.ask["need_by"], door.ask["on_late"]), ({"in_ms": 60_000}, "refuse"))
        torpor.spawn("t", need_by=datetime(2026, 1, 1, tzinfo=timezone.utc))
        self.assertEqual(door.ask["need_by"], {"at_ms": 1_767_225_600_000})
        torpor.portion("p").spawn(1, 2)
        self.assertEqual((door.ask["task"], door.ask["need_by"]), ("portion:p", {"in_ms": 2000}))
        self.assertRaisesRegex(torpor.Late, "too late", torpor.spawn, "t", need_by=0, on_late="refuse")
        for wrong in ({"need_by": -1}, {"need_by": datetime(2026, 1, 1)}, {"on_late": "skip"}, {"need_by": 1e12}):
            self.assertRaises(ValueError, torpor.spawn, "t", **wrong)

    def test_gather_is_in_order_and_fetches_what_did_not_fit(self):
        door = self.stand(
            reply(b"12", answer="waited", timed_out=False, executions=[ended("a", result=1), ended("b", result=1), ended("c", more=True)]),
            reply(b"3", answer="waited", timed_out=False, executions=[ended("c", result=1)]),
        )
        self.assertEqual(torpor.gather(["a", torpor.Handle("b"), "a", "c"]), [1, 2, 1, 3])
        self.assertEqual(door.ask["executions"], ["c"])
        self.assertEqual(torpor.gather([]), [])

    def test_a_host_that_keeps_a_result_back_is_named(self):
        self.stand(reply(answer="waited", timed_out=False, executions=[ended(more=True)]))
        self.assertRaises(torpor.HostFailure, torpor.Handle("ex_2").result)

    def test_gather_raises_the_first_failure(self):
        wrong = ({"kind": "exit", "message": message, "exit_code": 1} for message in ("one", "two"))
        entries = [ended("a", result=1), *(ended(name, state="failed", error=error) for name, error in zip("bc", wrong))]
        self.stand(reply(b"1", answer="waited", timed_out=False, executions=entries))
        with self.assertRaisesRegex(torpor.TaskFailed, "one"):
            torpor.gather("abc")

    def test_wait_any_gives_those_that_are_done(self):
        door = self.stand(reply(answer="waited", timed_out=False, executions=[ended("a", state="parked"), ended("b")]))
        a, b = torpor.Handle("a"), torpor.Handle("b")
        self.assertEqual(torpor.wait_any([a, b]), [b])
        self.assertEqual((door.ask["any"], door.ask["results"]), (True, False))

    def test_nonsense_is_refused_here(self):
        door = self.stand()
        for wrong in (object(), float("nan"), "\ud800", {1, 2}):
            self.assertRaises(torpor.InvalidRequest, torpor.call, "t", wrong)
        for seconds in (float("nan"), 1e12):
            self.assertRaises(torpor.InvalidRequest, torpor.sleep, seconds)
        self.assertRaises(torpor.InvalidRequest, torpor.spawn, "t", "x" * (6 << 20))
        self.assertRaises(ValueError, torpor.sleep, -1)
        self.assertRaises(TypeError, torpor.call, None)
        self.assertRaises(TypeError, torpor.Handle, None)
        self.assertEqual(door.sent, [])

    def test_a_resumed_machine_gets_time_and_entropy(self):
        rng.watch()
        door = self.stand(*[reply(answer="slept", resumed=SEED)] * 4)
        rng.start("00" * 32)
        torpor.sleep(1)
        self.assertEqual(door.synced, 1)
        self.assertEqual(random.random(), random.Random(int(SEED, 16)).random())
        random.seed(5)
        torpor.sleep(1)
        self.assertEqual(random.random(), random.Random(5).random())
        random.seed()
        torpor.sleep(1)
        self.assertEqual(random.random(), random.Random(int(SEED, 16)).random())
        random.setstate(random.Random(6).getstate())
        torpor.sleep(1)
        self.assertEqual(random.random(), random.Random(6).random())

    def test_a_rehearsal_is_complete_and_leaves_nothing(self):
        door = Recorder()
        speaker = Speaker(door, Streams(door))
        old = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = speaker.streams.stdout, speaker.streams.stderr
        warm.rehearse(speaker)
        sys.stdout, sys.stderr = old
        self.assertEqual((speaker.seq, speaker.rehearsing, _wait._speaker), (0, False, None))
        self.assertIn(wire.ASK, [kind for kind, _ in door.sent])
        self.assertEqual([kind for kind, _ in door.sent if kind == wire.FAILED], [wire.FAILED] * 3)


class Alone(unittest.TestCase):
    def test_what_moves_when_somebody_is_created(self):
        self.assertEqual(alone.created(b"0.00 0.01 0.05 1/80 1234\n"), b"80 1234\n")
        self.assertIsNone(alone.created(b"something else"))

    def test_stat_is_read_whatever_the_name(self):
        kernel = b"2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 1 0\n"
        self.assertTrue(alone.is_kernel(kernel))
        user = b"7 (a) Z (b) S 0 0 0 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 1 0\n"
        self.assertFalse(alone.is_kernel(user))
        self.assertFalse(alone.is_gone(user))
        self.assertTrue(alone.is_gone(user.replace(b") S", b") Z")))
        self.assertFalse(alone.is_gone(user.replace(b") S", b") Z").replace(b"20 0 1", b"20 0 2")))

    def test_others_are_seen(self):
        with subprocess.Popen(["sleep", "600"]) as other:
            self.assertFalse(alone.Alone().sure())
            other.kill()

    def test_what_is_known_is_not_looked_up(self):
        here = alone.Alone()
        here.look()
        here._known = here._created()
        here._look = lambda: self.fail("looked")
        if here._known == here._created():
            self.assertTrue(here.sure())

    def test_a_closed_descriptor_is_no_failure(self):
        here = alone.Alone()
        here.look()
        os.close(here._descriptor)
        here._known = b"80 1234\n"
        here._look = lambda: self.fail("looked")
        self.assertFalse(here.sure())

    def test_not_alone_is_the_agents_business(self):
        door = Standing()
        speaker = Speaker(door, Streams(door))
        speaker.alone.look = lambda: False
        self.assertIsNone(speaker.ask({"ask": "sleep", "ms": 1}, b""))
        self.assertEqual(door.sent, [])


class OverTheSocket(unittest.TestCase):
    def serve(self, *lines):
        """An agent that gives these answers, one for each request; what was asked for is kept."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = os.path.join(folder.name, "s")
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(listener.close)
        listener.bind(path)
        listener.listen()
        asked = []
        self.listener = listener
        _socket._thread.__dict__.clear()
        old = os.environ.get("TORPOR_WAIT_SOCKET")
        os.environ["TORPOR_WAIT_SOCKET"] = path
        self.addCleanup(lambda: os.environ.pop("TORPOR_WAIT_SOCKET", None) if old is None else os.environ.update(TORPOR_WAIT_SOCKET=old))
        self.addCleanup(_socket._thread.__dict__.clear)
        self.serve_more(*lines, asked=asked)
        return asked

    def serve_more(self, *lines, asked=None):
        """The same agent, for one more connection."""
        listener, asked = self.listener, [] if asked is None else asked

        def agent():
            try:
                with listener.accept()[0] as connection, connection.makefile("rb") as requests:
                    for line in lines:
                        asked.append(json.loads(requests.readline()))
                        connection.sendall(line.encode() + b"\n")
            except OSError:
                pass

        thread = threading.Thread(target=agent, daemon=True)
        thread.start()

    def test_everything(self):
        asked = self.serve(
            '{"ok":{"a":1},"execution":"ex_1"}',
            '{"ok":"ex_2"}',
            '{"ok":[{"execution":"ex_2","state":"succeeded","result":5}],"timed_out":false}',
            '{"ok":null}',
            '{"ok":"ev"}',
            '{"ok":[1]}',
            '{"ok":"ex_3"}',
        )
        self.assertEqual(torpor.call("t", {"in": "\n"}, timeout=2), {"a": 1})
        self.assertEqual(torpor.spawn("t").result(), 5)
        torpor.sleep(0.25)
        self.assertEqual(torpor.event().wait(3), [1])
        torpor.spawn("t", 1, need_by=30, on_late="refuse")
        self.assertEqual(
            asked,
            [
                {"call": "t", "input": {"in": "\n"}, "timeout": 2},
                {"spawn": "t", "input": None},
                {"wait": ["ex_2"], "any": False, "results": True},
                {"sleep": 0.25},
                {"event": "new"},
                {"event": "ev", "timeout": 3},
                {"spawn": "t", "need_by": 30, "on_late": "refuse", "input": 1},
            ],
        )

    def test_errors(self):
        failed = '{"error":{"kind":"task_failed","message":"m","execution":"ex_1","state":"timed_out","failure":{"kind":"timeout","message":"m"}}}'
        self.serve(
            failed,
            '{"error":{"kind":"timeout","message":"m","execution":"ex_1"}}',
            '{"error":{"kind":"cycle","message":"round"}}',
            '{"error":{"kind":"timeout","message":"m"}}',
        )
        with self.assertRaises(torpor.TaskTimedOut) as caught:
            torpor.call("t")
        self.assertEqual((caught.exception.kind, caught.exception.execution_id), ("timeout", "ex_1"))
        self.assertRaises(torpor.WaitTimeout, torpor.call, "t", timeout=1)
        self.assertRaisesRegex(torpor.WaitCycle, "round", torpor.Handle("x").wait)
        self.assertRaises(torpor.WaitTimeout, torpor.Event("e").wait, 1)
        # The agent of this test goes away now.
        self.assertRaises(torpor.HostFailure, torpor.sleep, 1)

    def test_a_parked_machine_is_noticed(self):
        self.serve('{"ok":null,"resumed":true}', '{"ok":null}')
        noticed = []
        old, _socket.on_resume = _socket.on_resume, lambda: noticed.append(1)
        self.addCleanup(setattr, _socket, "on_resume", old)
        torpor.sleep(1)
        torpor.sleep(1)
        self.assertEqual(noticed, [1])

    def test_a_connection_that_the_program_closed_is_made_again(self):
        self.serve('{"ok":null}')
        torpor.sleep(1)
        descriptor = _socket._thread.connection[1].fileno()
        os.close(descriptor)
        again = os.open(os.devnull, os.O_RDONLY)
        self.serve_more('{"ok":null}')
        torpor.sleep(1)
        os.close(again)

    def test_outside_of_a_guest_it_is_said_so(self):
        self.serve()
        os.environ["TORPOR_WAIT_SOCKET"] = "/nowhere/at/all"
        with self.assertRaisesRegex(torpor.NotInGuest, "only an execution"):
            torpor.sleep(1)


if __name__ == "__main__":
    unittest.main()
