"""Clients from chosen addresses of 127.0.0.0/8, and who of them is still there; what the server counted of them.

Knows: sockets, the counters of `status`. Does not know: which rules there are, why somebody is refused.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from tests.eventually import eventually
from tests.system.running import Running, receive

GONE = (b"", b"ConnectionResetError", b"BrokenPipeError")
TINY_BYTES = 4096  # of a receive buffer: the kernel takes little on its own


def listener(limits: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """Return the config of one listener on any port."""
    return {"name": "echo", "bind": "tcp://127.0.0.1:0", "app": "app:echo", "limits": limits or {}, **more}


def visit(port: int, source: str = "127.0.0.1", timeout: float = 10.0) -> socket.socket:
    """Return a connection from an address; it may be reset already: that is told by its next use."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.settimeout(timeout)
    sock.bind((source, 0))
    try:
        sock.connect(("127.0.0.1", port))
    except ConnectionResetError:  # accepted and refused before connect(2) has returned
        pass
    return sock


def ask(sock: socket.socket, data: bytes = b"hello") -> bytes:
    """Return what the echo says, or what became of the connection."""
    try:
        sock.sendall(data)
        return receive(sock, len(data))
    except OSError as error:
        return type(error).__name__.encode()


def hear(sock: socket.socket) -> bytes:
    """Return all up to the end of a connection; a reset is an end too."""
    heard = b""
    try:
        while data := sock.recv(65_536):
            heard += data
    except ConnectionResetError:  # that is how a refusal ends
        pass
    return heard


def has_ended(sock: socket.socket) -> bool:
    """Whether the server has ended a connection on which nothing else is under way."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    if not poll.poll(0):
        return False
    try:
        return not sock.recv(1, socket.MSG_PEEK)
    except OSError:
        return True


class Visitors:
    """Connections from many addresses, closed together."""

    def __init__(self, server: Running, port: int = 0) -> None:
        self.port = port or server.port()
        self.sockets: list[socket.socket] = []

    def come(self, count: int = 1, source: str = "127.0.0.1") -> list[socket.socket]:
        """Let so many connect; return those of them that are served."""
        new = [visit(self.port, source) for _ in range(count)]
        self.sockets += new
        return [sock for sock in new if ask(sock) == b"hello"]

    def one(self, source: str = "127.0.0.1") -> socket.socket:
        """Let one connect, who says nothing yet."""
        self.sockets.append(visit(self.port, source))
        return self.sockets[-1]

    def leave(self, sockets: Sequence[socket.socket]) -> None:
        """Let some go."""
        for sock in sockets:
            self.sockets.remove(sock)
            sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sock in self.sockets:
            sock.close()


def counted(server: Running, rule: str, where: str = "rejected") -> int:
    """Return how many connections have run against a rule."""
    number: int = server.status()[where][rule]
    return number


def rejections(server: Running, where: str = "rejected") -> dict[str, int]:
    """Return what has run against rules, without zeros."""
    return {rule: number for rule, number in server.status()[where].items() if number}


def told(server: Running, words: str) -> list[str]:
    """Return the lines of the log with some words."""
    return [line for line in server.log().splitlines() if words in line]


def open_connections(server: Running) -> int:
    return sum(row["connections"] for row in server.workers())


def wait_empty(server: Running, within: float = 10.0) -> None:
    """Wait until no worker has a connection."""
    eventually(lambda: open_connections(server) == 0, within=within)
