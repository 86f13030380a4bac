"""The drain of a server, over tcp, tcp6, tls and unix: exchanges are finished, and no request is lost."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from pathlib import Path

import pytest

from prefork import Connection
from prefork.apps import echo
from prefork.net.service import QUIET_SECONDS, Departures
from prefork.scoreboard import Cell, Count
from tests.kernel.clients import PATIENCE_SECONDS, Client
from tests.kernel.protocols import Echo, Gathering
from tests.kernel.serving import Listening, run, serving, turn, until, within
from tests.kernel.whole import Whole, whole

BLOCK = random.Random(29).randbytes(1 << 20)
ECHOES = {"callback": echo.Echo, "coroutine": echo.echo}


async def talking(server: Whole) -> Client:
    """Return a client that has asked once and was answered."""
    client = await server.connect()
    await client.send(b"hello")
    assert await client.receive_exactly(5) == b"hello"
    return client


def test_a_server_without_connections_is_through_at_once(listening: Listening) -> None:
    async def scenario() -> None:
        async with whole(Echo, listening) as server:
            server.begin_drain()
            assert server.is_over.is_set()

    run(scenario())


@pytest.mark.parametrize("app", ECHOES.values(), ids=ECHOES)
def test_a_connection_between_two_exchanges_is_ended_when_it_was_quiet(listening: Listening, app: object) -> None:
    async def scenario() -> None:
        async with whole(app, listening) as server:
            silent, client = await server.connect(), await talking(server)
            begun = time.monotonic()
            server.begin_drain()
            assert await client.receive_all() == b""
            assert await silent.receive_all() == b""
            assert time.monotonic() - begun > QUIET_SECONDS * 0.9
            client.close()
            silent.close()
            await server.until_over()
            assert (server.count(Count.CUT), server.count(Count.BROKEN)) == (0, 0)

    run(scenario())


@pytest.mark.parametrize("app", ECHOES.values(), ids=ECHOES)
def test_a_request_during_the_drain_is_answered_and_its_answer_comes_with_the_end(
    listening: Listening, app: object
) -> None:
    """A client that has the whole answer knows that it was the last: it sends no request that is lost."""

    async def scenario() -> None:
        async with whole(app, listening) as server:
            clients = [await talking(server) for _ in range(10)]
            server.begin_drain()
            for client in clients:
                await client.send(b"one more")
                assert await client.receive_exactly(8) == b"one more"
                assert client.has_end()
                client.close()
            await server.until_over()
            assert (server.count(Count.CUT), server.count(Count.BROKEN)) == (0, 0)

    run(scenario())


@pytest.mark.parametrize("app", ECHOES.values(), ids=ECHOES)
def test_clients_that_never_rest_lose_no_request_and_leave_within_the_window(
    listening: Listening, app: object
) -> None:
    async def ask_on(client: Client) -> float:
        number = 0
        while not client.has_end():
            number += 1
            await client.send(b"%d;" % number)
            assert await client.receive_exactly(len(b"%d;" % number)) == b"%d;" % number
            await turn()
        client.close()
        return time.monotonic()

    async def scenario() -> None:
        async with whole(app, listening) as server:
            clients = [await talking(server) for _ in range(20)]
            asking = [asyncio.ensure_future(ask_on(client)) for client in clients]
            await turn(0.05)
            begun = time.monotonic()
            server.begin_drain(leave=(0.2, 0.4))
            ended = await within(PATIENCE_SECONDS, asyncio.gather(*asking))
            assert min(ended) - begun > 0.18
            await server.until_over()
            assert (server.count(Count.CUT), server.count(Count.BROKEN)) == (0, 0)

    run(scenario())


def test_a_handler_at_work_finishes_and_its_answer_is_whole(listening: Listening) -> None:
    go = asyncio.Event()

    async def handle(conn: Connection) -> None:
        async for _ in conn:
            await go.wait()
            assert conn.draining
            for _ in range(8):
                await conn.send(BLOCK)

    async def scenario() -> None:
        async with whole(handle, listening) as server:
            client = await server.connect()
            await client.send(b"all of it, please")
            await until(lambda: server.site.handlers)
            server.begin_drain()
            await turn(0.05)
            assert not server.is_over.is_set()
            go.set()
            assert await client.receive_all() == BLOCK * 8
            client.close()
            await server.until_over()
            assert server.count(Count.CUT) == 0

    run(scenario())


def test_half_a_request_is_no_rest_between_two_exchanges(inet: Listening) -> None:
    async def handle(conn: Connection) -> None:
        while request := await conn.read_exactly(10):
            await conn.send(request)

    async def scenario() -> None:
        async with whole(handle, inet) as server:
            client = await server.connect()
            await client.send(b"first")
            await until(lambda: server.transports and server.transports[0].owes)
            server.begin_drain()
            await turn(QUIET_SECONDS * 1.2)
            await client.send(b"-half")
            assert await client.receive_exactly(10) == b"first-half"
            assert await client.receive_all() == b""

    run(scenario())


def test_a_slow_reader_gets_all_that_was_written_before_the_drain(listening: Listening) -> None:
    async def scenario() -> None:
        protocols = Gathering()
        async with whole(protocols, listening) as server:
            client = await server.connect()
            writer = await protocols.first()
            for _ in range(8):
                writer.transport.write(BLOCK)
            server.begin_drain()
            received = bytearray()
            while data := await client.receive():
                received += data
                assert len(received) == 8 * len(BLOCK) or not server.is_over.is_set()
                await turn()
            assert received == BLOCK * 8
            client.close()
            await server.until_over()
            assert writer.lost == [None]

    run(scenario())


def test_a_file_on_its_way_is_sent_to_its_end(listening: Listening, tmp_path: Path) -> None:
    path = tmp_path / "content"
    path.write_bytes(BLOCK * 16)

    async def handle(conn: Connection) -> None:
        with path.open("rb") as file:
            await conn.sendfile(file)

    async def scenario() -> None:
        async with whole(handle, listening) as server:
            client = await server.connect()
            await client.receive_exactly(100)
            server.begin_drain()
            rest = await client.receive_all()
            assert hashlib.sha256(rest).digest() == hashlib.sha256((BLOCK * 16)[100:]).digest()
            client.close()
            await server.until_over()

    run(scenario())


class Told(Echo):
    """Wants to be told of a drain, and ends when it likes."""

    def drain_requested(self) -> None:
        self.calls.append("drain_requested")
        self.transport.write(b"goodbye soon")


def test_a_protocol_that_wants_to_know_is_told_once_and_chooses_its_end(listening: Listening) -> None:
    async def scenario() -> None:
        protocols = Gathering(Told)
        async with whole(protocols, listening) as server:
            client = await talking(server)
            (protocol,) = protocols.made
            server.begin_drain()
            assert await client.receive_exactly(12) == b"goodbye soon"
            await client.send(b"still here")
            assert await client.receive_exactly(10) == b"still here"
            await turn(0.1)
            assert protocol.calls == ["connection_made", "drain_requested"]
            assert not server.is_over.is_set()
            protocol.transport.close()
            assert await client.receive_all() == b""
            client.close()
            await server.until_over()

    run(scenario())


# --- the end of its time ---


def test_what_is_open_at_the_end_of_the_time_is_cut_and_counted(listening: Listening) -> None:
    ended: list[BaseException] = []

    async def handle(conn: Connection) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            ended.append(error)
            raise

    async def scenario() -> None:
        async with whole(handle, listening) as server:
            clients = [await server.connect() for _ in range(3)]
            await until(lambda: server.site.handlers == 3)
            server.begin_drain(seconds=0.1)
            assert await server.until_over() > 0.09
            assert (server.count(Count.CUT), server.count(Cell.OPEN), len(ended)) == (3, 0, 3)
            assert server.count(Count.ERRORS) == 0
            assert all([await is_cut(client, listening) for client in clients])

    run(scenario())


async def is_cut(client: Client, listening: Listening) -> bool:
    """Whether a connection has ended by a reset; unix sockets know none without unread bytes."""
    try:
        return await client.receive_all() == b"" and listening.is_unix
    except ConnectionResetError:
        return True


def test_a_drain_can_be_hastened(listening: Listening) -> None:
    async def scenario() -> None:
        async with whole(Told, listening) as server:
            await talking(server)
            server.begin_drain()
            server.hasten_drain(0.1)
            assert 0.09 < await server.until_over() < 5
            assert server.count(Count.CUT) == 1

    run(scenario())


# --- those who come late ---


def test_a_connection_in_the_queue_is_left_to_those_who_come_after(listening: Listening) -> None:
    async def scenario() -> None:
        async with whole(Echo, listening) as old, whole(Echo, listening) as new:
            new.unwatch()
            old.begin_drain()
            client = await old.connect()
            await turn(0.05)
            new.watch()
            await client.send(b"to whom?")
            assert await client.receive_exactly(8) == b"to whom?"
            assert (old.count(Cell.ACCEPTED), new.count(Cell.ACCEPTED)) == (0, 1)

    run(scenario())


def test_the_last_server_serves_those_who_come_a_moment_late(listening: Listening) -> None:
    async def scenario() -> None:
        async with whole(Echo, listening) as server:
            early = await server.connect()
            server.begin_drain(is_last=True)
            late = await server.connect()
            for client in (early, late):
                await client.send(b"in time")
                assert await client.receive_exactly(7) == b"in time"
                client.close()
            await server.until_over()
            assert (server.count(Cell.ACCEPTED), server.count(Count.CUT)) == (2, 0)

    run(scenario())


@pytest.mark.parametrize("is_last", [True, False])
def test_a_handshake_under_way_is_finished_and_its_request_is_answered(tls: Listening, is_last: bool) -> None:
    async def scenario() -> None:
        async with whole(Echo, tls) as server:
            client = await server.connect()
            await until(lambda: server.server.handshakes)
            server.begin_drain(is_last=is_last)
            await client.send(b"first and last")
            assert await client.receive_exactly(14) == b"first and last"
            client.close()
            await server.until_over()
            assert (server.count(Count.UNSECURED), server.count(Count.CUT)) == (0, 0)

    run(scenario())


def test_a_handshake_that_stands_still_is_ended_with_the_time_of_the_drain(tls: Listening) -> None:
    async def scenario() -> None:
        async with whole(Echo, tls) as server:
            client = Client(server.new_client().socket)
            await client.connect(tls.getsockname())
            await until(lambda: server.server.handshakes)
            server.begin_drain(seconds=0.1)
            await server.until_over()
            assert await client.receive_all() == b""
            assert server.count(Count.UNSECURED) == 1

    run(scenario())


# --- one connection ---


def test_a_transport_that_drains_ends_with_its_next_answer(listening: Listening) -> None:
    async def scenario() -> None:
        protocols = Gathering(Echo)
        async with serving(protocols, listening) as server:
            client = await server.connect()
            await protocols.first()
            (transport,) = server.transports
            server.service.departures = Departures()
            transport.drain(time.monotonic())
            await client.send(b"the last question")
            assert await client.receive_exactly(17) == b"the last question"
            assert client.has_end()
            client.close()
            await server.until_closed()
            assert protocols.made[0].lost == [None]

    run(scenario())


def test_a_transport_goes_on_until_it_may_leave(listening: Listening) -> None:
    async def scenario() -> None:
        async with serving(echo.echo, listening) as server:
            client = await server.connect()
            await client.send(b"first")
            assert await client.receive_exactly(5) == b"first"
            (transport,) = server.transports
            server.service.departures = Departures()
            may_leave_at = time.monotonic() + 0.2
            transport.drain(may_leave_at)
            while not client.has_end():
                await client.send(b"on and on")
                assert await client.receive_exactly(9) == b"on and on"
            assert time.monotonic() >= may_leave_at

    run(scenario())
