"""A client of the load generator over TCP.

Knows: one send for a request, receives until its answer is there.
Does not know: partial sends. A request goes into the send buffer of an idle connection, BYTES <= 4096.
"""

from __future__ import annotations

import socket

from tools.benchmark.client import Client, connected


class TcpClient(Client):
    """Sends a request in one piece."""

    def connect(self, source: str) -> socket.socket:
        self.sock = connected(socket.SOCK_STREAM, source, self.plan.port)
        return self.sock

    def send(self) -> None:
        assert self.sock is not None
        self.stamp(0, self.plan.size)
        self.got = 0
        if self.sock.send(self.request) != self.plan.size:
            raise OSError("a request did not go into the send buffer")

    def take(self) -> bool:
        assert self.sock is not None
        try:
            data = self.sock.recv(self.plan.size - self.got + 1)
        except BlockingIOError:
            return False
        return self.compare(data)
