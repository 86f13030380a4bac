"""Files sent over tcp, tcp6, tls and unix: whole or in part, among other bytes, to peers that read or do not."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from prefork import Connection
from prefork.net.connection import FILE_BYTES
from prefork.scoreboard import Count
from tests.kernel.clients import Client
from tests.kernel.protocols import Gathering
from tests.kernel.serving import Accepting, Listening, run, serving, turn, until, within

CONTENT = random.Random(23).randbytes(3 * FILE_BYTES + 4711)
LARGE_TIMES = 40
LONG_SECONDS = 30.0

Handler = Callable[[Connection], object]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "content"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file that fits into no buffer on its way."""
    path = tmp_path / "large"
    path.write_bytes(CONTENT * LARGE_TIMES)
    return path


def test_a_file_arrives_whole_between_the_bytes_around_it(listening: Listening, path: Path) -> None:
    async def handle(conn: Connection) -> None:
        with path.open("rb") as file:
            await conn.send(b"<")
            assert await conn.sendfile(file) == len(CONTENT)
            await conn.send(b">")

    async def scenario() -> None:
        async with serving(handle, listening) as server:
            client = await server.connect()
            assert await client.receive_all() == b"<" + CONTENT + b">"

    run(scenario())


PARTS = {
    "nothing": (0, 0),
    "the beginning": (0, 100),
    "the end": (len(CONTENT) - 100, None),
    "more than one read in the middle": (1000, FILE_BYTES + 1),
    "just one read": (0, FILE_BYTES),
    "more than there is": (100, 2 * len(CONTENT)),
    "behind the end": (len(CONTENT) + 1, None),
}


@pytest.mark.parametrize(("offset", "count"), PARTS.values(), ids=PARTS)
def test_a_part_of_a_file_is_sent_and_the_files_position_stays(
    listening: Listening, path: Path, offset: int, count: int | None
) -> None:
    part = CONTENT[offset:] if count is None else CONTENT[offset : offset + count]

    async def handle(conn: Connection) -> None:
        with path.open("rb") as file:
            file.seek(7)
            assert await conn.sendfile(file, offset, count) == len(part)
            assert file.tell() == 7
        await conn.send(b".")

    async def scenario() -> None:
        async with serving(handle, listening) as server:
            client = await server.connect()
            assert await client.receive_all() == part + b"."
            assert server.count(Count.ERRORS) == 0

    run(scenario())


def test_a_file_that_is_sent_to_a_slow_peer_waits_for_it_and_others_are_served_meanwhile(
    listening: Listening, large: Path
) -> None:
    async def handle(conn: Connection) -> None:
        if await conn.read() == b"large":
            with large.open("rb") as file:
                await conn.sendfile(file)
        else:
            await conn.send(b"small")

    async def scenario() -> None:
        async with serving(handle, listening) as server:
            slow = await server.connect()
            await slow.send(b"large")
            (transport,) = await until(lambda: server.transports)
            await until(transport.get_write_buffer_size)
            await turn(0.05)
            assert transport.get_write_buffer_size() <= 2 * FILE_BYTES
            other = await server.connect()
            await other.send(b"?")
            assert await other.receive_all() == b"small"
            assert await within(LONG_SECONDS, digest_of_all(slow)) == digest_of_large()

    run(scenario())


async def digest_of_all(client: Client) -> str:
    digest = hashlib.sha256()
    while data := await client.receive(262_144):
        digest.update(data)
        await turn()
    return digest.hexdigest()


def digest_of_large() -> str:
    digest = hashlib.sha256()
    for _ in range(LARGE_TIMES):
        digest.update(CONTENT)
    return digest.hexdigest()


def test_twenty_files_at_once_do_not_mix(listening: Listening, path: Path) -> None:
    async def handle(conn: Connection) -> None:
        start = int(await conn.read())
        with path.open("rb") as file:
            await conn.sendfile(file, start)

    async def answer(server: Accepting, start: int) -> bytes:
        client = await server.connect()
        await client.send(b"%d" % start)
        return await client.receive_all()

    async def scenario() -> None:
        async with serving(handle, listening) as server:
            starts = range(0, 20_000, 1000)
            answers = await asyncio.gather(*(answer(server, start) for start in starts))
            assert answers == [CONTENT[start:] for start in starts]

    run(scenario())


@pytest.mark.parametrize("ending", ["peer leaves", "we abort"])
def test_a_file_whose_connection_is_lost_in_the_middle_is_an_error_to_its_sender(
    listening: Listening, large: Path, ending: str
) -> None:
    ended: list[BaseException] = []

    async def handle(conn: Connection) -> None:
        with large.open("rb") as file:
            try:
                await conn.sendfile(file)
            except ConnectionError as error:
                ended.append(error)

    async def scenario() -> None:
        async with serving(handle, listening) as server:
            client = await server.connect()
            await client.receive_exactly(FILE_BYTES)
            if ending == "peer leaves":
                client.close()
            else:
                server.transports[0].abort()
            await until(lambda: ended)
            await server.until_closed()
            assert server.count(Count.ERRORS) == 0

    run(scenario())


def test_a_file_that_cannot_be_read_costs_its_connection(listening: Listening, path: Path) -> None:
    async def handle(conn: Connection) -> None:
        with path.open("ab") as file:
            await conn.sendfile(file)

    async def scenario() -> None:
        async with serving(handle, listening) as server:
            client = await server.connect()
            assert await client.receive_all() == b""
            assert server.count(Count.ERRORS) == 1

    run(scenario())


def test_a_question_that_comes_while_a_file_is_sent_is_answered_behind_it(
    listening: Listening, large: Path
) -> None:
    async def handle(conn: Connection) -> None:
        with large.open("rb") as file:
            await conn.sendfile(file)
        async for data in conn:
            await conn.send(data)

    async def scenario() -> None:
        async with serving(handle, listening) as server:
            client = await server.connect()
            await client.send(b"and this?")
            client.finish()
            received = await within(LONG_SECONDS, client.receive_all())
            assert received[-9:] == b"and this?"
            assert hashlib.sha256(received[:-9]).hexdigest() == digest_of_large()

    run(scenario())


def test_the_loops_own_sendfile_sends_by_a_transport_of_ours(listening: Listening, path: Path) -> None:
    """As asyncio documents it: the protocol hears nothing meanwhile, and the file's position moves."""

    async def send(transport: asyncio.Transport, file: BinaryIO) -> int:
        return await asyncio.get_running_loop().sendfile(transport, file, 10, len(CONTENT) - 20)

    async def scenario() -> None:
        protocols = Gathering()
        async with serving(protocols, listening) as server:
            client = await server.connect()
            protocol = await protocols.first()
            with path.open("rb") as file:
                protocol.transport.write(b"<")
                sending = asyncio.ensure_future(send(protocol.transport, file))
                await client.send(b"meanwhile")
                assert await client.receive_exactly(len(CONTENT) - 19) == b"<" + CONTENT[10:-10]
                assert await within(5, sending) == len(CONTENT) - 20
                assert file.tell() == len(CONTENT) - 10
            await until(lambda: protocol.data == b"meanwhile")
            protocol.transport.write(b">")
            protocol.transport.close()
            assert await client.receive_all() == b">"

    run(scenario())
