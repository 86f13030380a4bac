"""Much at once, and much in small pieces, over tcp, tcp6, tls and unix: whole and in order, whoever is slower."""

from __future__ import annotations

import asyncio
import hashlib
import random

import pytest

from prefork import Connection
from prefork.apps import echo
from prefork.scoreboard import Count
from tests.kernel.clients import Client
from tests.kernel.protocols import Echo, Gathering, KeepsOpen, Recorder
from tests.kernel.serving import Listening, run, serving, turn, until, within

MEBIBYTE = 1 << 20
SMALL_BUFFER = 4096  # of a client's socket
BLOCK = random.Random(5).randbytes(MEBIBYTE)
TINY = [b"%d," % number for number in range(10_000)]
LONG_SECONDS = 30.0


async def receive_digest(client: Client, count: int) -> str:
    """Receive with a turn of the loop between two reads; return a digest."""
    digest = hashlib.sha256()
    while count and (data := await client.receive(min(count, 262_144))):
        digest.update(data)
        count -= len(data)
        await turn()
    return digest.hexdigest()


def digest_of(data: bytes, times: int = 1) -> str:
    digest = hashlib.sha256()
    for _ in range(times):
        digest.update(data)
    return digest.hexdigest()


# --- tiny writes ---


async def sends_tiny(conn: Connection) -> None:
    for piece in TINY:
        await conn.send(piece)


async def writes_tiny(conn: Connection) -> None:
    for piece in TINY:
        conn.write(piece)


async def streams_tiny(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for piece in TINY:
        writer.write(piece)
        await writer.drain()


class WritesTiny(Recorder):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        for piece in TINY:
            self.transport.write(piece)
        self.transport.close()


@pytest.mark.parametrize("app", [sends_tiny, writes_tiny, streams_tiny, WritesTiny])
@pytest.mark.parametrize("receive_bytes", [0, SMALL_BUFFER])
def test_ten_thousand_tiny_writes_outside_a_read_event_leave_in_order(
    listening: Listening, app: object, receive_bytes: int
) -> None:
    async def scenario() -> None:
        async with serving(app, listening) as server:
            client = await server.connect(receive_bytes)
            assert await client.receive_all() == b"".join(TINY)

    run(scenario())


@pytest.mark.parametrize("app", [Echo, echo.echo, echo.streams])
def test_ten_thousand_tiny_messages_are_echoed_in_order(listening: Listening, app: object) -> None:
    async def scenario() -> None:
        async with serving(app, listening) as server:
            client = await server.connect()
            receiving = asyncio.ensure_future(client.receive_exactly(len(b"".join(TINY))))
            for piece in TINY:
                await client.send(piece)
            assert await within(LONG_SECONDS, receiving) == b"".join(TINY)

    run(scenario())


@pytest.mark.parametrize("burst", [3, 200])
def test_writes_of_random_sizes_keep_their_order_while_the_kernel_takes_no_more(
    listening: Listening, burst: int
) -> None:
    """A write that the kernel has no room for is tried again with more behind it, which TLS allows in one way."""
    sizes = random.Random(17)
    pieces = [BLOCK[: sizes.choice((1, 100, 2048, 2049, 16_384, 16_385, 100_000))] for _ in range(600)]

    async def scenario() -> None:
        protocols = Gathering()
        async with serving(protocols, listening) as server:
            client = await server.connect(SMALL_BUFFER)
            writer = await protocols.first()
            receiving = asyncio.ensure_future(receive_digest(client, sum(map(len, pieces))))
            for number, piece in enumerate(pieces):
                writer.transport.write(piece)
                if number % burst == 0:
                    await turn()
            assert await within(LONG_SECONDS, receiving) == digest_of(b"".join(pieces))
            assert not writer.lost

    run(scenario())


# --- much at once ---


def test_one_write_of_64_mebibytes_reaches_a_slow_reader_whole(listening: Listening) -> None:
    async def scenario() -> None:
        protocols = Gathering()
        async with serving(protocols, listening) as server:
            client = await server.connect()
            writer = await protocols.first()
            writer.transport.write(BLOCK * 64)
            assert await within(LONG_SECONDS, receive_digest(client, 64 * MEBIBYTE)) == digest_of(BLOCK, 64)
            await until(lambda: "resume_writing" in writer.calls)
            assert writer.transport.get_write_buffer_size() == 0

    run(scenario())


def test_64_mebibytes_come_in_whole_though_reading_is_paused_again_and_again(listening: Listening) -> None:
    class Pauses(Recorder):
        digest = hashlib.sha256()
        size = pauses = 0

        def data_received(self, data: bytes) -> None:
            self.digest.update(data)
            self.size += len(data)
            self.pauses += 1
            self.transport.pause_reading()
            asyncio.get_running_loop().call_soon(self.transport.resume_reading)

        def eof_received(self) -> None:
            self.transport.write(self.digest.hexdigest().encode())

    async def scenario() -> None:
        protocols = Gathering(Pauses)
        async with serving(protocols, listening) as server:
            client = await server.connect()
            for _ in range(64):
                await within(LONG_SECONDS, client.send(BLOCK))
            client.finish()
            assert await client.receive_all() == digest_of(BLOCK, 64).encode()
            (protocol,) = protocols.made
            assert protocol.size == 64 * MEBIBYTE
            assert protocol.pauses > 100

    run(scenario())


class StopsReading(Echo):
    """Echoes, and reads nothing more while its own words wait."""

    def pause_writing(self) -> None:
        super().pause_writing()
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.transport.resume_reading()


@pytest.mark.parametrize("app", [StopsReading, echo.echo, echo.streams])
def test_a_peer_that_only_sends_is_read_from_when_it_takes_its_echo(listening: Listening, app: object) -> None:
    """Both directions are full then; all of it comes through when the peer begins to read."""

    async def scenario() -> None:
        async with serving(app, listening) as server:
            client = await server.connect()
            sending = asyncio.ensure_future(client.send(BLOCK * 16))
            (transport,) = await until(lambda: server.transports)
            await until(lambda: transport.get_write_buffer_size() and not transport.is_reading())
            await turn(0.05)
            assert not sending.done()
            assert transport.get_write_buffer_size() < 4 * MEBIBYTE
            assert await within(LONG_SECONDS, receive_digest(client, 16 * MEBIBYTE)) == digest_of(BLOCK, 16)
            await within(LONG_SECONDS, sending)

    run(scenario())


# --- an end in the middle ---


def test_what_waits_for_a_slow_peer_is_sent_after_its_half_close(listening: Listening) -> None:
    class Answers(Recorder):
        def data_received(self, data: bytes) -> None:
            self.transport.write(BLOCK * 16)

    async def scenario() -> None:
        protocols = Gathering(Answers)
        async with serving(protocols, listening) as server:
            client = await server.connect()
            await client.send(b"all of it, please")
            client.finish()
            await until(lambda: protocols.made and "eof_received" in protocols.made[0].calls)
            assert await within(LONG_SECONDS, receive_digest(client, 17 * MEBIBYTE)) == digest_of(BLOCK, 16)
            client.close()
            await server.until_closed()
            assert protocols.made[0].lost == [None]

    run(scenario())


def test_a_close_in_the_middle_of_a_flush_lets_it_end_and_reads_nothing_more(listening: Listening) -> None:
    async def scenario() -> None:
        protocols = Gathering(KeepsOpen)
        async with serving(protocols, listening) as server:
            client = await server.connect()
            writer = await protocols.first()
            writer.transport.write(BLOCK * 16)
            assert await client.receive_exactly(MEBIBYTE) == BLOCK
            assert writer.transport.get_write_buffer_size() > 0
            writer.transport.close()
            await client.send(b"too late")
            assert writer.lost == []
            assert await within(LONG_SECONDS, receive_digest(client, 16 * MEBIBYTE)) == digest_of(BLOCK, 15)
            client.close()
            await server.until_closed()
            assert (writer.lost, writer.data) == ([None], b"")

    run(scenario())


def test_a_close_in_pause_writing_lets_all_be_sent_that_was_written(listening: Listening) -> None:
    class Closes(Recorder):
        def pause_writing(self) -> None:
            super().pause_writing()
            self.transport.close()

    async def scenario() -> None:
        protocols = Gathering(Closes)
        async with serving(protocols, listening) as server:
            client = await server.connect()
            writer = await protocols.first()
            writer.transport.write(BLOCK * 16)
            assert writer.transport.is_closing()
            assert await within(LONG_SECONDS, receive_digest(client, 17 * MEBIBYTE)) == digest_of(BLOCK, 16)

    run(scenario())


def test_a_peer_that_leaves_in_the_middle_of_a_flush_ends_the_connection_once(listening: Listening) -> None:
    async def scenario() -> None:
        protocols = Gathering()
        async with serving(protocols, listening) as server:
            client = await server.connect()
            writer = await protocols.first()
            writer.transport.write(BLOCK * 16)
            await client.receive_exactly(MEBIBYTE)
            client.close()  # with bytes unread, on a unix socket too: that is a reset
            await server.until_closed()
            assert len(writer.lost) == 1
            assert isinstance(writer.lost[0], OSError)
            assert (server.count(Count.BROKEN), server.count(Count.ERRORS)) == (1, 0)

    run(scenario())


def test_a_handler_is_told_of_a_peer_that_leaves_in_the_middle_of_its_answer(listening: Listening) -> None:
    ended: list[BaseException] = []

    async def handle(conn: Connection) -> None:
        try:
            while True:
                await conn.send(BLOCK)
        except ConnectionError as error:
            ended.append(error)

    async def scenario() -> None:
        async with serving(handle, listening) as server:
            client = await server.connect()
            await client.receive_exactly(MEBIBYTE)
            client.close()
            await until(lambda: ended)
            await server.until_closed()
            assert server.count(Count.ERRORS) == 0

    run(scenario())
