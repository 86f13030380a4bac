"""What the clients of the load generator without a compiler have in common; client_tcp.py, client_tls.py and
client_udp.py are the three kinds.

Knows: what a request holds; each carries its own number.
Does not know: how it is sent, or what else is in flight.
"""

from __future__ import annotations

import select
import socket
from abc import ABC, abstractmethod
from dataclasses import dataclass

STAMP_BYTES = 8

# linux/in.h; not in Python's socket module before 3.14
IP_BIND_ADDRESS_NO_PORT = 24


class WrongAnswer(Exception):
    """What came back is not what was sent."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send, and to whom."""

    kind: str
    port: int
    connections: int
    size: int
    piece_size: int


class Client(ABC):
    """One connection after another, one request at a time.

    Attributes:
        events: of epoll, for which its socket is watched.
        sock: None before it is connected.
        is_waiting: whether a request is on its way.
        is_resumed: whether the connection took up a TLS session of an earlier one.
    """

    events = select.EPOLLIN

    def __init__(self, plan: Plan, index: int) -> None:
        self.plan = plan
        self.sock: socket.socket | None = None
        self.is_waiting = self.is_resumed = False
        self.number = self.got = 0
        self.request = bytearray(97 + (index + i * 7) % 26 for i in range(plan.size))
        if plan.piece_size:
            self.request[plan.piece_size - 1 :: plan.piece_size] = b"\n" * (plan.size // plan.piece_size)

    @abstractmethod
    def connect(self, source: str) -> socket.socket:
        """Return a socket that is connected from this address, and keep it."""

    @abstractmethod
    def send(self) -> None:
        """Send the next request, or begin to.

        Raises:
            OSError: it cannot be sent.
        """

    @abstractmethod
    def take(self) -> bool:
        """Take what has come, and return whether it is the whole answer.

        Raises:
            OSError: there will be no answer.
            WrongAnswer: it is not what was sent.
        """

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self.sock is not None:
            self.sock.close()
        self.sock = None

    def stamp(self, at: int, size: int) -> None:
        """Write the next number into the beginning of a piece of the request."""
        self.number += 1
        if size < STAMP_BYTES:
            self.request[at] = 97 + self.number % 26
        else:
            self.request[at : at + STAMP_BYTES] = b"%08x" % self.number

    def compare(self, data: bytes) -> bool:
        """Take a part of an answer that comes in order, and return whether it is the last.

        Raises:
            WrongAnswer: the stream has ended, or it is not what was sent.
        """
        if not data or self.request[self.got : self.got + len(data)] != data:
            raise WrongAnswer
        self.got += len(data)
        return self.got == self.plan.size


def connected(type_: socket.SocketKind, source: str, port: int) -> socket.socket:
    """Return a socket that is connected to this port of 127.0.0.1 and does not block."""
    sock = socket.socket(socket.AF_INET, type_)
    try:
        if type_ == socket.SOCK_STREAM:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((source, 0))
        sock.connect(("127.0.0.1", port))
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock
