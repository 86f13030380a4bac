"""prefork.testing: what users test their handlers with."""

from __future__ import annotations

import asyncio

from prefork import Connection, Lines
from prefork.apps.echo import Echo, echo, streams
from prefork.testing import connect, serve


def test_a_server_under_test_serves_reloads_and_stops() -> None:
    with serve("prefork.apps.echo:echo", framing="lines", workers=2) as server:
        with server.connect() as client:
            client.sendall(b"hello\n")
            assert client.recv(100) == b"hello\n"
        assert server.reload()["verdict"] == "committed"
    assert server.process.returncode == 0


def test_a_connection_in_memory_serves_every_kind_of_app() -> None:
    async def main() -> None:
        for app in (echo, streams, Echo):
            async with connect(app) as client:
                await client.send(b"hello")
                assert await client.reader.readexactly(5) == b"hello"
                await client.end()
                assert await client.reader.read() == b""

    asyncio.run(main())


def test_a_connection_in_memory_has_framings() -> None:
    async def shout(conn: Connection) -> None:
        async for line in conn:
            await conn.send(line.upper())

    async def main() -> None:
        async with connect(shout, Lines()) as client:
            await client.send(b"one\ntw")
            await client.send(b"o\n")
            assert await client.reader.readexactly(8) == b"ONE\nTWO\n"

    asyncio.run(main())
