"""What is left of a connection that has ended, over tcp, tcp6, tls and unix: nothing.

Not even until the garbage collector comes: 1,000 closed connections a second are as many cycles.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import Iterator

import pytest

from prefork import Connection
from prefork.config.limits import Limits
from prefork.scoreboard import Count
from tests.kernel.clients import Client
from tests.kernel.protocols import Recorder
from tests.kernel.serving import Listening, run, serving, turn, until

CONNECTIONS = 20
ENDINGS = ["peer closes", "peer finishes", "reset", "we close", "we abort", "we fail", "idle"]


@pytest.fixture(autouse=True)
def uncollected(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Let nothing be collected, and no record of a failure keep what it is about."""
    caplog.set_level(logging.CRITICAL, "prefork.test")
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def end(transport: Connection | asyncio.WriteTransport, ending: str) -> None:
    if ending == "we close":
        transport.close()
    if ending == "we abort":
        transport.abort()
    if ending == "we fail":
        raise ValueError("on purpose")


async def leave(client: Client, ending: str) -> None:
    if ending == "peer closes":
        client.close()
    if ending == "peer finishes":
        client.finish()
        assert await client.receive_all() == b""
        client.close()
    if ending == "reset":
        client.reset()
    if ending in ("we close", "we fail"):
        await client.receive_all()
        client.close()


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kind", ["coroutine", "streams", "callback"])
def test_nothing_of_a_closed_connection_stays_in_memory(listening: Listening, ending: str, kind: str) -> None:
    alive: weakref.WeakSet[object] = weakref.WeakSet()

    async def handle(conn: Connection) -> None:
        alive.add(conn)
        async for data in conn:
            await conn.send(data)
            end(conn, ending)

    async def streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert isinstance(writer.transport, asyncio.Transport)
        alive.add(writer.transport)
        while data := await reader.read(100):
            writer.write(data)
            await writer.drain()
            end(writer.transport, ending)

    class Protocol(Recorder):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            alive.add(transport)

        def data_received(self, data: bytes) -> None:
            self.transport.write(data)
            end(self.transport, ending)

    apps = {"coroutine": handle, "streams": streams, "callback": Protocol}

    async def scenario() -> None:
        async with serving(apps[kind], listening, Limits(idle=0.2 if ending == "idle" else 0)) as server:
            for _ in range(CONNECTIONS):
                client = await server.connect()
                await client.send(b"x")
                if ending != "we abort":
                    assert await client.receive(1) == b"x"
                await leave(client, ending)
            await until(lambda: server.count(Count.CLOSED) == CONNECTIONS)
            await turn()
            assert len(alive) <= 1  # the last one may still be named by a frame of the loop

    run(scenario())
