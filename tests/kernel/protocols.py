"""Protocols that write down what they are told, for the conformance tests of the transport.

Knows: asyncio's protocol classes. Does not know: sockets, servers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tests.kernel.serving import until


class Recorder(asyncio.Protocol):
    """Keeps all that arrives, and the names of what was called."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.data = bytearray()
        self.calls: list[str] = []
        self.lost: list[BaseException | None] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.calls.append("connection_made")

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.calls.append("data_received")

    def eof_received(self) -> bool | None:
        self.calls.append("eof_received")
        return None

    def pause_writing(self) -> None:
        self.calls.append("pause_writing")

    def resume_writing(self) -> None:
        self.calls.append("resume_writing")

    def connection_lost(self, error: BaseException | None) -> None:
        self.calls.append("connection_lost")
        self.lost.append(error)


class KeepsOpen(Recorder):
    """Goes on after the peer's FIN."""

    def eof_received(self) -> bool:
        self.calls.append("eof_received")
        return True


class Echo(Recorder):
    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class LineEcho(asyncio.Protocol):
    """Answers each line by a write of its own."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        for line in data.splitlines(keepends=True):
            self.transport.write(line)


class Buffered(asyncio.BufferedProtocol):
    """Brings a small buffer of its own, and echoes what it finds there."""

    def __init__(self, size: int = 7) -> None:
        self.buffer = bytearray(size)
        self.asked: list[int] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def get_buffer(self, sizehint: int) -> bytearray:
        self.asked.append(sizehint)
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.transport.write(bytes(self.buffer[:nbytes]))


class Gathering:
    """A factory that keeps what it has made, in order."""

    def __init__(self, make: Callable[[], Any] = Recorder) -> None:
        self._make = make
        self.made: list[Any] = []

    def __call__(self) -> Any:
        self.made.append(self._make())
        return self.made[-1]

    async def first(self) -> Any:
        """Wait until the first protocol has its connection; return it."""
        await until(lambda: self.made and self.made[0].calls)
        return self.made[0]
