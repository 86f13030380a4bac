"""How a connection ends, over tcp, tcp6, tls and unix: closed, aborted, reset, timed out; what is left then."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from prefork import Connection
from prefork.config.limits import Limits
from prefork.net.linger import Linger
from prefork.scoreboard import Cell, Count
from tests.kernel.protocols import Gathering, KeepsOpen, Recorder
from tests.kernel.serving import Listening, Serving, run, serving, turn, until, within

MEBIBYTE = 1 << 20
BLOCK = random.Random(3).randbytes(MEBIBYTE)


def test_a_close_delivers_all_that_was_written_before(listening: Listening) -> None:
    async def scenario() -> None:
        protocols = Gathering()
        async with serving(protocols, listening) as server:
            client = await server.connect()
            writer = await protocols.first()
            for _ in range(8):
                writer.transport.write(BLOCK)
            writer.transport.close()
            assert writer.transport.is_closing()
            assert writer.lost == []
            assert await client.receive_all() == BLOCK * 8
            client.close()
            await server.until_closed()
            assert writer.lost == [None]

    run(scenario())


def test_a_handler_that_returns_has_everything_delivered(listening: Listening) -> None:
    async def handle(conn: Connection) -> None:
        conn.write(BLOCK * 8)

    async def scenario() -> None:
        async with serving(handle, listening) as server:
            client = await server.connect()
            assert await client.receive_all() == BLOCK * 8

    run(scenario())


@pytest.mark.parametrize("attempt", range(20))
def test_an_early_answer_is_whole_though_the_question_is_not_read(inet: Listening, attempt: int) -> None:
    """A close with unread input would send a reset, which destroys the answer on its way."""

    async def refuse(conn: Connection) -> None:
        await conn.read(1)
        await conn.send(BLOCK)

    async def scenario() -> None:
        async with serving(refuse, inet) as server:
            client = await server.connect()
            sending = asyncio.ensure_future(client.send(BLOCK * 4))
            assert await client.receive_all() == BLOCK
            sending.cancel()
            client.close()

    run(scenario())


def lingering(server: Serving) -> list[Linger]:
    return [w for w in server.site.selector.watchers.values() if isinstance(w, Linger)]


def test_a_connection_that_lingers_is_open_until_the_peer_has_closed_too(inet: Listening) -> None:
    async def handle(conn: Connection) -> None:
        await conn.send(b"bye")

    async def scenario() -> None:
        async with serving(handle, inet) as server:
            client = await server.connect()
            assert await client.receive_all() == b"bye"
            await until(lambda: lingering(server))
            assert server.count(Cell.OPEN) == 1
            client.close()
            await server.until_closed()
            assert not lingering(server)
            assert (server.count(Cell.ACCEPTED), server.count(Count.CLOSED)) == (1, 1)

    run(scenario())


def test_a_connection_lingers_no_longer_than_its_deadline(inet: Listening) -> None:
    async def handle(conn: Connection) -> None:
        await conn.send(b"bye")

    async def scenario() -> None:
        async with serving(handle, inet) as server:
            client = await server.connect()
            assert await client.receive_all() == b"bye"
            await until(lambda: not server.site.tally.open, within=5)

    run(scenario())


def test_an_abort_is_a_reset(listening: Listening) -> None:
    async def scenario() -> None:
        protocols = Gathering()
        async with serving(protocols, listening) as server:
            client = await server.connect()
            protocol = await protocols.first()
            protocol.transport.write(BLOCK * 8)
            protocol.transport.abort()
            protocol.transport.abort()
            await server.until_closed()
            assert protocol.lost == [None]
            if listening.is_unix:
                assert len(await client.receive_all()) < 8 * MEBIBYTE
            else:
                with pytest.raises(ConnectionResetError):
                    await client.receive_all()

    run(scenario())


def test_an_abort_after_a_close_ends_a_flush_that_takes_too_long(listening: Listening) -> None:
    async def scenario() -> None:
        protocols = Gathering()
        async with serving(protocols, listening) as server:
            await server.connect(4096)
            protocol = await protocols.first()
            protocol.transport.write(BLOCK * 8)
            protocol.transport.close()
            await turn(0.02)
            assert protocol.lost == []
            protocol.transport.abort()
            await server.until_closed()
            assert protocol.lost == [None]

    run(scenario())


def test_a_reset_by_the_peer_is_told_and_counted(inet: Listening) -> None:
    async def scenario() -> None:
        protocols = Gathering()
        async with serving(protocols, inet) as server:
            client = await server.connect()
            protocol = await protocols.first()
            client.reset()
            await server.until_closed()
            assert [type(error) for error in protocol.lost] == [ConnectionResetError]
            assert (server.count(Count.BROKEN), server.count(Count.ERRORS)) == (1, 0)

    run(scenario())


def test_a_reset_while_we_write_is_told_once(inet: Listening) -> None:
    async def scenario() -> None:
        protocols = Gathering()
        async with serving(protocols, inet) as server:
            client = await server.connect(4096)
            protocol = await protocols.first()
            protocol.transport.write(BLOCK * 8)
            client.reset()
            for _ in range(100):
                protocol.transport.write(b"more")
                await turn()
            await server.until_closed()
            assert len(protocol.lost) == 1
            assert isinstance(protocol.lost[0], OSError)

    run(scenario())


def test_what_is_written_after_a_close_is_dropped(listening: Listening) -> None:
    async def scenario() -> None:
        protocols = Gathering()
        async with serving(protocols, listening) as server:
            client = await server.connect()
            protocol = await protocols.first()
            protocol.transport.write(b"before")
            protocol.transport.close()
            protocol.transport.write(b"after")
            protocol.transport.close()
            assert await client.receive_all() == b"before"
            client.close()
            await server.until_closed()
            protocol.transport.write(b"long after")
            assert protocol.lost == [None]

    run(scenario())


def test_what_is_written_before_a_close_in_one_event_is_sent_and_what_follows_is_not(
    listening: Listening,
) -> None:
    class Refuses(Recorder):
        def data_received(self, data: bytes) -> None:
            self.transport.write(b"no")
            self.transport.close()
            self.transport.write(b"yes")

    async def scenario() -> None:
        async with serving(Refuses, listening) as server:
            client = await server.connect()
            await client.send(b"?")
            assert await client.receive_all() == b"no"

    run(scenario())


def test_a_write_after_our_end_of_file_is_an_error(plain: Listening) -> None:
    async def scenario() -> None:
        protocols = Gathering(KeepsOpen)
        async with serving(protocols, plain) as server:
            await server.connect()
            protocol = await protocols.first()
            assert protocol.transport.can_write_eof()
            protocol.transport.write_eof()
            protocol.transport.write_eof()
            with pytest.raises(RuntimeError, match="write_eof"):
                protocol.transport.write(b"x")

    run(scenario())


def test_a_write_after_our_end_of_file_is_an_error_in_a_read_event_too(plain: Listening) -> None:
    class WritesLate(KeepsOpen):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if data == b"now":
                with pytest.raises(RuntimeError, match="write_eof"):
                    self.transport.write(b"x")
                self.calls.append("refused")

    async def scenario() -> None:
        protocols = Gathering(WritesLate)
        async with serving(protocols, plain) as server:
            client = await server.connect()
            protocol = await protocols.first()
            protocol.transport.write_eof()
            await client.send(b"now")
            await until(lambda: protocol.data == b"now")
            assert protocol.calls[-1] == "refused"
            await turn(0.02)
            await client.send(b", and on")
            await until(lambda: protocol.data == b"now, and on")
            assert protocol.lost == []

    run(scenario())


def test_a_silent_connection_is_ended_after_limits_idle(listening: Listening) -> None:
    async def scenario() -> None:
        protocols = Gathering()
        async with serving(protocols, listening, Limits(idle=0.3)) as server:
            client = await server.connect()
            begun = time.monotonic()
            protocol = await protocols.first()
            await client.send(b"x")
            await within(5, server.until_closed())
            assert time.monotonic() - begun > 0.25
            assert len(protocol.lost) == 1
            assert server.count(Count.TIMED_OUT) == 1

    run(scenario())


def test_a_handler_at_work_is_not_idle(listening: Listening) -> None:
    async def handle(conn: Connection) -> None:
        await go.wait()
        await conn.send(b"done")

    go = asyncio.Event()

    async def scenario() -> None:
        async with serving(handle, listening, Limits(idle=0.1)) as server:
            client = await server.connect()
            await turn(1.2)  # a sweep comes once a second
            go.set()
            assert await client.receive_all() == b"done"
            assert server.count(Count.TIMED_OUT) == 0

    run(scenario())
