"""Echo (RFC 862): what a client sends comes back. The smallest app, in each of the ways to write one.

Knows: the public API. Does not know: the rest of prefork.
"""

from __future__ import annotations

import asyncio

from prefork import Connection, Reply


async def echo(conn: Connection) -> None:
    """Send back what arrives, frame by frame if the listener has a framing."""
    async for data in conn:
        await conn.send(data)


async def streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what arrives, with asyncio's streams."""
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()


class Echo(asyncio.Protocol):
    """Send back what arrives, with asyncio's callbacks."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.write = transport.write

    def data_received(self, data: bytes) -> None:
        self.write(data)


def datagram(data: bytes, peer: object, reply: Reply) -> None:  # noqa: ARG001  # handlers are called alike
    """Send back each datagram."""
    reply(data)
