"""Clients for tests: a steady stream that checks each answer, and crowds that wait together.

Knows: addresses, an echo. Does not know: servers, processes, what is done to them meanwhile.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from tests.system.running import exchange, receive

PAUSE_SECONDS = 0.002  # between two connections of a stream: some hundred a second leave the CPU to the server
Where = tuple[str, int] | str  # host and port, or a path


def dial(where: Where, timeout: float = 10.0) -> socket.socket:
    """Return a connection to an address."""
    if not isinstance(where, str):
        return socket.create_connection(where, timeout=timeout)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout)
    try:
        sock.connect(where)
    except OSError:
        sock.close()
        raise
    return sock


class Stream(threading.Thread):
    """Connects, asks, checks the answer, and goes, again and again, while the block runs.

    Attributes:
        answered: how many got their whole answer.
        failures: what happened to the others.
        waits: seconds that each answered one took.
    """

    def __init__(self, where: Where) -> None:
        super().__init__(daemon=True)
        self.answered = 0
        self.failures: list[str] = []
        self.waits: list[float] = []
        self._where = where
        self._is_over = threading.Event()

    def run(self) -> None:
        while not self._is_over.wait(PAUSE_SECONDS):
            begun = time.monotonic()
            request = b"request %d" % self.answered
            try:
                with dial(self._where) as sock:
                    answer = exchange(sock, request)
            except OSError as error:
                self.failures.append(f"{type(error).__name__}: {error}")
                continue
            if answer == request:
                self.answered += 1
                self.waits.append(time.monotonic() - begun)
            else:
                self.failures.append(f"got {answer!r} for {request!r}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self.join(30)


class Crowd:
    """Many connections at once, closed together."""

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []

    def come(self, where: Where, count: int, timeout: float = 10.0) -> list[socket.socket]:
        """Let so many connect; return the new ones."""
        new = []
        for _ in range(count):
            new.append(dial(where, timeout))
            self.sockets.append(new[-1])
        return new

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sock in self.sockets:
            sock.close()


def send_all(sockets: Sequence[socket.socket], data: bytes = b"hello") -> Sequence[socket.socket]:
    """Send the same on each connection, and return them; one that is lost is found out by its answer."""
    for sock in sockets:
        try:
            sock.sendall(data)
        except OSError:  # its answer will be missing
            pass
    return sockets


def answers(sockets: Sequence[socket.socket], size: int) -> list[bytes]:
    """Return what each connection gets; an error's name for one that is lost."""
    found = []
    for sock in sockets:
        try:
            found.append(receive(sock, size))
        except OSError as error:
            found.append(type(error).__name__.encode())
    return found
