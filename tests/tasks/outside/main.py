"""Talks to services outside as its input says: `{"do": [["sql", "ledger", "SELECT 1"], ["sleep", 1], ...]}` calls `do_sql("ledger", "SELECT 1")` and so on,
in turn, and returns the list of what they gave. A step that fails gives `{"raised": TYPE, "message": TEXT}`.
"""

import http.client
import os
import socket
import struct
import threading
import time

import torpor

PORTS = {"ledger": 5432}
databases = {}
sockets = []
heard = []


class Database:
    """As much of PostgreSQL's protocol as simple queries need."""

    def __init__(self, place):
        if place.startswith("/"):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.connect(place)
        else:
            self.socket = socket.create_connection((place, PORTS.get(place, 5432)))
        self.file = self.socket.makefile("rb")
        self.send(b"", struct.pack("!i", 196608) + b"user\0torpor\0database\0postgres\0\0")
        self.rows()

    def send(self, kind, body):
        self.socket.sendall(kind + struct.pack("!i", len(body) + 4) + body)

    def receive(self):
        head = self.file.read(5)
        if len(head) < 5:
            raise ConnectionError("the database has closed the connection")
        kind, length = struct.unpack("!ci", head)
        return kind, self.file.read(length - 4)

    def rows(self):
        rows, error = [], None
        while True:
            kind, body = self.receive()
            if kind == b"R" and body[:4] != b"\0\0\0\0":
                raise ConnectionError("the database wants a password")
            if kind == b"E":
                error = body.decode(errors="replace")
            if kind == b"D":
                rows.append(self.row(body))
            if kind == b"Z":
                if error:
                    raise ValueError(error)
                return rows

    def row(self, body):
        (count,), at, values = struct.unpack("!h", body[:2]), 2, []
        for _ in range(count):
            (length,) = struct.unpack("!i", body[at : at + 4])
            at += 4
            values.append(None if length < 0 else body[at : at + length].decode())
            at += max(0, length)
        return values

    def query(self, sql):
        self.send(b"Q", sql.encode() + b"\0")
        return self.rows()


def handler(input, context):
    results = []
    for name, *arguments in input["do"]:
        try:
            results.append(globals()["do_" + name](*arguments))
        except (OSError, ValueError, http.client.HTTPException) as error:
            results.append({"raised": type(error).__name__, "message": str(error)})
    return results


def do_sql(place, sql):
    if place not in databases:
        databases[place] = Database(place)
    return databases[place].query(sql)


def do_hang_up(place):
    databases.pop(place).socket.close()


def do_trips(place, count):
    """Milliseconds of each of so many round trips."""
    do_sql(place, "SELECT 1")
    times = []
    for _ in range(count):
        start = time.perf_counter()
        do_sql(place, "SELECT 1")
        times.append((time.perf_counter() - start) * 1000)
    return times


def do_sleep(seconds):
    torpor.sleep(seconds)


def do_http(place, method, path, headers=None, body=None):
    connection = http.client.HTTPConnection(place, timeout=20)
    connection.request(method, path, body=body, headers=headers or {})
    answer = connection.getresponse()
    told = [answer.status, answer.read().decode(), dict(answer.getheaders())]
    connection.close()
    return told


def do_raw(place, text):
    """Sends this, and gives all that comes back."""
    with socket.create_connection((place, 80), timeout=20) as connection:
        connection.sendall(text.encode())
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer.decode(errors="replace")


def do_open(place, port):
    sockets.append(socket.create_connection((place, port), timeout=20))
    return len(sockets) - 1


def do_send(which, text):
    sockets[which].sendall(text.encode())


def do_receive(which, count):
    answer = b""
    while len(answer) < count and (piece := sockets[which].recv(count - len(answer))):
        answer += piece
    return answer.decode()


def do_echo(which, text):
    do_send(which, text)
    return do_receive(which, len(text))


def do_refused(place, port):
    """Where the connection is reset depends on who is faster."""
    with socket.create_connection((place, port), timeout=20) as connection:
        return connection.recv(1).decode()


def do_bulk(which, count):
    """So many bytes there and back, with a thread that sends; how long that took, and whether they came back as they were."""
    sockets[which].settimeout(None)
    data = os.urandom(1 << 16) * (count >> 16)
    start = time.perf_counter()
    sender = threading.Thread(target=sockets[which].sendall, args=(data,))
    sender.start()
    back = bytearray()
    while len(back) < len(data) and (piece := sockets[which].recv(1 << 16)):
        back += piece
    sender.join()
    return [time.perf_counter() - start, bytes(back) == data]


def do_close(which):
    sockets[which].close()


def do_listen(which):
    """A thread that waits for what comes."""
    sockets[which].settimeout(None)

    def listen():
        while piece := sockets[which].recv(65536):
            heard.append(piece.decode())

    threading.Thread(target=listen, daemon=True).start()


def do_heard():
    return "".join(heard)


def do_resolve(name):
    return socket.gethostbyname(name)


def do_dial(host, port):
    socket.create_connection((host, port), timeout=5).close()
    return "connected"


def do_environment():
    """Everything that a secret could be seen in."""
    found = [repr(dict(os.environ)), open("/proc/self/environ", errors="replace").read(), open("/etc/hosts").read()]
    for folder in ("/task", "/run", "/tmp", "/etc"):
        for top, _, files in os.walk(folder):
            for name in files:
                try:
                    with open(os.path.join(top, name), errors="replace") as file:
                        found.append(file.read(1 << 20))
                except OSError:
                    pass
    return "\n".join(found)
