"""How a connection with frames ends: with complaints that are not answered yet, with half a frame, by a drain."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from prefork import JsonLines, Length, Lines, Netstring, Over, RemoteProtocolError
from prefork.net.service import Departures
from prefork.scoreboard import Count
from tests.unit.fake_transport import Scene
from tests.unit.frame_worker import LINES, LONG, TOLD, Worker, counter, echo, slow_down, speed_up


def ends(scene: Scene) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    return {
        "EOF": scene.conn.eof_received,
        "loss": lambda: scene.conn.connection_lost(ConnectionResetError("reset")),
        "drain": lambda: scene.conn.end_input(None),
        "refusal": lambda: scene.conn.data_received(b"x;"),
        "cancel": lambda: loop.call_soon(scene.conn.cancel_handler),
    }


@pytest.mark.parametrize("how", ["EOF", "loss", "drain", "refusal", "cancel"])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("is_busy", [False, True])
def test_no_complaint_is_ever_given_to_the_handler(how: str, count: int, is_busy: bool) -> None:
    """Whatever ends the connection while a slow peer has not taken its errors."""

    async def scenario() -> None:
        worker = Worker()
        framing = Netstring(5, Over.ERROR)
        scene = Scene(worker.handle, framing=framing)
        await scene.arrive(b"1:0,")
        if not is_busy:
            worker.permit(20)
            await scene.settle()
        slow_down(scene)
        await scene.arrive(*[b"6:123456,"] * count)
        asyncio.get_running_loop().call_soon(ends(scene)[how])
        await scene.settle()
        worker.permit(20)
        await scene.settle()
        await speed_up(scene)
        assert [
            one for one in worker.got if one not in (b"0", "end", RemoteProtocolError, ConnectionResetError)
        ] == []
        assert scene.is_over

    asyncio.run(scenario())


# --- ends ---


@pytest.mark.parametrize("is_busy", [False, True])
def test_complaints_before_the_end_are_answered_before_the_iteration_ends(is_busy: bool) -> None:
    async def scenario() -> None:
        worker = Worker()
        scene = Scene(worker.handle, framing=LINES)
        await scene.arrive(b"1\n")
        if not is_busy:
            worker.permit()
        await scene.arrive(LONG + LONG)
        await scene.end()
        worker.permit()
        await scene.settle()
        assert b"".join(scene.transport.written) == b"1\n" + TOLD + TOLD
        assert worker.got == [b"1", "end"]
        assert scene.is_over

    asyncio.run(scenario())


def test_complaints_before_a_refusal_are_answered_before_it_is_raised() -> None:
    async def scenario() -> None:
        worker = Worker()
        worker.permit(9)
        scene = Scene(worker.handle, framing=Netstring(30, Over.ERROR))
        await scene.arrive(b"1:a,31:" + b"x" * 31 + b",1:b,nonsense")
        assert worker.got == [b"a", b"b", RemoteProtocolError]
        assert b"".join(scene.transport.written) == b"1:a,26:error: frame over 30 bytes,1:b,"
        assert (counter(scene, Count.SKIPPED), counter(scene, Count.BROKEN)) == (1, 1)
        assert scene.is_over

    asyncio.run(scenario())


def test_an_empty_frame_is_a_frame_and_not_the_end() -> None:
    async def scenario() -> None:
        worker = Worker()
        worker.permit(9)
        scene = Scene(worker.handle, framing=Length())
        await scene.arrive(b"\0\0\0\0" * 2)
        assert worker.got == [b"", b""]
        await scene.end()
        assert worker.got == [b"", b"", "end"]

    asyncio.run(scenario())


@pytest.mark.parametrize("line", [b"null", b"0", b"false", b'""', b"[]", b"{}"])
def test_a_value_of_json_that_is_false_is_a_frame_and_not_the_end(line: bytes) -> None:
    async def scenario() -> None:
        scene = Scene(echo, framing=JsonLines())
        await scene.arrive(line + b"\n", line + b"\n1\n")
        await scene.end()
        assert b"".join(scene.transport.written) == line + b"\n" + line + b"\n1\n"

    asyncio.run(scenario())


# --- a frame that has begun ---


@pytest.mark.parametrize("over", [Over.CLOSE, Over.SKIP, Over.ERROR])
def test_a_frame_began_when_its_first_byte_came_also_if_it_is_passed_over(over: Over) -> None:
    async def scenario() -> None:
        scene = Scene(echo, framing=Lines(30, over=over))
        conn: Any = scene.conn
        await scene.settle()
        assert conn.frame_begun is None
        for now, piece in ((100.0, b"a"), (200.0, b"b"), (300.0, b"x" * 28)):
            scene.service.now = now
            await scene.arrive(piece)
            assert conn.frame_begun == 100.0
        scene.service.now = 400.0
        await scene.arrive(b"y")
        assert conn.frame_begun == 100.0 or over is Over.CLOSE
        scene.service.now = 500.0
        await scene.arrive(b"more")
        assert conn.frame_begun == 100.0 or over is Over.CLOSE

    asyncio.run(scenario())


def test_a_frame_behind_another_begins_with_its_own_first_byte() -> None:
    async def scenario() -> None:
        scene = Scene(echo, framing=Length(30, Over.SKIP))
        conn: Any = scene.conn
        for now, piece, begun in (
            (100.0, b"\0\0\0\2a", 100.0),
            (200.0, b"b\0", 200.0),
            (300.0, b"\0\0", 200.0),
            (400.0, b"\x40" + b"x" * 10, 200.0),
            (450.0, b"x" * 10, 200.0),
            (460.0, b"x" * 10, 200.0),
            (500.0, b"x" * 34, None),
            (600.0, b"\0\0\0\0", None),
        ):
            scene.service.now = now
            await scene.arrive(piece)
            assert conn.frame_begun == begun, now

    asyncio.run(scenario())


# --- drain ---


class Answered(Scene):
    """A connection that drains and may end at any time, its transport's last words answered."""

    def begin_drain(self) -> Departures:
        departures = Departures()
        self.service.departures = departures
        departures.allow(self.transport, 0.0)
        self.transport.has_answered = True  # type: ignore[attr-defined]
        self.service.site.draining.begin()
        self.conn.on_drain()
        return departures


def test_a_drain_ends_the_iteration_behind_an_error_that_was_the_last_answer() -> None:
    async def scenario() -> None:
        worker = Worker()
        scene = Answered(worker.handle, framing=LINES)
        await scene.arrive(b"1\n")
        scene.begin_drain()
        await scene.arrive(LONG)
        worker.permit()
        await scene.settle()
        assert scene.transport.written == [b"1\n", TOLD]
        assert worker.got == [b"1", "end"]

    asyncio.run(scenario())


@pytest.mark.parametrize("half", [b"hal", LONG[:35]], ids=["within the limit", "passed over"])
def test_a_drain_does_not_end_the_iteration_while_a_frame_has_begun(half: bytes) -> None:
    async def scenario() -> None:
        worker = Worker()
        worker.permit(9)
        scene = Answered(worker.handle, framing=LINES)
        await scene.arrive(b"1\n" + half)
        departures = scene.begin_drain()
        assert not departures.is_due(scene.transport)
        assert not departures.is_quiet_due(scene.transport, 60.0, 1e9)
        await scene.arrive(b"f\n")
        assert departures.is_due(scene.transport)
        asyncio.get_running_loop().call_soon(scene.conn.end_input)
        await scene.settle()
        assert worker.got == [b"1", *([b"half"] if half == b"hal" else []), "end"]

    asyncio.run(scenario())
