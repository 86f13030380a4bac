"""A connection with frames as its handler sees it: complaints in their place, what is held, slow peers."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from prefork import Connection, JsonLines, Length, Netstring, Over
from prefork.scoreboard import Count
from tests.unit.fake_transport import Scene
from tests.unit.frame_worker import LINES, LONG, TOLD, Worker, counter, echo, slow_down, speed_up

# --- order ---

CUTS = [
    [b"1\n" + LONG + b"3\n"],
    [b"1\n", LONG, b"3\n"],
    [b"1\n" + LONG[:9], LONG[9:] + b"3\n"],
    [b"1\n" + LONG, b"3\n"],
    [b"1", b"\n" + LONG[:35], LONG[35:] + b"3", b"\n"],
]


@pytest.mark.parametrize("pieces", CUTS, ids=range(len(CUTS)))
@pytest.mark.parametrize("is_slow", [False, True], ids=["at once", "later"])
def test_an_error_goes_out_after_the_answer_before_it_and_before_the_one_after_it(
    pieces: list[bytes], is_slow: bool
) -> None:
    async def scenario() -> None:
        worker = Worker()
        scene = Scene(worker.handle, framing=LINES)
        if not is_slow:
            worker.permit(9)
        await scene.arrive(*pieces)
        worker.permit(9)
        await scene.settle()
        await scene.end()
        assert b"".join(scene.transport.written) == b"1\n" + TOLD + b"3\n"
        assert worker.got == [b"1", b"3", "end"]
        assert counter(scene, Count.SKIPPED) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("pattern", ["eFe", "eeF", "FeeF", "eeee", "FeFeFe", "FFeeFFee"])
@pytest.mark.parametrize("size", [1, 3, 7, 64, 1000])
def test_answers_and_errors_are_in_the_order_of_their_frames_in_any_cut(pattern: str, size: int) -> None:
    """A real reader stops when it is paused: so does what feeds here."""

    async def scenario() -> None:
        worker = Worker()
        scene = Scene(worker.handle, framing=LINES)
        data = b"".join(LONG if sign == "e" else b"%d\n" % at for at, sign in enumerate(pattern))
        for at in range(0, len(data), size):
            while scene.transport.is_paused:
                worker.permit()
                await scene.settle()
            await scene.arrive(data[at : at + size])
        worker.permit(len(pattern))
        await scene.settle()
        await scene.end()
        wanted = [TOLD if sign == "e" else b"%d\n" % at for at, sign in enumerate(pattern)]
        assert b"".join(scene.transport.written) == b"".join(wanted)
        assert counter(scene, Count.SKIPPED) == pattern.count("e")

    asyncio.run(asyncio.wait_for(scenario(), 10))


@pytest.mark.parametrize("over", [Over.SKIP, Over.ERROR])
@pytest.mark.parametrize("kind", [Length, Netstring])
def test_a_frame_that_is_passed_over_is_counted_and_only_the_policy_error_tells_it(over: Over, kind: Any) -> None:
    async def scenario() -> None:
        framing = kind(100, over)
        scene = Scene(echo, framing=framing)
        await scene.arrive(framing.encode(b"one") + framing.encode(b"x" * 101) + framing.encode(b"two"))
        error = framing.encode(b"error: frame over 100 bytes") if over is Over.ERROR else b""
        assert b"".join(scene.transport.written) == framing.encode(b"one") + error + framing.encode(b"two")
        assert (counter(scene, Count.SKIPPED), counter(scene, Count.BROKEN), counter(scene, Count.ERRORS)) == (
            1,
            0,
            0,
        )

    asyncio.run(scenario())


# --- waiting ---


def test_a_handler_that_waits_keeps_waiting_while_only_complaints_arrive() -> None:
    async def scenario() -> None:
        worker = Worker()
        scene = Scene(worker.handle, framing=LINES)
        await scene.settle()
        for count in range(1, 6):
            await scene.arrive(LONG)
            assert scene.conn.is_waiting
            assert scene.transport.written == [TOLD] * count
            assert worker.got == []
        worker.permit()
        await scene.arrive(b"ok\n")
        assert worker.got == [b"ok"]
        assert scene.transport.written[-1] == b"ok\n"

    asyncio.run(scenario())


def test_read_waits_over_complaints_as_iteration_does() -> None:
    async def handle(conn: Connection) -> None:
        got.append(await conn.read())
        got.append(await conn.read())

    got: list[bytes] = []

    async def scenario() -> None:
        scene = Scene(handle, framing=LINES)
        await scene.arrive(LONG, LONG + b"1\n", LONG)
        assert got == [b"1"]
        await scene.end()
        assert got == [b"1", b""]
        assert scene.transport.written == [TOLD] * 3

    asyncio.run(scenario())


def test_a_timeout_while_only_complaints_arrive_loses_nothing() -> None:
    async def handle(conn: Connection) -> None:
        try:
            async with conn.timeout(0.01):
                got.append(await conn.read())
        except TimeoutError:
            got.append("late")
        async for frame in conn:
            got.append(frame)

    got: list[Any] = []

    async def scenario() -> None:
        scene = Scene(handle, framing=LINES)
        await scene.arrive(LONG)
        while not got:
            await asyncio.sleep(0)
        await scene.arrive(LONG, b"1\n", LONG + b"2\n")
        assert got == ["late", b"1", b"2"]
        assert scene.transport.written == [TOLD] * 3

    asyncio.run(asyncio.wait_for(scenario(), 10))


def test_a_second_reader_is_refused_though_complaints_wait_for_a_slow_peer() -> None:
    async def handle(conn: Connection) -> None:
        first = asyncio.ensure_future(conn.read())
        await go.wait()
        with pytest.raises(Exception, match="another task is waiting"):
            await conn.read()
        done.append(await first)

    go = asyncio.Event()
    done: list[bytes] = []

    async def scenario() -> None:
        scene = Scene(handle, framing=LINES)
        await scene.settle()
        slow_down(scene)
        await scene.arrive(LONG)
        go.set()
        await scene.settle()
        await speed_up(scene)
        await scene.arrive(b"1\n")
        assert done == [b"1"]

    asyncio.run(scenario())


# --- what is held ---

HELD = [
    [LONG, LONG],
    [LONG, LONG, LONG],
    [b"1\n", LONG],
    [b"1\n", b"2\n", LONG],
    [LONG, b"1\n", LONG],
    [b"1\n2\n", LONG + LONG],
]


@pytest.mark.parametrize("pieces", HELD, ids=range(len(HELD)))
def test_reading_goes_on_after_complaints_that_a_busy_handler_has_let_lie(pieces: list[bytes]) -> None:
    """Else the connection stands still for ever: the handler waits for input that nobody reads."""

    async def scenario() -> None:
        worker = Worker()
        scene = Scene(worker.handle, framing=LINES)
        await scene.arrive(b"0\n")
        await scene.arrive(*pieces)
        worker.permit(20)
        await scene.settle()
        assert scene.conn.is_waiting
        assert not scene.transport.is_paused
        await scene.arrive(b"last\n")
        await scene.end()
        data = b"".join(pieces)
        assert b"".join(scene.transport.written) == b"0\n" + data.replace(LONG, TOLD) + b"last\n"
        assert worker.got[-2:] == [b"last", "end"]

    asyncio.run(scenario())


def test_a_busy_handler_has_two_reads_of_complaints_waiting_at_the_most() -> None:
    async def scenario() -> None:
        scene = Scene(Worker().handle, framing=LINES)
        await scene.arrive(b"busy\n", LONG, LONG)
        assert scene.transport.is_paused
        assert scene.transport.written == []

    asyncio.run(scenario())


@pytest.mark.parametrize("pattern", ["eF", "eFeF", "eeeF", "FFFe"])
def test_a_read_of_good_frames_behind_bad_ones_takes_linear_time(pattern: str) -> None:
    """One read of a stranger may hold tens of thousands of both."""

    async def seconds(count: int) -> float:
        scene = Scene(echo, framing=JsonLines())
        await scene.settle()
        head = b"".join(b"x\n" if sign == "e" else b"1\n" for sign in pattern)
        data = head * count + b"1\n" * 2 * count
        before = time.thread_time()
        await scene.arrive(data)
        took = time.thread_time() - before
        assert len(scene.transport.written) == data.count(b"\n")
        await scene.end()
        return took

    async def scenario() -> None:
        few, many = await seconds(256), await seconds(2048)
        assert many < 20 * few + 0.05, (few, many)

    asyncio.run(scenario())


# --- a peer that does not read its errors ---


def test_a_slow_peer_that_only_earns_errors_is_not_read_from_until_it_has_taken_them() -> None:
    """Two bytes of a stranger earn nearly thirty: limits.buffer alone would come too late."""

    async def scenario() -> None:
        scene = Scene(echo, framing=JsonLines())
        await scene.settle()
        slow_down(scene)
        fed = 0
        while not scene.transport.is_paused and fed < 50:
            await scene.arrive(b"x\n" * 1000)
            fed += 1
        assert scene.transport.is_paused
        assert fed <= 3
        assert sum(map(len, scene.transport.written)) <= 1000 * 30
        await speed_up(scene)
        assert not scene.transport.is_paused
        assert len(scene.transport.written) == fed * 1000
        assert counter(scene, Count.SKIPPED) == fed * 1000
        await scene.arrive(b"1\n")
        assert scene.transport.written[-1] == b"1\n"

    asyncio.run(scenario())


@pytest.mark.parametrize("rest", [[b"1\n"], [LONG, b"1\n"], [LONG + b"1\n2\n"]], ids=range(3))
@pytest.mark.parametrize("is_busy", [False, True])
def test_the_order_stays_when_a_slow_peer_takes_its_errors_later(rest: list[bytes], is_busy: bool) -> None:
    async def scenario() -> None:
        worker = Worker()
        scene = Scene(worker.handle, framing=LINES)
        await scene.arrive(b"0\n")
        if not is_busy:
            worker.permit(20)
            await scene.settle()
        slow_down(scene)
        await scene.arrive(LONG, *rest)
        worker.permit(20)
        await scene.settle()
        await speed_up(scene)
        await scene.settle()
        await scene.end()
        assert b"".join(scene.transport.written) == b"0\n" + (LONG + b"".join(rest)).replace(LONG, TOLD)

    asyncio.run(scenario())
