"""Echo on asyncio or on uvloop: asyncio_peer.py asyncio|uvloop protocol|streams|lines|datagrams [CERT KEY]

Knows: the ways in which asyncio serves, and its own line framing; TLS for the protocol.
Does not know: the load.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

BACKLOG = 4096
READ_BYTES = 65536


class Echo(asyncio.Protocol):
    """Send back what comes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class DatagramEcho(asyncio.DatagramProtocol):
    """Send back what comes, to whom it came from."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, peer: tuple[str, int]) -> None:
        self.transport.sendto(data, peer)


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


def server_context(files: Sequence[str]) -> ssl.SSLContext | None:
    if not files:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    return context


async def open_server(kind: str, context: ssl.SSLContext | None) -> asyncio.Server:
    if kind == "protocol":
        loop = asyncio.get_running_loop()
        return await loop.create_server(Echo, "127.0.0.1", 0, backlog=BACKLOG, ssl=context)
    return await asyncio.start_server(HANDLERS[kind], "127.0.0.1", 0, backlog=BACKLOG)


async def serve(kind: str, context: ssl.SSLContext | None) -> None:
    server = await open_server(kind, context)
    print("port", server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def serve_datagrams() -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(DatagramEcho, local_addr=("127.0.0.1", 0))
    print("port", transport.get_extra_info("sockname")[1], flush=True)
    await loop.create_future()


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if name == "asyncio":
        return asyncio.SelectorEventLoop
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory(sys.argv[1])) as runner:
        is_datagrams = sys.argv[2] == "datagrams"
        runner.run(serve_datagrams() if is_datagrams else serve(sys.argv[2], server_context(sys.argv[3:])))
