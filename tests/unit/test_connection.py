"""A connection as its handler sees it, on a plain asyncio loop with a transport that only writes things down."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

import pytest

from prefork import Connection, FrameLimitError, Lines, LocalProtocolError, RemoteProtocolError
from prefork.config.limits import Limits
from prefork.scoreboard import Count
from tests.unit.fake_transport import Scene


class Notes:
    """What a handler has met, in order."""

    def __init__(self) -> None:
        self.got: list[Any] = []

    async def iterate(self, conn: Connection) -> None:
        async for data in conn:
            self.got.append(data)
        self.got.append("end")


def test_iteration_gives_what_has_arrived_until_the_peer_ends_its_input() -> None:
    async def scenario() -> None:
        notes = Notes()
        scene = Scene(notes.iterate)
        await scene.arrive(b"one")
        await scene.arrive(b"two", b"three")
        await scene.end()
        assert notes.got == [b"one", b"two", b"three", "end"]
        assert scene.is_over

    asyncio.run(scenario())


def test_what_arrives_before_the_handler_reads_is_given_at_once() -> None:
    async def handle(conn: Connection) -> None:
        await go.wait()
        await notes.iterate(conn)

    go, notes = asyncio.Event(), Notes()

    async def scenario() -> None:
        scene = Scene(handle)
        await scene.arrive(b"a", b"b", b"c")
        go.set()
        await scene.end()
        assert notes.got == [b"abc", "end"]

    asyncio.run(scenario())


def test_a_task_is_resumed_within_the_event_and_not_a_turn_later() -> None:
    async def scenario() -> None:
        notes = Notes()
        scene = Scene(notes.iterate)
        await scene.settle()
        seen: list[Any] = []

        def on_event() -> None:
            scene.conn.data_received(b"now")
            seen.extend(notes.got)

        asyncio.get_running_loop().call_soon(on_event)
        await scene.settle()
        assert seen == [b"now"]
        await scene.end()

    asyncio.run(scenario())


def test_iteration_raises_what_broke_the_connection() -> None:
    async def scenario() -> None:
        scene = Scene(Notes().iterate)
        await scene.arrive(b"x")
        await scene.end(ConnectionResetError("reset"))
        assert scene.is_over
        assert scene.service.site.tally.open == 0
        assert counter(scene, Count.ERRORS) == 0

    asyncio.run(scenario())


def counter(scene: Scene, cell: Count) -> int:
    return int(scene.service.ledger.cells[cell])


def test_send_writes_at_once_and_waits_only_while_the_peer_is_slow() -> None:
    steps: list[str] = []

    async def handle(conn: Connection) -> None:
        await conn.send(b"one")
        steps.append("one")
        conn.pause_writing()
        waiting = asyncio.ensure_future(_send(conn))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        steps.append("blocked")
        conn.resume_writing()
        await waiting

    async def _send(conn: Connection) -> None:
        await conn.send(b"two")
        steps.append("two")

    async def scenario() -> None:
        scene = Scene(handle)
        await scene.settle()
        await scene.settle()
        assert scene.transport.written == [b"one", b"two"]
        assert steps == ["one", "blocked", "two"]

    asyncio.run(scenario())


@pytest.mark.parametrize("before", [False, True], ids=["while it waits", "before it sends"])
def test_send_to_a_connection_that_is_lost_is_an_error(before: bool) -> None:
    async def handle(conn: Connection) -> None:
        if before:
            await go.wait()
        else:
            conn.pause_writing()
            go.set()
        with pytest.raises(ConnectionError):
            await conn.send(b"x")
        raised.append(True)

    go = asyncio.Event()
    raised: list[bool] = []

    async def scenario() -> None:
        scene = Scene(handle)
        await scene.settle()
        scene.transport.is_closed = True
        await scene.end(ConnectionResetError("reset"))
        go.set()
        await scene.settle()
        assert raised == [True]

    asyncio.run(scenario())


def test_a_cancelled_send_leaves_others_waiting() -> None:
    async def handle(conn: Connection) -> None:
        conn.pause_writing()
        with contextlib.suppress(TimeoutError):
            async with conn.timeout(0.01):
                await conn.send(b"given up")
        other = asyncio.ensure_future(asyncio.wait_for(conn.send(b"patient"), 5))
        await asyncio.sleep(0)
        conn.resume_writing()
        await other
        done.append(True)

    done: list[bool] = []

    async def scenario() -> None:
        scene = Scene(handle)
        await asyncio.wait_for(_until_over(scene), 5)
        assert done == [True]

    asyncio.run(scenario())


async def _until_over(scene: Scene) -> None:
    while not scene.is_over:
        await asyncio.sleep(0)


def test_a_connection_tells_who_and_where_it_is() -> None:
    seen: dict[str, Any] = {}

    async def handle(conn: Connection) -> None:
        seen.update(peer=conn.peer, local=conn.local, listener=conn.listener, tls=conn.tls, id=conn.id)
        conn.log.info("hello")

    async def scenario() -> None:
        scene = Scene(handle)
        await scene.settle()

    asyncio.run(scenario())
    assert seen == {
        "peer": ("192.0.2.1", 4711),
        "local": ("192.0.2.2", 9000),
        "listener": "fake",
        "tls": None,
        "id": "fake-0.g1.99-12",
    }


def test_a_record_of_its_log_carries_its_id_its_peer_and_its_listener(caplog: pytest.LogCaptureFixture) -> None:
    async def handle(conn: Connection) -> None:
        conn.log.warning("hello")

    async def scenario() -> None:
        await Scene(handle).settle()

    with caplog.at_level(logging.INFO):
        asyncio.run(scenario())
    (record,) = caplog.records
    told = [record.__dict__[name] for name in ("conn", "peer", "listener")]
    assert told == ["fake-0.g1.99-12", "192.0.2.1:4711", "fake"]


def test_draining_is_a_flag_and_can_be_awaited() -> None:
    seen: list[bool] = []

    async def handle(conn: Connection) -> None:
        seen.append(bool(conn.draining))
        await conn.draining
        seen.append(bool(conn.draining))

    async def scenario() -> None:
        scene = Scene(handle)
        await scene.settle()
        scene.service.site.draining.begin()
        await scene.settle()
        await scene.settle()

    asyncio.run(scenario())
    assert seen == [False, True]


def test_blocking_work_runs_in_a_thread_and_gives_its_result() -> None:
    async def handle(conn: Connection) -> None:
        got.append(await conn.run_blocking(divmod, 7, 2))
        with pytest.raises(ZeroDivisionError):
            await conn.run_blocking(divmod, 7, 0)
        got.append("raised")

    got: list[Any] = []

    async def scenario() -> None:
        scene = Scene(handle)
        await asyncio.wait_for(_until_over(scene), 5)
        scene.service.site.pool.shutdown()

    asyncio.run(scenario())
    assert got == [(3, 1), "raised"]


# --- frames ---


def test_with_a_framing_iteration_gives_frames_and_send_makes_one() -> None:
    async def handle(conn: Connection) -> None:
        async for frame in conn:
            await conn.send(frame.upper())

    async def scenario() -> None:
        scene = Scene(handle, framing=Lines())
        await scene.arrive(b"one\ntw", b"o\n\nthree\n")
        await scene.end()
        assert scene.transport.written == [b"ONE\n", b"TWO\n", b"\n", b"THREE\n"]

    asyncio.run(scenario())


def test_with_a_framing_read_gives_a_frame_and_nothing_at_the_end() -> None:
    async def handle(conn: Connection) -> None:
        while frame := await conn.read():
            got.append(frame)
        got.append(b"end")

    got: list[bytes] = []

    async def scenario() -> None:
        scene = Scene(handle, framing=Lines())
        await scene.arrive(b"one\ntwo\n")
        await scene.end()

    asyncio.run(scenario())
    assert got == [b"one", b"two", b"end"]


def test_with_a_framing_reads_by_bytes_are_refused() -> None:
    async def handle(conn: Connection) -> None:
        with pytest.raises(LocalProtocolError, match="framing"):
            await conn.read_exactly(1)
        with pytest.raises(LocalProtocolError, match="framing"):
            await conn.read_until(b"x")
        done.append(True)

    done: list[bool] = []

    async def scenario() -> None:
        await Scene(handle, framing=Lines()).settle()

    asyncio.run(scenario())
    assert done == [True]


def test_a_frame_over_the_limit_is_raised_to_the_handler_and_counted_as_the_peers_fault() -> None:
    async def handle(conn: Connection) -> None:
        try:
            async for frame in conn:
                got.append(frame)
        except RemoteProtocolError as error:
            got.append(type(error))
            raise

    got: list[Any] = []

    async def scenario() -> None:
        scene = Scene(handle, framing=Lines(4))
        await scene.arrive(b"fine\n")
        await scene.arrive(b"far too long\n")
        await scene.settle()
        assert got == [b"fine", FrameLimitError]
        assert (counter(scene, Count.BROKEN), counter(scene, Count.ERRORS)) == (1, 0)

    asyncio.run(scenario())


def test_whole_frames_before_one_over_the_limit_are_read_first() -> None:
    """Else what a handler gets depends on how the network cut the bytes."""

    async def handle(conn: Connection) -> None:
        async for frame in conn:
            got.append(frame)

    got: list[bytes] = []

    async def scenario() -> None:
        scene = Scene(handle, framing=Lines(4))
        await scene.arrive(b"one\ntwo\nfar too long\n")
        await scene.settle()

    asyncio.run(scenario())
    assert got == [b"one", b"two"]


def test_frames_that_nobody_reads_stop_the_input_and_reading_starts_it_again() -> None:
    async def handle(conn: Connection) -> None:
        await go.wait()
        await notes.iterate(conn)

    go, notes = asyncio.Event(), Notes()

    async def scenario() -> None:
        scene = Scene(handle, framing=Lines())
        await scene.arrive(b"1\n2\n", b"3\n4\n", b"5\n")
        assert scene.transport.is_paused
        go.set()
        await scene.settle()
        assert not scene.transport.is_paused
        await scene.end()
        assert notes.got == [b"1", b"2", b"3", b"4", b"5", "end"]

    asyncio.run(scenario())


def test_a_handler_that_is_through_closes_and_a_failure_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    async def handle(conn: Connection) -> None:
        raise ValueError("on purpose")

    async def scenario() -> None:
        scene = Scene(handle, limits=Limits())
        await scene.settle()
        assert scene.is_over
        assert counter(scene, Count.ERRORS) == 1

    asyncio.run(scenario())
    assert "fake-0.g1.99-12" in caplog.text
    assert "on purpose" in caplog.text
