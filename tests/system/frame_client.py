"""A client that speaks in frames, with the framing that the server has.

Knows: sockets, framings. Does not know: servers, what a frame means.
"""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Any, Self

from tests.system.running import Running

ENDED = "the connection ended"


class FrameClient:
    """One connection; the framing is a value of `prefork`, the same as the server's config describes."""

    def __init__(self, server: Running, listener: str, framing: Any) -> None:
        self.socket: socket.socket = server.connect(listener)
        self._framing = framing
        self._decoder = framing.decoder()
        self._frames: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, *frames: Any) -> None:
        """Send frames, all in one piece."""
        self.socket.sendall(b"".join(map(self._framing.encode, frames)))

    def send_in_pieces(self, size: int, *frames: Any) -> None:
        """Send frames in pieces of so many bytes, each of which leaves at once."""
        data = b"".join(map(self._framing.encode, frames))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(data), size):
            self.socket.sendall(data[at : at + size])

    def read(self, count: int) -> list[Any]:
        """Return so many frames, ENDED in the place of those that will never come."""
        while len(self._frames) < count:
            data = self._receive()
            if not data:
                self._frames.append(ENDED)
                break
            self._frames += self._decoder.feed(data)
        found, self._frames = self._frames[:count], self._frames[count:]
        return found

    def read_rest(self) -> list[Any]:
        """Return all frames up to the end of the connection."""
        while data := self._receive():
            self._frames += self._decoder.feed(data)
        found, self._frames = self._frames, []
        return found

    def is_cut(self) -> bool:
        """Whether the server has ended the connection, found out by sending it one byte more."""
        try:
            self.socket.sendall(b"x")
        except OSError:
            return True
        return False

    def _receive(self) -> bytes:
        try:
            return self.socket.recv(65_536)
        except ConnectionResetError:
            return b""
