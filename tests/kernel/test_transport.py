"""The stream transport, over tcp, tcp6, tls and unix: bytes in and out, in order and whole, both half-closes."""

from __future__ import annotations

import array
import asyncio
import random
from collections.abc import Callable

import pytest

from prefork import Connection
from prefork.apps import echo
from tests.kernel.clients import Client
from tests.kernel.protocols import Buffered, Echo, Gathering, KeepsOpen, LineEcho, Recorder
from tests.kernel.serving import Listening, data_segments_out, run, serving, until, within

ECHOES = {
    "callback": echo.Echo,
    "coroutine": echo.echo,
    "streams": echo.streams,
    "buffered": Buffered,
}


def noise(count: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(count)


async def exchange(client: Client, data: bytes) -> bytes:
    """Send and receive at the same time; return as much as was sent."""
    sending = asyncio.ensure_future(client.send(data))
    answer = await client.receive_exactly(len(data))
    await sending
    return answer


@pytest.mark.parametrize("app", ECHOES.values(), ids=ECHOES)
def test_what_is_sent_comes_back_whole_and_in_order(listening: Listening, app: object) -> None:
    async def scenario() -> None:
        async with serving(app, listening) as server:
            client = await server.connect()
            for size in (1, 2, 1000, 65_536, 65_537, 1_000_000):
                data = noise(size)
                assert await exchange(client, data) == data

    run(scenario())


@pytest.mark.parametrize("app", ECHOES.values(), ids=ECHOES)
def test_after_a_half_close_the_rest_is_answered_and_then_comes_the_end(listening: Listening, app: object) -> None:
    async def scenario() -> None:
        async with serving(app, listening) as server:
            client = await server.connect()
            await client.send(b"the last words")
            client.finish()
            assert await client.receive_all() == b"the last words"
            client.close()
            await server.until_closed()

    run(scenario())


@pytest.mark.parametrize("app", ECHOES.values(), ids=ECHOES)
def test_many_connections_do_not_get_each_others_bytes(listening: Listening, app: object) -> None:
    async def scenario() -> None:
        async with serving(app, listening) as server:
            clients = [await server.connect() for _ in range(50)]
            data = [noise(5000, seed) for seed in range(50)]
            answers = await asyncio.gather(*(exchange(c, d) for c, d in zip(clients, data, strict=True)))
            assert answers == data

    run(scenario())


def test_our_half_close_ends_their_input_and_leaves_ours_open(plain: Listening) -> None:
    async def scenario() -> None:
        protocols = Gathering(KeepsOpen)
        async with serving(protocols, plain) as server:
            client = await server.connect()
            await client.send(b"hello")
            server_side = await protocols.first()
            await until(lambda: server_side.data)
            server_side.transport.write(b"goodbye")
            server_side.transport.write_eof()
            assert await client.receive_all() == b"goodbye"
            await client.send(b", and more")
            await until(lambda: server_side.data == b"hello, and more")
            assert server_side.lost == []
            server_side.transport.close()
            client.close()
            await server.until_closed()
            assert server_side.lost == [None]

    run(scenario())


def test_a_half_close_waits_for_what_was_written_before(plain: Listening) -> None:
    data = noise(5_000_000)

    class SaysAll(Recorder):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.transport.write(data)
            self.transport.write_eof()

    async def scenario() -> None:
        async with serving(SaysAll, plain) as server:
            client = await server.connect()
            assert await client.receive_all() == data

    run(scenario())


def test_a_protocol_that_keeps_its_half_open_can_answer_after_the_peers_end(listening: Listening) -> None:
    async def scenario() -> None:
        protocols = Gathering(KeepsOpen)
        async with serving(protocols, listening) as server:
            client = await server.connect()
            client.finish()
            late = await protocols.first()
            await until(lambda: "eof_received" in late.calls)
            late.transport.write(b"late")
            late.transport.close()
            assert await client.receive_all() == b"late"
            client.close()
            await server.until_closed()
            assert late.calls == ["connection_made", "eof_received", "connection_lost"]

    run(scenario())


def test_a_protocol_is_told_once_of_each_event_in_its_order(listening: Listening) -> None:
    async def scenario() -> None:
        protocols = Gathering()
        async with serving(protocols, listening) as server:
            client = await server.connect()
            await client.send(b"x")
            client.finish()
            assert await client.receive_all() == b""
            client.close()
            await server.until_closed()
        (protocol,) = protocols.made
        assert protocol.calls == ["connection_made", "data_received", "eof_received", "connection_lost"]
        assert protocol.lost == [None]

    run(scenario())


def test_ten_thousand_tiny_writes_leave_in_order(listening: Listening) -> None:
    expected = b"".join(b"%d," % number for number in range(10_000))

    class Chatters(Recorder):
        def data_received(self, data: bytes) -> None:
            for number in range(10_000):
                self.transport.write(b"%d," % number)
            self.transport.close()

    async def scenario() -> None:
        async with serving(Chatters, listening) as server:
            client = await server.connect()
            await client.send(b"go")
            assert await client.receive_all() == expected

    run(scenario())


def test_writes_of_every_kind_and_size_keep_their_order(listening: Listening) -> None:
    pieces = [noise(size, size) for size in (1, 2048, 2049, 3, 0, 70_000, 5, 100_000, 1, 2, 3)]

    class Mixed(Recorder):
        def data_received(self, data: bytes) -> None:
            for place, piece in enumerate(pieces):
                self.transport.write((piece, bytearray(piece), memoryview(piece))[place % 3])
            self.transport.writelines(pieces)

    async def scenario() -> None:
        async with serving(Mixed, listening) as server:
            client = await server.connect()
            await client.send(b"go")
            expected = b"".join(pieces) * 2
            assert await client.receive_exactly(len(expected)) == expected

    run(scenario())


def test_a_bytearray_may_be_changed_once_it_was_written(listening: Listening) -> None:
    class Reuses(Recorder):
        def data_received(self, data: bytes) -> None:
            block = bytearray(b"a" * 3_000_000)
            self.transport.write(block)
            block[:] = b"b" * len(block)
            self.transport.write(b"end")

    async def scenario() -> None:
        async with serving(Reuses, listening) as server:
            client = await server.connect()
            await client.send(b"go")
            assert await client.receive_exactly(3_000_003) == b"a" * 3_000_000 + b"end"

    run(scenario())


VIEWS = {
    "numbers": lambda: memoryview(array.array("I", range(1_500_000))),
    "rows": lambda: memoryview(noise(6_000_000)).cast("B", (6_000, 1_000)),
}


@pytest.mark.parametrize("make", VIEWS.values(), ids=VIEWS)
def test_a_view_of_anything_but_plain_bytes_is_sent_whole(
    listening: Listening, make: Callable[[], memoryview]
) -> None:
    """Its length is not how many bytes it has, and the kernel takes a part of them."""

    async def scenario() -> None:
        protocols = Gathering()
        async with serving(protocols, listening) as server:
            client = await server.connect()
            writer = await protocols.first()
            view = make()
            writer.transport.write(view)
            writer.transport.write(b"end")
            writer.transport.close()
            assert await client.receive_all() == view.tobytes() + b"end"

    run(scenario())


@pytest.mark.parametrize("app", [LineEcho, echo.Echo], ids=["line by line", "at once"])
def test_sixty_four_pipelined_lines_are_answered_by_one_segment(inet: Listening, app: object) -> None:
    async def scenario() -> None:
        lines = b"".join(b"line %d\n" % number for number in range(64))
        async with serving(app, inet) as server:
            client = await server.connect()
            (transport,) = await until(lambda: server.transports)
            sock = transport.get_extra_info("socket")
            before = data_segments_out(sock)  # of the handshake
            await client.send(lines)
            assert await client.receive_exactly(len(lines)) == lines
            assert data_segments_out(sock) - before == 1

    run(scenario())


def test_a_coroutine_that_sends_line_by_line_answers_by_one_segment(inet: Listening) -> None:
    async def answer(conn: Connection) -> None:
        async for data in conn:
            for line in data.splitlines(keepends=True):
                await conn.send(line)

    async def scenario() -> None:
        lines = b"".join(b"line %d\n" % number for number in range(64))
        async with serving(answer, inet) as server:
            client = await server.connect()
            (transport,) = await until(lambda: server.transports)
            sock = transport.get_extra_info("socket")
            before = data_segments_out(sock)  # of the handshake
            for _ in range(2):
                await client.send(lines)
                await client.receive_exactly(len(lines))
            assert data_segments_out(sock) - before == 2

    run(scenario())


def test_one_connection_may_write_to_another_while_it_reads(listening: Listening) -> None:
    """What both write in that event reaches the right peer, each in its order."""

    class Passes(Recorder):
        def data_received(self, data: bytes) -> None:
            self.transport.write(b"got ")
            others = [p for p in protocols.made if p is not self]
            for other in others:
                other.transport.write(b"from " + data)
            self.transport.write(data)

    protocols = Gathering(Passes)

    async def scenario() -> None:
        async with serving(protocols, listening) as server:
            one, two = await server.connect(), await server.connect()
            await until(lambda: len(protocols.made) == 2)
            await one.send(b"hello")
            assert await one.receive_exactly(9) == b"got hello"
            assert await two.receive_exactly(10) == b"from hello"

    run(scenario())


def test_echoes_of_three_hundred_clients_at_once_survive_more_events_than_one_poll_takes(
    inet: Listening,
) -> None:
    async def scenario() -> None:
        async with serving(Echo, inet) as server:
            clients = [await server.connect() for _ in range(300)]
            await until(lambda: len(server.transports) == 300)
            for client in clients:
                await client.send(b"all at once")
            for client in clients:
                assert await within(5, client.receive_exactly(11)) == b"all at once"

    run(scenario())
