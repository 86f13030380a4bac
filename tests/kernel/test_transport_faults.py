"""User code that fails, and events that come too late: each costs one connection at the most, never the worker."""

from __future__ import annotations

import asyncio
import logging
import socket

import pytest

from prefork import Connection
from prefork.scoreboard import Count
from tests.kernel.protocols import Echo, Gathering, Recorder
from tests.kernel.serving import Listening, run, serving, turn, until

FAULTS: dict[str, type[BaseException]] = {
    "an exception": ValueError,
    "sys.exit": SystemExit,
    "a cancelled future's result": asyncio.CancelledError,
}


def fail(kind: type[BaseException]) -> None:
    raise kind("on purpose")


@pytest.mark.parametrize("kind", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("where", ["connection_made", "data_received", "eof_received", "connection_lost"])
def test_a_protocol_that_raises_costs_its_own_connection(
    listening: Listening, kind: type[BaseException], where: str, caplog: pytest.LogCaptureFixture
) -> None:
    def faulty(self: object, *_: object) -> None:
        fail(kind)

    broken = type("Faulty", (Recorder,), {where: faulty})
    make = iter([broken, Echo])

    async def scenario() -> None:
        async with serving(Gathering(lambda: next(make)()), listening) as server:
            victim, bystander = await server.connect(), await server.connect()
            await victim.send(b"x")
            victim.finish()
            await victim.receive_all()
            victim.close()
            await bystander.send(b"still served")
            assert await bystander.receive_exactly(12) == b"still served"
            await until(lambda: server.site.tally.open == 1)
            assert server.count(Count.ERRORS) == 1
        assert [r.exc_info is not None for r in caplog.records if r.levelno == logging.ERROR] == [True]

    run(scenario())


# A SystemExit outside a read event leaves the loop, and is for the worker to hold: see tests/system.
@pytest.mark.parametrize(
    ("kind", "late"),
    [(ValueError, False), (ValueError, True), (SystemExit, True)],
    ids=["an exception in its first step", "an exception after a read", "sys.exit after a read"],
)
def test_a_handler_that_raises_costs_its_own_connection(
    listening: Listening, kind: type[BaseException], late: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def handle(conn: Connection) -> None:
        if late or await conn.read() == b"bystander":
            data = await conn.read()
            if data == b"victim":
                fail(kind)
            await conn.send(data)
        else:
            fail(kind)

    async def first_step(conn: Connection) -> None:
        fail(kind)

    async def scenario() -> None:
        async with serving(handle if late else first_step, listening) as server:
            victim = await server.connect()
            await victim.send(b"victim")
            assert await victim.receive_all() == b""
            victim.close()
            await server.until_closed()
            assert server.count(Count.ERRORS) == 1

    run(scenario())
    assert [r.exc_info is not None for r in caplog.records if r.name == "prefork.test"] == [True]


def test_what_a_handler_has_sent_before_it_fails_is_delivered(listening: Listening) -> None:
    async def handle(conn: Connection) -> None:
        await conn.send(b"the answer")
        raise ValueError

    async def scenario() -> None:
        async with serving(handle, listening) as server:
            client = await server.connect()
            assert await client.receive_all() == b"the answer"

    run(scenario())


def test_an_app_that_makes_no_protocol_costs_the_connection(listening: Listening) -> None:
    def factory() -> object:
        return object()

    async def scenario() -> None:
        async with serving(factory, listening) as server:
            client = await server.connect()
            assert await client.receive_all() == b""
            client.close()
            await server.until_closed()

    run(scenario())


def test_a_reset_is_no_error_of_the_app(inet: Listening, caplog: pytest.LogCaptureFixture) -> None:
    async def handle(conn: Connection) -> None:
        async for data in conn:
            await conn.send(data)

    async def scenario() -> None:
        async with serving(handle, inet) as server:
            client = await server.connect()
            await client.send(b"x")
            await client.receive(1)
            client.reset()
            await server.until_closed()
            assert (server.count(Count.ERRORS), server.count(Count.BROKEN)) == (0, 1)

    run(scenario())
    assert not [r for r in caplog.records if r.levelno >= logging.INFO and r.name.startswith("prefork")]


class Ends(Recorder):
    """Does something to all connections, itself too, when the first of them gets its bytes."""

    def __init__(self, everyone: list[Recorder], method: str) -> None:
        super().__init__()
        everyone.append(self)
        self._everyone = everyone
        self._method = method

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        for protocol in self._everyone:
            getattr(protocol.transport, self._method)()


@pytest.mark.parametrize("method", ["pause_reading", "close", "abort"])
def test_bytes_of_one_turn_do_not_reach_a_protocol_that_another_has_just_stopped(
    listening: Listening, method: str
) -> None:
    """Both had an event when the selector returned: the first callback decides over the second."""
    everyone: list[Recorder] = []

    async def scenario() -> None:
        async with serving(Gathering(lambda: Ends(everyone, method)), listening) as server:
            clients = [await server.connect() for _ in range(5)]
            await until(lambda: len(everyone) == 5)
            for client in clients:
                await client.send(b"all in one turn")
            await turn(0.05)
            assert [bool(protocol.data) for protocol in everyone].count(True) == 1

    run(scenario())


def test_a_descriptor_that_is_closed_and_taken_again_in_one_turn_gets_no_foreign_bytes(
    listening: Listening,
) -> None:
    """Every connection closes all others and the numbers are taken by new sockets at once."""
    taken: list[socket.socket] = []
    everyone: list[Recorder] = []

    class Replaces(Recorder):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            everyone.append(self)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            for other in everyone:
                other.transport.abort()
            taken.extend(socket.socketpair())

    async def scenario() -> None:
        async with serving(Replaces, listening) as server:
            clients = [await server.connect() for _ in range(10)]
            await until(lambda: len(everyone) == 10)
            for client in clients:
                await client.send(b"x")
            await server.until_closed()
            assert all(protocol.calls[-1] == "connection_lost" for protocol in everyone)
            assert all(protocol.calls.count("connection_lost") == 1 for protocol in everyone)

    run(scenario())
    for sock in taken:
        sock.close()


def test_a_failing_resume_or_pause_is_reported_and_survived(
    listening: Listening, caplog: pytest.LogCaptureFixture
) -> None:
    class Fails(Recorder):
        def pause_writing(self) -> None:
            raise ValueError("on purpose")

        def resume_writing(self) -> None:
            raise ValueError("on purpose")

    async def scenario() -> None:
        protocols = Gathering(Fails)
        async with serving(protocols, listening) as server:
            client = await server.connect()
            protocol = await protocols.first()
            data = bytes(8 << 20)
            protocol.transport.write(data)
            assert await client.receive_exactly(len(data)) == data
            assert server.count(Count.ERRORS) == 2

    run(scenario())
