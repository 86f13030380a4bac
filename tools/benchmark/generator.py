"""The load generator without a compiler: generator.py exchange|connect PORT CONNECTIONS BYTES LINE_BYTES

The arguments, the lines read and the lines written are those of load.c, which says what they mean.

Knows: the whole content of every answer; each request carries its own number.
Does not know: partial sends. A request goes into the send buffer of an idle connection, BYTES <= 4096.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from dataclasses import dataclass

MAX_ERRORS = 100
STALL = 3.0  # seconds without any answer that end a run
STAMP_BYTES = 8
SOURCES = 8

# linux/in.h; not in Python's socket module before 3.14
IP_BIND_ADDRESS_NO_PORT = 24


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send, and to whom."""

    is_connect: bool
    port: int
    connections: int
    size: int
    line_size: int


class Slot:
    """One connection after another, one request at a time."""

    __slots__ = ("body", "got", "number", "request", "sock")

    def __init__(self, plan: Plan, index: int) -> None:
        self.sock: socket.socket | None = None
        self.number = self.got = 0
        body = bytearray(97 + (index + i * 7) % 26 for i in range(plan.size))
        if plan.line_size:
            body[plan.line_size - 1 :: plan.line_size] = b"\n" * (plan.size // plan.line_size)
        self.body = bytes(body[STAMP_BYTES:])
        self.request = bytes(body)

    def stamp(self) -> bytes:
        self.number += 1
        if self.body:
            self.request = b"%08x" % self.number + self.body
        else:
            self.request = bytes([97 + self.number % 26]) * len(self.request)
        return self.request


class Generator:
    """A closed loop over all slots."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.poll = select.epoll()
        self.slots = [Slot(plan, index) for index in range(plan.connections)]
        self.by_fd: dict[int, Slot] = {}
        self.opened = self.in_flight = self.operations = self.errors = 0

    def _open(self, slot: Slot) -> socket.socket:
        # Clients that close first leave their port in TIME_WAIT: one source address has some 28,000 of them.
        source = f"127.0.0.{1 + self.opened % SOURCES}"
        self.opened += 1
        sock = socket.socket()
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((source, 0))
            sock.connect(("127.0.0.1", self.plan.port))
            sock.setblocking(False)
        except OSError:
            sock.close()
            raise
        self.by_fd[sock.fileno()] = slot
        self.poll.register(sock.fileno(), select.EPOLLIN)
        slot.sock = sock
        return sock

    def _close(self, slot: Slot) -> None:
        if slot.sock is None:
            return
        del self.by_fd[slot.sock.fileno()]
        slot.sock.close()
        slot.sock = None

    def _send(self, slot: Slot) -> None:
        slot.got = 0
        try:
            sock = slot.sock or self._open(slot)
            if sock.send(slot.stamp()) == self.plan.size:
                self.in_flight += 1
                return
        except OSError:
            pass  # counted below, as a short send is
        self.errors += 1
        self._close(slot)

    def _receive(self, slot: Slot) -> bytes | None:
        if slot.sock is None:
            return None
        try:
            return slot.sock.recv(self.plan.size - slot.got + 1)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def _take(self, slot: Slot) -> bool:
        """Return whether the slot may send again."""
        data = self._receive(slot)
        if data is None:
            return False
        if not data or slot.request[slot.got : slot.got + len(data)] != data:
            self.in_flight -= 1
            self.errors += 1
            self._close(slot)
            return True
        slot.got += len(data)
        if slot.got < self.plan.size:
            return False
        self.in_flight -= 1
        self.operations += 1
        if self.plan.is_connect:
            self._close(slot)
        return True

    def run(self, seconds: float) -> str:
        start = last_answer = moment = time.monotonic()
        end = start + seconds
        self.operations = self.errors = self.in_flight = 0
        for slot in self.slots:
            self._send(slot)
        while self.in_flight > 0 and self.errors < MAX_ERRORS and moment - last_answer < STALL:
            events = self.poll.poll(0.1)
            moment = time.monotonic()
            if events:
                last_answer = moment
            for fd, _ in events:
                slot = self.by_fd[fd]
                if self._take(slot) and moment < end and self.errors < MAX_ERRORS:
                    self._send(slot)
        return f"{self.operations} {self.errors + self.in_flight} {time.monotonic() - start:.6f}"


def main(arguments: list[str]) -> None:
    kind, *numbers = arguments
    generator = Generator(Plan(kind == "connect", *map(int, numbers)))
    for line in sys.stdin:
        print(generator.run(float(line.split()[1])), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
