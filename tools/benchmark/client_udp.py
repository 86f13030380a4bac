"""A client of the load generator over UDP, with a connected socket.

A request of several datagrams is one send with UDP_SEGMENT (udp(7)); its answers may come one by one, or together
by UDP_GRO, in any order.

Knows: the whole content of every datagram; each carries its own number.
Does not know: losses. A datagram that does not come back is an error when the run ends for want of answers.
"""

from __future__ import annotations

import socket
import struct

from tools.benchmark.client import Client, Plan, WrongAnswer, connected

READ_BYTES = 65536

# linux/udp.h; not in Python's socket module
UDP_SEGMENT = 103
UDP_GRO = 104

SIZE = struct.Struct("@i")


class UdpClient(Client):
    """Sends a request of one or more datagrams at once."""

    def __init__(self, plan: Plan, index: int) -> None:
        super().__init__(plan, index)
        self.missing: set[bytes] = set()

    def connect(self, source: str) -> socket.socket:
        self.sock = connected(socket.SOCK_DGRAM, source, self.plan.port)
        if self.plan.piece_size < self.plan.size:
            self.sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, self.plan.piece_size)
            self.sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        return self.sock

    def send(self) -> None:
        assert self.sock is not None
        for at in range(0, self.plan.size, self.plan.piece_size):
            self.stamp(at, self.plan.piece_size)
        self.missing = set(pieces(bytes(self.request), self.plan.piece_size))
        self.sock.send(self.request)

    def take(self) -> bool:
        assert self.sock is not None
        while self.missing:
            try:
                data, control, _, _ = self.sock.recvmsg(READ_BYTES, socket.CMSG_SPACE(SIZE.size))
            except BlockingIOError:
                return False
            received = pieces(data, segment_size(control) or len(data))
            if not self.missing.issuperset(received):
                raise WrongAnswer
            self.missing.difference_update(received)
        return True


def pieces(data: bytes, size: int) -> list[bytes]:
    """Return the datagrams that were sent or received at once; nothing at all is one that is empty."""
    return [data[at : at + size] for at in range(0, len(data), size)] if data else [data]


def segment_size(control: list[tuple[int, int, bytes]]) -> int | None:
    """Return what the kernel tells of datagrams that came together; None if there was only one."""
    for level, kind, value in control:
        if (level, kind) == (socket.IPPROTO_UDP, UDP_GRO):
            return int(SIZE.unpack(value)[0])
    return None
