"""The stream transport when one side is slower than the other: water marks, pauses, limits."""

from __future__ import annotations

import asyncio
import hashlib
import random

from prefork import Connection
from prefork.config.limits import Limits
from prefork.net.inlet import INPUT_BYTES
from prefork.net.send_buffer import HIGH_WATER_BYTES, LOW_WATER_BYTES
from prefork.scoreboard import Count
from tests.kernel.clients import PATIENCE_SECONDS, Client
from tests.kernel.protocols import Gathering, Recorder
from tests.kernel.serving import Listening, cpu_share, run, serving, turn, until

MEBIBYTE = 1 << 20
SMALL_BUFFER = 4096  # of a client's socket
BLOCK = random.Random(7).randbytes(MEBIBYTE)


async def receive_slowly(client: Client, count: int) -> str:
    """Receive in small pieces with turns of the loop in between; return a digest."""
    digest, received = hashlib.sha256(), 0
    while received < count and (data := await client.receive(262_144)):
        digest.update(data)
        received += len(data)
        await turn()
    return digest.hexdigest()


def test_a_slow_reader_gets_64_mebibytes_whole(listening: Listening) -> None:
    async def handle(conn: Connection) -> None:
        for _ in range(64):
            await conn.send(BLOCK)

    async def scenario() -> None:
        async with serving(handle, listening) as server:
            client = await server.connect()
            expected = hashlib.sha256(BLOCK * 64).hexdigest()
            assert await asyncio.wait_for(receive_slowly(client, 64 * MEBIBYTE), 60) == expected

    run(scenario())


def test_a_writer_is_paused_above_the_high_mark_and_resumed_at_the_low_one(listening: Listening) -> None:
    class Writes(Recorder):
        def pause_writing(self) -> None:
            super().pause_writing()
            self.size_at_pause = self.transport.get_write_buffer_size()

        def resume_writing(self) -> None:
            super().resume_writing()
            self.size_at_resume = self.transport.get_write_buffer_size()

    async def scenario() -> None:
        protocols = Gathering(Writes)
        async with serving(protocols, listening) as server:
            client = await server.connect(SMALL_BUFFER)
            writer = await protocols.first()
            written = 0
            while "pause_writing" not in writer.calls:
                writer.transport.write(BLOCK[:10_000])
                written += 10_000
            assert HIGH_WATER_BYTES < writer.size_at_pause <= HIGH_WATER_BYTES + 10_000
            await client.receive_exactly(written)
            assert writer.calls == ["connection_made", "pause_writing", "resume_writing"]
            assert writer.size_at_resume <= LOW_WATER_BYTES

    run(scenario())


def test_a_handler_waits_in_send_while_the_peer_does_not_read(listening: Listening) -> None:
    sent = []

    async def handle(conn: Connection) -> None:
        for _ in range(100):
            await conn.send(BLOCK)
            sent.append(len(BLOCK))

    async def scenario() -> None:
        async with serving(handle, listening) as server:
            client = await server.connect(SMALL_BUFFER)
            await until(
                lambda: server.transports and server.transports[0].get_write_buffer_size() > HIGH_WATER_BYTES
            )
            before = len(sent)
            await turn(0.05)
            assert len(sent) == before < 20
            await client.receive_exactly(100 * MEBIBYTE)
            assert len(sent) == 100

    run(scenario())


def test_nothing_more_is_read_from_a_peer_whose_handler_does_not_read(listening: Listening) -> None:
    go = asyncio.Event()
    got = bytearray()

    async def handle(conn: Connection) -> None:
        await go.wait()
        async for data in conn:
            got.extend(data)

    async def scenario() -> None:
        async with serving(handle, listening) as server:
            client = await server.connect()
            sending = asyncio.ensure_future(client.send(BLOCK * 32))
            (transport,) = await until(lambda: server.transports)
            await until(lambda: not transport.is_reading())
            await turn(0.05)
            assert not sending.done()
            go.set()
            await asyncio.wait_for(sending, PATIENCE_SECONDS)
            client.finish()
            await client.receive_all()
        assert got == BLOCK * 32

    run(scenario())


def test_a_read_of_more_than_the_usual_input_gets_it(listening: Listening) -> None:
    async def handle(conn: Connection) -> None:
        data = await conn.read_exactly(8 * MEBIBYTE)
        await conn.send(hashlib.sha256(data).hexdigest().encode())

    async def scenario() -> None:
        async with serving(handle, listening) as server:
            client = await server.connect()
            await client.send(BLOCK * 8)
            assert await client.receive_all() == hashlib.sha256(BLOCK * 8).hexdigest().encode()

    run(scenario())


def test_a_read_that_was_given_up_leaves_the_usual_limit_of_unread_input(listening: Listening) -> None:
    """A handler that once wanted much must not let a peer fill its memory for ever after."""

    async def handle(conn: Connection) -> None:
        try:
            async with conn.timeout(0.02):
                await conn.read_exactly(64 * MEBIBYTE)
        except TimeoutError:
            given_up.set()
        await go_on.wait()

    given_up, go_on = asyncio.Event(), asyncio.Event()

    async def scenario() -> None:
        async with serving(handle, listening) as server:
            client = await server.connect()
            await given_up.wait()
            sending = asyncio.ensure_future(client.send(BLOCK * 32))
            (transport,) = server.transports
            await until(lambda: sending.done() or not transport.is_reading())
            assert not sending.done()
            sending.cancel()
            go_on.set()

    run(scenario())


def test_nothing_arrives_while_reading_is_paused_and_all_of_it_afterwards(listening: Listening) -> None:
    async def scenario() -> None:
        protocols = Gathering()
        async with serving(protocols, listening) as server:
            client = await server.connect()
            reader = await protocols.first()
            reader.transport.pause_reading()
            reader.transport.pause_reading()
            assert not reader.transport.is_reading()
            await client.send(b"while paused")
            await turn(0.05)
            assert reader.data == b""
            reader.transport.resume_reading()
            reader.transport.resume_reading()
            await until(lambda: reader.data == b"while paused")

    run(scenario())


def test_a_peers_end_is_learnt_only_when_reading_goes_on(listening: Listening) -> None:
    async def scenario() -> None:
        protocols = Gathering()
        async with serving(protocols, listening) as server:
            client = await server.connect()
            reader = await protocols.first()
            reader.transport.pause_reading()
            await client.send(b"last")
            client.finish()
            await turn(0.05)
            assert reader.calls == ["connection_made"]
            reader.transport.resume_reading()
            assert await client.receive_all() == b""
            assert reader.calls[:3] == ["connection_made", "data_received", "eof_received"]

    run(scenario())


def test_a_paused_connection_costs_no_turns_of_the_loop_when_its_peer_hangs_up(inet: Listening) -> None:
    """epoll reports a hang-up to those who asked for nothing: such a descriptor must be out of it."""

    async def scenario() -> None:
        protocols = Gathering()
        async with serving(protocols, inet) as server:
            client = await server.connect()
            reader = await protocols.first()
            reader.transport.pause_reading()
            await client.send(b"x")
            client.reset()
            assert await cpu_share(0.2) < 0.5

    run(scenario())


def test_a_peer_that_never_reads_is_cut_beyond_the_limit_of_the_buffer(inet: Listening) -> None:
    async def scenario() -> None:
        protocols = Gathering()
        async with serving(protocols, inet, Limits(buffer=262_144)) as server:
            await server.connect(SMALL_BUFFER)
            writer = await protocols.first()
            while not writer.lost:  # it does not mind pause_writing
                writer.transport.write(BLOCK[:50_000])
                await turn(0.02)
            assert isinstance(writer.lost[0], ConnectionAbortedError)
            assert server.count(Count.BROKEN) == 1
            await server.until_closed()

    run(scenario())


def test_a_burst_beyond_the_limit_is_taken_by_a_peer_that_reads(listening: Listening) -> None:
    async def scenario() -> None:
        protocols = Gathering()
        async with serving(protocols, listening, Limits(buffer=262_144)) as server:
            client = await server.connect()
            writer = await protocols.first()
            for _ in range(8):
                writer.transport.write(BLOCK)
            assert await client.receive_exactly(8 * MEBIBYTE) == BLOCK * 8
            assert not writer.lost

    run(scenario())


def test_a_handler_that_waits_for_a_peer_that_never_reads_is_ended_after_limits_idle(inet: Listening) -> None:
    """It is not at work: it waits for the peer, as much as one that waits for input."""

    async def handle(conn: Connection) -> None:
        while True:
            await conn.send(BLOCK)

    async def scenario() -> None:
        async with serving(handle, inet, Limits(idle=0.2)) as server:
            await server.connect(SMALL_BUFFER)
            await until(lambda: server.site.tally.accepted)
            await until(lambda: server.count(Count.TIMED_OUT) == 1, within=5)
            await server.until_closed()

    run(scenario())


def test_input_that_nobody_reads_stays_within_twice_the_mark(listening: Listening) -> None:
    async def handle(conn: Connection) -> None:
        connections.append(conn)
        await go.wait()

    connections: list[Connection] = []
    go = asyncio.Event()

    async def scenario() -> None:
        async with serving(handle, listening) as server:
            client = await server.connect()
            sending = asyncio.ensure_future(client.send(BLOCK * 32))
            await until(lambda: connections and not server.transports[0].is_reading())
            assert len(await connections[0].read()) <= 2 * INPUT_BYTES
            sending.cancel()
            go.set()

    run(scenario())
