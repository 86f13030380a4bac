"""Peers that speak in datagrams: one that asks, many that ask together, and a load that never has much under way.

Knows: addresses, an echo. Does not know: servers, processes, what is done to them meanwhile.
"""

from __future__ import annotations

import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from tests.eventually import eventually
from tests.system.running import Running

Where = tuple[str, int] | str  # host and port, or the name of a unix socket
SOL_UDP, UDP_SEGMENT = 17, 103  # linux/udp.h
PATIENCE_SECONDS = 10.0
AT_ONCE = 50  # datagrams of a crowd that are under way together: a buffer has room for them
RECEIVE_BYTES = 4 * 1024 * 1024


def caller(where: Where, timeout: float = PATIENCE_SECONDS) -> socket.socket:
    """Return a connected datagram socket with a name of its own."""
    if isinstance(where, str):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.bind("")  # the kernel gives it a name, unix(7)
    else:
        sock = socket.socket(socket.AF_INET6 if ":" in where[0] else socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
    sock.settimeout(timeout)
    sock.connect(where)
    return sock


def call(sock: socket.socket, data: bytes) -> bytes:
    """Send a datagram and return the answer."""
    sock.send(data)
    return sock.recv(65_536)


def send_burst(sock: socket.socket, datagrams: Sequence[bytes]) -> None:
    """Send datagrams of one size, of which the last may be smaller, as one that the kernel cuts."""
    sock.sendmsg(datagrams, [(SOL_UDP, UDP_SEGMENT, struct.pack("@H", len(datagrams[0])))])


def take(sock: socket.socket, count: int) -> list[bytes]:
    """Return so many datagrams; fewer, if no more come."""
    found: list[bytes] = []
    try:
        while len(found) < count:
            found.append(sock.recv(65_536))
    except TimeoutError:
        pass  # who looks at the list sees what is missing
    return found


class Flows:
    """Many peers, each with a port of its own."""

    def __init__(self, where: Where, count: int) -> None:
        self.sockets = [caller(where) for _ in range(count)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sock in self.sockets:
            sock.close()

    def send(self, data: bytes = b"who") -> None:
        """Let each one send, and leave the answers for `take`."""
        for sock in self.sockets:
            sock.send(data)

    def take(self, within: float = PATIENCE_SECONDS) -> list[bytes]:
        """Return the answer of each one; empty: none came, within so many seconds for all."""
        return _first_of_each(self.sockets, time.monotonic() + within)

    def ask(self, data: bytes = b"who", within: float = PATIENCE_SECONDS) -> list[bytes]:
        """Let each one ask, a few at a time, and return the answers."""
        deadline = time.monotonic() + within
        found: list[bytes] = []
        for first in range(0, len(self.sockets), AT_ONCE):
            some = self.sockets[first : first + AT_ONCE]
            for sock in some:
                sock.send(data)
            found += _first_of_each(some, deadline)
        return found


def _first_of_each(sockets: Sequence[socket.socket], deadline: float) -> list[bytes]:
    found = []
    for sock in sockets:
        sock.settimeout(max(0.01, deadline - time.monotonic()))
        found += take(sock, 1) or [b""]
    return found


def slots_of(server: Running, answers: Iterable[bytes]) -> list[int]:
    """Return the slots of the workers that have answered with their pids; -1 for one that did not, or is gone."""
    slots = {row["pid"]: row["slot"] for row in server.workers()}
    return [slots.get(int(answer or b"0"), -1) for answer in answers]


class Load(threading.Thread):
    """Flows that each ask, check the answer, and ask again, while the block runs; one question each is under way.

    Attributes:
        answered: questions that got their whole answer.
        failures: what happened to the others; their flows ask no more.
        burst: datagrams of a question.
    """

    def __init__(self, where: Where, flows: int, burst: int = 1) -> None:
        """Prepare.

        Args:
            burst: datagrams of a question, sent as one that the kernel cuts.
        """
        super().__init__(daemon=True)
        self.answered = 0
        self.failures: list[str] = []
        self.burst = burst
        self._is_over = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._open: dict[socket.socket, tuple[list[bytes], float]] = {}  # answers still to come, since when
        for _ in range(flows):
            sock = caller(where)
            sock.setblocking(False)
            self._selector.register(sock, selectors.EVENT_READ)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self.join(2 * PATIENCE_SECONDS)
        for key in list(self._selector.get_map().values()):
            _socket_of(key).close()
        self._selector.close()

    def wait_for_more(self, count: int) -> None:
        """Wait until so many further questions have been answered."""
        wanted = self.answered + count
        eventually(lambda: self.answered >= wanted or self.failures, within=20)

    def run(self) -> None:
        for key in list(self._selector.get_map().values()):
            self._ask(_socket_of(key))
        while self._open:
            for key, _ in self._selector.select(0.1):
                self._on_answer(_socket_of(key))
            self._give_up(time.monotonic() - PATIENCE_SECONDS / 2)

    def _ask(self, sock: socket.socket) -> None:
        self._open.pop(sock, None)
        if self._is_over.is_set():
            return
        number = self.answered + len(self.failures)
        question = [b"%s.%d.%d" % (b"?" * (number % 7), number, place) for place in range(self.burst)]
        size = max(map(len, question))
        question = [part.rjust(size, b"!") for part in question]
        self._open[sock] = (question, time.monotonic())
        if self.burst > 1:
            send_burst(sock, question)
        else:
            sock.send(question[0])

    def _on_answer(self, sock: socket.socket) -> None:
        for data in _received(sock):
            expected, since = self._open.get(sock, ([b"nothing"], 0.0))
            if data != expected[0]:
                self._fail(sock, f"got {data!r} for {expected[0]!r} after {time.monotonic() - since:.3f} s")
            elif len(expected) > 1:
                self._open[sock] = (expected[1:], since)
            else:
                self.answered += 1
                self._ask(sock)

    def _give_up(self, before: float) -> None:
        for sock, (expected, since) in list(self._open.items()):
            if since < before:
                self._fail(sock, f"no answer to {expected!r}")

    def _fail(self, sock: socket.socket, reason: str) -> None:
        self.failures.append(reason)
        self._open.pop(sock, None)


def _socket_of(key: Any) -> socket.socket:
    sock: socket.socket = key.fileobj
    return sock


def _received(sock: socket.socket) -> Iterator[bytes]:
    try:
        while True:
            yield sock.recv(65_536)
    except BlockingIOError:
        return
    except ConnectionRefusedError:  # the port is closed: the answer will be missing
        return
