"""Echo on asyncio or on uvloop: asyncio_peer.py asyncio|uvloop protocol|streams|lines

Knows: the two ways in which asyncio serves, and its own line framing.
Does not know: the load.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable
from typing import cast

BACKLOG = 4096
READ_BYTES = 65536


class Echo(asyncio.Protocol):
    """Send back what comes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def echo_bytes(reader: StreamReader, writer: StreamWriter) -> None:
    while data := await reader.read(READ_BYTES):
        writer.write(data)
        await writer.drain()
    writer.close()


async def echo_lines(reader: StreamReader, writer: StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()
    writer.close()


Handler = Callable[[StreamReader, StreamWriter], Awaitable[None]]
HANDLERS: dict[str, Handler] = {"streams": echo_bytes, "lines": echo_lines}


async def open_server(kind: str) -> asyncio.Server:
    if kind == "protocol":
        loop = asyncio.get_running_loop()
        return await loop.create_server(Echo, "127.0.0.1", 0, backlog=BACKLOG)
    return await asyncio.start_server(HANDLERS[kind], "127.0.0.1", 0, backlog=BACKLOG)


async def serve(kind: str) -> None:
    server = await open_server(kind)
    print("port", server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if name == "asyncio":
        return asyncio.SelectorEventLoop
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory(sys.argv[1])) as runner:
        runner.run(serve(sys.argv[2]))
