"""The language host against a file of the door's shape: `python3 -m unittest discover -s sdk/python/tests`."""

import json
import os
import socket
import struct
import sys
import tempfile
import textwrap
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import torpor
from torpor import _secret
from torpor._host import door as layout
from torpor._host import failure, task, wire
from torpor._host.door import Door
from torpor._host.streams import Streams

SEED = "0123456789abcdef" * 4


class Recorder(Door):
    """A door whose frames are kept when it is rung; a regular file is what is mapped."""

    def __init__(self):
        self.file = tempfile.TemporaryFile()
        os.ftruncate(self.file.fileno(), layout.MMAP_DOORBELL + 0x1000)
        super().__init__(self.file.fileno())
        self.sent = []

    def sync_clock(self):
        pass

    def _ring(self, length):
        super()._ring(length)
        frame = self._window[layout.OUTBOX : layout.OUTBOX + length]
        size, kind = wire.HEADER.unpack_from(frame)
        assert size == length - wire.HEADER_LEN
        self.sent.append((kind, frame[wire.HEADER_LEN :]))

    def put(self, frame):
        self._window[layout.INBOX : layout.INBOX + len(frame)] = frame
        struct.pack_into("<Q", self._window, layout.INBOX_LEN, len(frame))


def run(handler, value, **head):
    """Frames that one execution sends, its last one in decoded form."""
    door = Recorder()
    streams = Streams(door)
    streams.use_door(True)
    door.put(wire.start_frame({"execution": "ex_1", "seed": SEED, **head}, json.dumps(value)))
    old = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = streams.stdout, streams.stderr
    try:
        last = task.Task(handler, "t", "ab12").run(door, streams)
    finally:
        sys.stdout, sys.stderr = old
    assert door.sent[0] == (wire.STARTED, b"")
    return door.sent[1:], *last


class Frames(unittest.TestCase):
    def test_a_start_is_parsed(self):
        frame = memoryview(wire.start_frame({"execution": "e", "seed": "00"}, '["ä"]'))
        self.assertEqual(wire.parse_start(frame), ({"execution": "e", "seed": "00"}, '["ä"]'))

    def test_anything_else_is_refused(self):
        good = wire.start_frame({}, "1")
        for bad in (b"", good[:7], good[:11], good + b"x", b"\x01" + good[1:], good[:4] + b"\x09" + good[5:], good[:8] + b"\xff" * 4 + good[12:]):
            with self.assertRaises(wire.WireError):
                wire.parse_start(memoryview(bad))

    def test_texts_are_cut_in_the_middle(self):
        text = wire.cut("ä" * 100_000)
        self.assertLessEqual(len(text.encode()), wire.MAX_FAILURE_TEXT)
        self.assertIn("[...]", text)
        self.assertEqual(wire.cut("a\ud800"), "a\\ud800")


class Executions(unittest.TestCase):
    def test_a_result(self):
        logs, kind, body = run(lambda value, context: [value, context.execution_id, context.task, context.version], {"a": "ä"})
        self.assertEqual((logs, kind), ([], wire.RESULT))
        self.assertEqual(json.loads(body), [{"a": "ä"}, "ex_1", "t", "ab12"])

    def test_secrets_are_those_of_the_start(self):
        def handler(value, context):
            try:
                torpor.secret("other")
            except KeyError as error:
                return [torpor.secret("key"), type(error).__name__, isinstance(error, torpor.TorporError), str(error)]

        _secret._give(None)
        with self.assertRaises(torpor.NotInGuest):
            torpor.secret("key")
        _, _, body = run(handler, None, secrets=[{"name": "key", "value": "välue"}])
        value, name, own, text = json.loads(body)
        self.assertEqual((value, name, own), ("välue", "UnknownSecret", True))
        self.assertIn("secret 'other' is not declared", text)
        _, kind, body = run(lambda value, context: torpor.secret("key"), None)
        self.assertEqual((kind, body["exception"]), (wire.FAILED, "torpor._errors.UnknownSecret"))
        _secret._give(None)

    def test_output_goes_through_the_door(self):
        def handler(value, context):
            print("one")
            print("two", end="")
            print("oops", file=sys.stderr)
            sys.stdout.buffer.write(b"\xff" * (wire.MAX_LOG_CHUNK + 1))

        logs, kind, body = run(handler, None)
        self.assertEqual((kind, body), (wire.RESULT, b"null"))
        self.assertTrue(all(kind == wire.LOG and len(body) <= wire.MAX_LOG_CHUNK + 1 for kind, body in logs))
        out = b"".join(body[1:] for kind, body in logs if body[0] == 1)
        err = b"".join(body[1:] for kind, body in logs if body[0] == 2)
        self.assertEqual((sorted(out), err), (sorted(b"one\ntwo" + b"\xff" * (wire.MAX_LOG_CHUNK + 1)), b"oops\n"))

    def test_threads_share_the_outbox(self):
        def handler(value, context):
            threads = [threading.Thread(target=lambda n=n: [print(f"{n}:{i}") for i in range(200)]) for n in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        logs, _, _ = run(handler, None)
        lines = b"".join(body[1:] for _, body in logs).split()
        self.assertEqual(sorted(lines), sorted(f"{n}:{i}".encode() for n in range(4) for i in range(200)))

    def test_an_exception(self):
        def handler(value, context):
            try:
                {}["x"]
            except KeyError as error:
                raise ValueError("no \ud800 good") from error

        _, kind, body = run(handler, None)
        self.assertEqual(kind, wire.FAILED)
        self.assertEqual((body["kind"], body["exception"], body["message"]), ("exception", "ValueError", "no \\ud800 good"))
        self.assertIn("KeyError", body["traceback"])
        self.assertIn("test_host.py", body["traceback"])
        self.assertNotIn("task.py", body["traceback"])
        json.loads(failure.encode(body))

    def test_exceptions_that_fight_back(self):
        class Bad(Exception):
            def __str__(self):
                raise RuntimeError

        def bad(value, context):
            raise Bad

        def deep(value, context):
            return deep(value, context)

        def nothing_left(value, context):
            raise MemoryError

        self.assertEqual(run(bad, None)[2]["kind"], "exception")
        self.assertEqual(run(deep, None)[2]["exception"], "RecursionError")
        self.assertEqual(run(nothing_left, None)[2]["kind"], "out_of_memory")
        long = run(lambda value, context: int("x" * 1_000_000), None)[2]
        self.assertLessEqual(len(long["message"].encode()), wire.MAX_FAILURE_TEXT)
        self.assertLessEqual(len(long["traceback"].encode()), wire.MAX_FAILURE_TEXT)

    def test_exits(self):
        self.assertEqual(run(lambda value, context: sys.exit(3), None)[1:], (wire.FAILED, failure.of_exit(3)))
        self.assertEqual(run(lambda value, context: sys.exit(), None)[1:], (wire.RESULT, b"null"))
        logs, kind, body = run(lambda value, context: sys.exit("gone"), None)
        self.assertEqual((logs, body["exit_code"]), ([(wire.LOG, b"\x02gone\n")], 1))

    def test_results_that_are_not_json(self):
        circle = []
        circle.append(circle)
        for result, where in (
            ({"a": [1, {2}]}, "result['a'][1] is of type set"),
            ({"a": float("nan")}, "result['a'] is nan"),
            ([b"x"], "result[0] is of type bytes"),
            ({(1, 2): 3}, "result has a key of type tuple"),
            (circle, "result[0] contains itself"),
            (["\ud800"], "result[0] holds half of a surrogate pair"),
            (object, "result is of type type"),
        ):
            _, kind, body = run(lambda value, context, result=result: result, None)
            self.assertEqual((kind, body["kind"]), (wire.FAILED, "invalid_result"))
            self.assertIn(where, body["message"])

    def test_a_result_that_is_too_large(self):
        self.assertEqual(run(lambda value, context: "x" * wire.MAX_RESULT, None)[2]["kind"], "result_too_large")
        self.assertEqual(run(lambda value, context: "x" * (wire.MAX_RESULT - 2), None)[1], wire.RESULT)

    def test_random_numbers_follow_the_seed(self):
        import random

        first, second = (run(lambda value, context: random.random(), None)[2] for _ in range(2))
        self.assertEqual(first, second)

    def test_a_forked_child_writes_to_its_descriptor(self):
        def handler(value, context):
            child = os.fork()
            if child == 0:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                print("child")
                sys.stdout.flush()
                os._exit(7)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

        logs, _, body = run(handler, None)
        self.assertEqual((logs, body), ([], b"7"))


class Logging(unittest.TestCase):
    def test_the_default_gives_way_to_the_programs_own(self):
        import logging

        from torpor._host import warm

        def handler(value, context):
            logging.getLogger("a").info("one")
            logging.getLogger("a").debug("not this")
            logging.basicConfig(format="own %(message)s", level=logging.DEBUG)
            logging.debug("two")

        root = logging.getLogger()
        before = logging.lastResort, root.level
        warm.log_by_default()
        try:
            logs, _, _ = run(handler, None)
        finally:
            logging.lastResort = before[0]
            root.setLevel(before[1])
            root.handlers.clear()
        self.assertEqual(b"".join(body[1:] for _, body in logs), b"INFO:a:one\nown two\n")


class Loading(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.before = os.getcwd(), list(sys.path), set(sys.modules)

    def tearDown(self):
        os.chdir(self.before[0])
        sys.path[:] = self.before[1]
        for name in set(sys.modules) - self.before[2]:
            del sys.modules[name]
        self.folder.cleanup()

    def write(self, name, text):
        path = os.path.join(self.folder.name, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(textwrap.dedent(text))

    def load(self, entry):
        return task.load(entry, self.folder.name)

    def test_a_function_and_its_neighbours(self):
        self.write("src/main.py", "import near, far\ndef handler(input, context):\n    return near.X + far.X\n")
        self.write("src/near.py", "X = 1\n")
        self.write("far.py", "X = 2\n")
        self.assertEqual(self.load("src/main.py:handler")(None, None), 3)

    def test_a_file_named_like_a_module_of_the_library(self):
        self.write("json.py", "def handler(input, context):\n    return 4\n")
        self.assertEqual(self.load("json.py:handler")(None, None), 4)
        self.assertIs(sys.modules["json"], json)

    def test_entries_that_name_nothing(self):
        self.write("main.py", "X = 1\n")
        for entry, why in (
            ("main.py", "form FILE.py:FUNCTION"),
            ("main.py:a b", "form FILE.py:FUNCTION"),
            ("main:handler", "form FILE.py:FUNCTION"),
            ("../main.py:handler", "leaves"),
            ("/etc/main.py:handler", "leaves"),
            ("other.py:handler", "there is no file other.py"),
            ("main.py:handler", "handler does not exist in main.py"),
            ("main.py:X", "X is not a function in main.py"),
        ):
            with self.assertRaisesRegex(task.LoadError, why):
                self.load(entry)

    def test_an_async_handler(self):
        self.write("main.py", "import asyncio\nasync def handler(input, context):\n    await asyncio.sleep(0)\n    return input\n")
        self.assertEqual(self.load("main.py:handler")(5, None), 5)

    def test_tracebacks_read_no_files_later(self):
        self.write("main.py", "def handler(input, context):\n    raise OSError('lost')  # here\n")
        handler = self.load("main.py:handler")
        os.remove(os.path.join(self.folder.name, "main.py"))
        self.assertIn("# here", run(handler, None)[2]["traceback"])


class WholeHost(unittest.TestCase):
    """The process as the agent starts it, with a file in place of the device and this test in place of agent and monitor."""

    def test_from_warm_to_result(self):
        import mmap
        import select
        import subprocess

        file = tempfile.TemporaryFile()
        os.ftruncate(file.fileno(), layout.MMAP_DOORBELL + 0x1000)
        window = mmap.mmap(file.fileno(), layout.WINDOW_LEN)
        bell = mmap.mmap(file.fileno(), 0x1000, offset=layout.MMAP_DOORBELL)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(60)
        out, child_out = os.pipe()
        epoll = select.epoll()
        epoll.register(out, select.EPOLLIN)
        sdk = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        start = (
            "import sys, fcntl; sys.path.insert(0, sys.argv[1]); fcntl.ioctl = lambda *a: 0; "
            "from torpor._host import main, task; task.load.__defaults__ = (sys.argv[2],); main.main(*map(int, sys.argv[3:]))"
        )
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, "main.py"), "w") as code:
                code.write("import os\nprint('imported')\ndef handler(input, context):\n    print('hi')\n    os.write(1, b'raw')\n    return input\n")
            fds = [file.fileno(), theirs.fileno(), epoll.fileno()]
            host = subprocess.Popen(
                [sys.executable, "-I", "-c", start, sdk, folder, *map(str, fds), "64"], stdout=child_out, pass_fds=fds
            )
            try:
                self.assertEqual(ours.recv(1 << 16), b"W")
                ours.send(b"L" + json.dumps({"entry": "main.py:handler", "task": "t", "version": "ab", "portion": "main"}).encode())
                self.assertEqual(ours.recv(1 << 16), b"L")
                self.assertEqual(os.read(out, 100), b"imported\n")
                ours.send(b"G")
                frame = wire.start_frame({"execution": "ex_1", "seed": SEED}, "[1]")
                window[layout.INBOX : layout.INBOX + len(frame)] = frame
                struct.pack_into("<Q", window, layout.INBOX_LEN, len(frame))
                time.sleep(0.5)
                struct.pack_into("<Q", window, layout.INBOX_SEQ, 1)
                self.assertEqual(ours.recv(16), b"D")
                deadline = time.monotonic() + 20
                while window[layout.OUTBOX + 4] != wire.RESULT and time.monotonic() < deadline:
                    time.sleep(0.01)
                self.assertEqual(bell[layout.BELL_OUTBOX], 1)
                self.assertEqual(window[layout.OUTBOX : layout.OUTBOX + 12], struct.pack("<IB3xB", 4, wire.RESULT, 1) + b"[1]")
                ours.send(b"D")
                self.assertEqual(os.read(out, 100), b"raw")
            finally:
                host.kill()
                host.wait()


if __name__ == "__main__":
    unittest.main()
