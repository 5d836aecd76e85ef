"""As much of PostgreSQL's protocol 3.0 as an example needs: a connection without a password or with one in clear, and simple queries.

https://www.postgresql.org/docs/current/protocol-message-formats.html. A real task would bring a driver in its folder.
"""

import socket
import struct


class Error(Exception):
    """What the server refuses."""


def quoted(text):
    """A text as a literal of SQL; for servers with ``standard_conforming_strings``, the default."""
    if "\0" in text:
        raise ValueError("PostgreSQL keeps no zero bytes")
    return "'" + text.replace("'", "''") + "'"


class Connection:
    def __init__(self, host, port, user, database, password=None):
        self._socket = socket.create_connection((host, port))
        self._file = self._socket.makefile("rb")
        words = b"".join(word.encode() + b"\0" for word in ("user", user, "database", database))
        self._send(b"", struct.pack("!i", 3 << 16) + words + b"\0")
        for kind, body in self._messages():
            if kind == b"R" and struct.unpack("!i", body[:4]) == (3,):
                self._send(b"p", (password or "").encode() + b"\0")
            elif kind == b"R" and body[:4] != b"\0\0\0\0":
                raise Error("the server wants an authentication that this example does not know")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._send(b"X", b"")
        self._file.close()
        self._socket.close()

    def query(self, sql):
        """Runs one statement; its rows, as lists of texts and ``None``."""
        self._send(b"Q", sql.encode() + b"\0")
        rows = []
        for kind, body in self._messages():
            if kind == b"D":
                rows.append(self._row(body))
        return rows

    @staticmethod
    def _row(body):
        (count,), at, row = struct.unpack("!h", body[:2]), 2, []
        for _ in range(count):
            (size,), at = struct.unpack("!i", body[at : at + 4]), at + 4
            row.append(None if size < 0 else body[at : at + size].decode())
            at += max(size, 0)
        return row

    def _send(self, kind, body):
        self._socket.sendall(kind + struct.pack("!i", len(body) + 4) + body)

    def _messages(self):
        """Until the server is ready for the next query. Raises what it refused."""
        refused = None
        while True:
            head = self._file.read(5)
            if len(head) < 5:
                raise Error(refused or "the server closed the connection")
            kind, size = head[:1], struct.unpack("!i", head[1:])[0]
            body = self._file.read(size - 4)
            if kind == b"E":
                fields = dict((part[:1], part[1:].decode()) for part in body.split(b"\0") if part)
                refused = fields.get(b"M", "the server refused it")
            elif kind == b"Z":
                if refused:
                    raise Error(refused)
                return
            else:
                yield kind, body
