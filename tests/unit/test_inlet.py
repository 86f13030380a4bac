"""Reading: read, read_exactly, read_until; cancelled, timed out and resumed; one reader at a time; the end."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from prefork import Connection, LocalProtocolError, RemoteProtocolError
from prefork.config.limits import Limits
from prefork.net.inlet import INPUT_BYTES
from tests.unit.fake_transport import Scene

Read = Callable[[Connection], Awaitable[Any]]


def play(read: Callable[[Connection], Any], *pieces: bytes, end: bool = True, limits: Limits | None = None) -> Any:
    """Return what a handler returns or raises when pieces arrive one after the other, each in its own event."""
    outcome: list[Any] = []

    async def handle(conn: Connection) -> None:
        try:
            outcome.append(await read(conn))
        except Exception as error:  # noqa: BLE001  # it is the outcome
            outcome.append(error)

    async def scenario() -> None:
        scene = Scene(handle, limits)
        for piece in pieces:
            await scene.arrive(piece)
        if end:
            await scene.end()
        await scene.settle()

    asyncio.run(scenario())
    assert outcome, "the handler still waits"
    return outcome[0]


def test_read_gives_what_is_there_and_nothing_at_the_end() -> None:
    async def read(conn: Connection) -> list[bytes]:
        return [await conn.read(), await conn.read(), await conn.read()]

    assert play(read, b"one", b"two") == [b"one", b"two", b""]


def test_read_gives_at_most_what_was_asked_for_and_keeps_the_rest() -> None:
    async def read(conn: Connection) -> list[bytes]:
        return [await conn.read(2), await conn.read(2), await conn.read(2), await conn.read(2)]

    assert play(read, b"abcde") == [b"ab", b"cd", b"e", b""]


def test_everything_that_is_read_is_bytes() -> None:
    async def read(conn: Connection) -> list[type]:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        parts = [await conn.read(1), await conn.read_exactly(1), await conn.read_until(b"c"), await conn.read()]
        return [type(part) for part in parts]

    assert play(read, b"ab", b"cd", b"e") == [bytes] * 4


@pytest.mark.parametrize("pieces", [(b"abcdef",), (b"a", b"b", b"c", b"d", b"e", b"f"), (b"abcd", b"ef")])
def test_read_exactly_gives_exactly_that_and_keeps_the_rest(pieces: tuple[bytes, ...]) -> None:
    async def read(conn: Connection) -> list[bytes]:
        return [await conn.read_exactly(0), await conn.read_exactly(4), await conn.read_exactly(2)]

    assert play(read, *pieces) == [b"", b"abcd", b"ef"]


def test_read_exactly_tells_what_came_when_the_input_ends_before() -> None:
    error = play(lambda conn: conn.read_exactly(10), b"abc")
    assert isinstance(error, asyncio.IncompleteReadError)
    assert (error.partial, error.expected) == (b"abc", 10)


@pytest.mark.parametrize("separator", [b"\n", b"\r\n", b"\r\n\r\n"])
def test_read_until_finds_a_separator_however_it_arrives(separator: bytes) -> None:
    async def read(conn: Connection) -> list[bytes]:
        return [await conn.read_until(separator), await conn.read_until(separator), await conn.read()]

    data = b"one" + separator + b"two" + separator + b"rest"
    expected = [b"one" + separator, b"two" + separator]
    assert play(read, data) == [*expected, b"rest"]
    assert play(read, *(data[i : i + 1] for i in range(len(data))))[:2] == expected
    for seed in range(30):
        place = random.Random(seed).randrange(len(data))
        assert play(read, data[:place], data[place:])[:2] == expected


@pytest.mark.parametrize("size", [-1, 0, 1])
@pytest.mark.parametrize("is_split", [False, True])
def test_read_until_looks_exactly_as_far_as_its_limit(size: int, is_split: bool) -> None:
    data = b"x" * (9 + size) + b"\n"
    pieces = [data[:-1], data[-1:]] if is_split else [data]
    outcome = play(lambda conn: conn.read_until(b"\n", 10), *pieces)
    assert isinstance(outcome, RemoteProtocolError) if size > 0 else outcome == data


def test_read_until_has_the_listeners_frame_as_its_limit_by_default() -> None:
    outcome = play(lambda conn: conn.read_until(b"\n"), b"x" * 11, end=False, limits=Limits(frame=10))
    assert isinstance(outcome, RemoteProtocolError)


def test_read_until_tells_what_came_when_the_input_ends_before() -> None:
    error = play(lambda conn: conn.read_until(b"\n"), b"abc")
    assert isinstance(error, asyncio.IncompleteReadError)
    assert error.partial == b"abc"


READS: dict[str, Read] = {
    "read": lambda conn: conn.read(),
    "read_exactly": lambda conn: conn.read_exactly(5),
    "read_until": lambda conn: conn.read_until(b"o"),
    "iteration": lambda conn: conn.__anext__(),
}


async def give_up(conn: Connection, read: Read) -> None:
    async with asyncio.timeout(0.005):
        await read(conn)


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_read_that_timed_out_loses_nothing_and_the_next_one_gets_it(read: Read) -> None:
    got: list[bytes] = []

    async def handle(conn: Connection) -> None:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await give_up(conn, read)
        timed_out.set()
        got.append(await read(conn))

    timed_out = asyncio.Event()

    async def scenario() -> None:
        scene = Scene(handle)
        await timed_out.wait()
        await scene.arrive(b"hello")
        assert got == [b"hello"]

    asyncio.run(scenario())


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize("is_first", [True, False], ids=["cancelled first", "arrived first"])
def test_a_cancellation_in_the_turn_in_which_bytes_arrive_loses_neither(read: Read, is_first: bool) -> None:
    outcome: list[object] = []

    async def reader(conn: Connection) -> None:
        try:
            outcome.append(await read(conn))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            outcome.append("cancelled")
            outcome.append(conn.is_waiting)

    async def handle(conn: Connection) -> None:
        task = asyncio.ensure_future(reader(conn))
        await asyncio.sleep(0)
        steps: list[Callable[[], object]] = [task.cancel, lambda: conn.data_received(b"hello")]
        for step in steps if is_first else reversed(steps):
            asyncio.get_running_loop().call_soon(step)
        await asyncio.wait([task])
        if is_first:
            outcome.append(await asyncio.wait_for(conn.read(), 5))

    async def scenario() -> None:
        scene = Scene(handle)
        await scene.settle()
        await scene.settle()
        assert scene.is_over

    asyncio.run(scenario())
    assert outcome == (["cancelled", False, b"hello"] if is_first else [b"hello", "cancelled", False])


@pytest.mark.parametrize("second", READS.values(), ids=READS)
@pytest.mark.parametrize("first", READS.values(), ids=READS)
def test_a_second_reader_is_told_so_and_the_first_is_not_disturbed(first: Read, second: Read) -> None:
    got: list[object] = []

    async def handle(conn: Connection) -> None:
        task = asyncio.ensure_future(first(conn))
        await asyncio.sleep(0)
        with pytest.raises(LocalProtocolError, match="another task"):
            await second(conn)
        refused.set()
        got.append(await task)

    refused = asyncio.Event()

    async def scenario() -> None:
        scene = Scene(handle)
        await asyncio.wait_for(refused.wait(), 5)
        await scene.arrive(b"hello")
        assert got == [b"hello"]

    asyncio.run(scenario())


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize("is_waiting", [True, False], ids=["while it waits", "before it reads"])
def test_a_reset_is_raised_to_the_reader_as_often_as_it_reads(read: Read, is_waiting: bool) -> None:
    raised: list[bool] = []

    async def handle(conn: Connection) -> None:
        if not is_waiting:
            await go.wait()
        for _ in range(2):
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)) as caught:
                await read(conn)
            raised.append(isinstance(caught.value, ConnectionResetError))

    go = asyncio.Event()

    async def scenario() -> None:
        scene = Scene(handle)
        await scene.settle()
        await scene.end(ConnectionResetError("reset by the peer"))
        go.set()
        await scene.settle()
        assert raised == [True, True]

    asyncio.run(scenario())


def test_what_arrived_before_the_end_is_read_first() -> None:
    async def read(conn: Connection) -> list[bytes]:
        await conn.draining
        return [await conn.read(2), await conn.read(), await conn.read()]

    async def scenario() -> None:
        scene = Scene(lambda conn: handle(conn))
        await scene.arrive(b"abc", b"def")
        await scene.end()
        scene.service.site.draining.begin()
        await scene.settle()
        await scene.settle()

    got: list[list[bytes]] = []

    async def handle(conn: Connection) -> None:
        got.append(await read(conn))

    asyncio.run(scenario())
    assert got == [[b"ab", b"cdef", b""]]


def test_unread_input_stops_the_transport_at_the_mark_and_reading_starts_it_again() -> None:
    async def handle(conn: Connection) -> None:
        await go.wait()
        sizes.append(len(await conn.read()))
        await conn.draining

    go = asyncio.Event()
    sizes: list[int] = []

    async def scenario() -> None:
        scene = Scene(handle)
        half = bytes(INPUT_BYTES // 2)
        await scene.arrive(half)
        assert not scene.transport.is_paused
        await scene.arrive(half)
        assert scene.transport.is_paused
        go.set()
        await scene.settle()
        assert not scene.transport.is_paused
        assert sizes == [INPUT_BYTES]
        scene.service.site.draining.begin()
        await scene.settle()

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["read_exactly", "read_until", "read"])
def test_many_small_reads_of_much_input_do_not_copy_the_rest_each_time(kind: str) -> None:
    """Sixteen times the input takes about 16 times as long; 256 times, when the rest is copied each time."""
    took: list[float] = []

    async def handle(conn: Connection) -> None:
        await conn.draining
        before = time.thread_time()
        while data := await conn.read(4):
            if kind == "read_exactly":
                await conn.read_exactly(4)
            elif kind == "read_until":
                await conn.read_until(b"\n")
            assert data
        took.append(time.thread_time() - before)

    async def scenario(size: int) -> None:
        scene = Scene(handle)
        await scene.arrive(b"", b"abcdefg\n" * (size // 8))
        await scene.end()
        scene.service.site.draining.begin()
        await _until_over(scene)

    for size in (65_536, 16 * 65_536):
        asyncio.run(scenario(size))
    assert took[1] < 64 * took[0], took


async def _until_over(scene: Scene) -> None:
    while not scene.is_over:
        await asyncio.sleep(0)
