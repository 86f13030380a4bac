"""A connection without a socket: a transport that writes down what it is told, on a plain asyncio loop.

Knows: what connections ask of their transport. Does not know: sockets, epoll.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from prefork.config.limits import Limits
from prefork.framing import Framing
from prefork.net.connection import Connection
from prefork.net.framed_connection import FramedConnection
from prefork.net.service import Draining, Service, Worksite
from prefork.net.tally import Tally
from prefork.scoreboard import PAGE_BYTES

Act = Callable[[Connection], Coroutine[Any, Any, object]]


class FakeTransport:
    """The far side of a connection's protocol."""

    peer = ("192.0.2.1", 4711)
    serial = 12

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.is_paused = False
        self.pauses = 0
        self.is_closed = False
        self.owes: bool | None = None
        self.held: bytes | None = None
        self.protocol: Any = None
        self.service: Any = None

    @property
    def is_mid_frame(self) -> bool:
        return bool(getattr(self.protocol, "is_mid_frame", False))

    def write(self, data: bytes) -> None:
        self.written.append(bytes(data))

    def pause_reading(self) -> None:
        self.is_paused = True
        self.pauses += 1

    def resume_reading(self) -> None:
        self.is_paused = False
        if getattr(self.protocol, "frame_begun", None) is not None:
            self.protocol.frame_begun = self.service.now

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("192.0.2.2", 9000) if name == "sockname" else default


def new_service(limits: Limits | None = None, framing: Framing | None = None) -> Service:
    page = memoryview(bytearray(PAGE_BYTES)).cast("Q")
    site = Worksite(asyncio.get_running_loop(), None, Tally(page), Draining(), "0.g1.99")  # type: ignore[arg-type]
    return Service("fake", limits or Limits(), framing, site)


class Scene:
    """A connection, its handler's task, and what arrives."""

    def __init__(self, handler: Act, limits: Limits | None = None, framing: Framing | None = None) -> None:
        self.service = new_service(limits, framing)
        self.transport = FakeTransport()
        self.conn = (FramedConnection if framing else Connection)(self.service, handler)
        self.transport.protocol, self.transport.service = self.conn, self.service
        self.conn.connection_made(self.transport)

    async def arrive(self, *pieces: bytes) -> None:
        """Let bytes arrive as the transport delivers them: from the loop, one after the other."""
        for piece in pieces:
            asyncio.get_running_loop().call_soon(self.conn.data_received, piece)
        await self.settle()

    async def end(self, error: BaseException | None = None) -> None:
        """Let the peer end its input, or, with an error, lose the connection."""
        loop = asyncio.get_running_loop()
        if error is None:
            loop.call_soon(self.conn.eof_received)
        else:
            loop.call_soon(self.conn.connection_lost, error)
        await self.settle()

    async def settle(self) -> None:
        """Let everything that is due happen."""
        for _ in range(5):
            await asyncio.sleep(0)

    @property
    def is_over(self) -> bool:
        """Whether the handler has returned."""
        return self.transport.is_closed
