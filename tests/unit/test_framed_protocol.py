"""A callback protocol with a framing: `frame_received`, `write_frame`, and everything else passed on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from prefork import JsonLines, Length, Lines, Netstring, Over
from prefork.app import AppKind, check_framing, recognise
from prefork.errors import ConfigError
from prefork.framing import Framing
from prefork.net.handler import build_protocol_factory
from prefork.net.service import Service
from prefork.scoreboard import Count
from prefork.testing import connect
from tests.unit.fake_transport import FakeTransport, new_service

LINES = Lines(30, over=Over.ERROR)
LONG = b"far too long".ljust(40, b"!") + b"\n"
TOLD = b"error: line over 30 bytes\n"


class Diary(asyncio.Protocol):
    """Writes down what it is called with, and does what some frames say."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.calls.append("made")

    def frame_received(self, frame: Any) -> None:
        self.calls.append(frame)
        if frame == b"close":
            self.transport.close()
        elif frame == b"fail":
            raise ValueError("on purpose")
        elif frame == b"pause":
            self.transport.pause_reading()
        else:
            self.transport.write_frame(frame)

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def connection_lost(self, error: Exception | None) -> None:
        self.calls.append(("lost", error))


class Stage(FakeTransport):
    """A transport that knows the framing, and its protocol."""

    def __init__(self, app: Any, framing: Framing) -> None:
        super().__init__()
        self.service: Service = new_service(framing=framing)
        self._framing = framing
        make_protocol: Any = build_protocol_factory(app, self.service)
        self.protocol = make_protocol()
        self.protocol.connection_made(self)

    def write_frame(self, frame: Any) -> None:
        self.write(self._framing.encode(frame))

    def feed(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.protocol.data_received(piece)

    def counter(self, cell: Count) -> int:
        return int(self.service.ledger.cells[cell])


def staged(framing: Framing, app: Any = None) -> tuple[Stage, Diary]:
    diary = Diary()
    return Stage(app or (lambda: diary), framing), diary


def run(scenario: Any) -> None:
    """Run what needs a loop, but no time."""

    async def within() -> None:
        scenario()

    asyncio.run(within())


def test_frames_are_given_one_by_one_and_written_as_frames() -> None:
    def scenario() -> None:
        stage, diary = staged(Length())
        stage.feed(b"\0\0\0\1a\0\0", b"\0\2bc\0\0\0\0", b"\0")
        assert diary.calls == ["made", b"a", b"bc", b""]
        assert b"".join(stage.written) == b"\0\0\0\1a\0\0\0\2bc\0\0\0\0"

    run(scenario)


def test_an_error_goes_out_between_the_answers_to_its_neighbours() -> None:
    def scenario() -> None:
        stage, diary = staged(LINES)
        stage.feed(b"1\n" + LONG + b"3\n" + LONG, LONG + b"4\n")
        assert diary.calls == ["made", b"1", b"3", b"4"]
        assert b"".join(stage.written) == b"1\n" + TOLD + b"3\n" + TOLD + TOLD + b"4\n"
        assert stage.counter(Count.SKIPPED) == 3

    run(scenario)


def test_no_frame_comes_after_close_though_it_was_in_the_same_read() -> None:
    def scenario() -> None:
        stage, diary = staged(LINES)
        stage.feed(b"1\nclose\n2\n" + LONG + b"3\n")
        assert diary.calls == ["made", b"1", b"close"]
        assert stage.written == [b"1\n"]
        assert stage.counter(Count.SKIPPED) == 0

    run(scenario)


def test_a_refusal_closes_is_the_peers_fault_and_comes_after_the_frames_before_it() -> None:
    def scenario() -> None:
        stage, diary = staged(Netstring())
        stage.feed(b"1:a,1:b,nonsense")
        assert diary.calls == ["made", b"a", b"b"]
        assert stage.is_closed
        assert (stage.counter(Count.BROKEN), stage.counter(Count.ERRORS)) == (1, 0)

    run(scenario)


def test_a_refusal_without_a_frame_before_it_is_counted_once() -> None:
    def scenario() -> None:
        stage, diary = staged(Netstring())
        stage.feed(b"nonsense")
        assert diary.calls == ["made"]
        assert stage.is_closed
        assert stage.counter(Count.BROKEN) == 1

    run(scenario)


def test_close_before_a_refusal_in_the_same_read_is_no_fault_of_the_peer() -> None:
    def scenario() -> None:
        stage, diary = staged(Netstring())
        stage.feed(b"5:close,nonsense")
        assert diary.calls == ["made", b"close"]
        assert stage.counter(Count.BROKEN) == 0

    run(scenario)


def test_what_frame_received_raises_reaches_the_transport_and_the_frames_before_it_were_given() -> None:
    def scenario() -> None:
        stage, diary = staged(LINES)
        with pytest.raises(ValueError, match="on purpose"):
            stage.feed(b"1\nfail\n2\n")
        assert diary.calls == ["made", b"1", b"fail"]

    run(scenario)


def test_frames_of_one_read_come_though_the_protocol_pauses_its_transport_in_between() -> None:
    """The transport is asked to stop all the same: a read's worth comes at the most."""

    def scenario() -> None:
        stage, diary = staged(LINES)
        stage.feed(b"1\npause\n2\n3\n")
        assert diary.calls == ["made", b"1", b"pause", b"2", b"3"]
        assert stage.is_paused

    run(scenario)


def test_the_flow_of_writing_and_the_loss_are_passed_on() -> None:
    def scenario() -> None:
        stage, diary = staged(LINES)
        error = ConnectionResetError("reset")
        stage.protocol.pause_writing()
        stage.protocol.resume_writing()
        stage.protocol.connection_lost(error)
        assert diary.calls == ["made", "pause", "resume", ("lost", error)]

    run(scenario)


def test_the_end_of_the_input_closes_by_default_and_a_protocol_may_keep_its_half() -> None:
    class Keeper(Diary):
        def eof_received(self) -> bool:
            self.calls.append("eof")
            return True

    def scenario() -> None:
        stage, _ = staged(LINES)
        assert not stage.protocol.eof_received()
        keeper = Keeper()
        stage = Stage(lambda: keeper, LINES)
        stage.feed(b"1\nhalf")
        assert stage.protocol.eof_received() is True
        assert keeper.calls == ["made", b"1", "eof"]

    run(scenario)


def test_a_request_to_drain_reaches_a_protocol_that_has_it_and_no_other() -> None:
    class Leaver(Diary):
        def drain_requested(self) -> None:
            self.calls.append("drain")

    def scenario() -> None:
        leaver = Leaver()
        Stage(lambda: leaver, LINES).protocol.drain_requested()
        assert leaver.calls == ["made", "drain"]
        assert not hasattr(staged(LINES)[0].protocol, "drain_requested")

    run(scenario)


@pytest.mark.parametrize("over", [Over.SKIP, Over.ERROR])
def test_a_frame_began_when_its_first_byte_came_also_if_it_is_passed_over(over: Over) -> None:
    def scenario() -> None:
        stage, _ = staged(Lines(30, over=over))
        for now, piece in ((100.0, b"a"), (200.0, b"x" * 28), (300.0, b"yyy"), (400.0, b"more")):
            stage.service.now = now
            stage.feed(piece)
            assert stage.protocol.frame_begun == 100.0
        stage.service.now = 500.0
        stage.feed(b"\n")
        assert stage.protocol.frame_begun is None

    run(scenario)


def test_frames_of_json_lines_are_values() -> None:
    def scenario() -> None:
        stage, diary = staged(JsonLines())
        stage.feed(b'{"a": 1}\nnull\n\nnonsense\n0\n')
        assert diary.calls == ["made", {"a": 1}, None, 0]
        assert b"".join(stage.written) == b'{"a":1}\nnull\n{"error": "this is no JSON"}\n0\n'

    run(scenario)


# --- what cannot have frames ---


class Bytes(asyncio.Protocol):
    """Has no frame_received."""


class FramedBuffer(asyncio.BufferedProtocol):
    def frame_received(self, frame: bytes) -> None:
        """Take a frame."""


async def streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read bytes."""


@pytest.mark.parametrize(("app", "reason"), [(Bytes, "frame_received"), (streams, "reads bytes, not frames")])
def test_an_app_that_cannot_have_frames_is_refused_with_its_name(app: Any, reason: str) -> None:
    kind = recognise(app, "app:served")
    with pytest.raises(ConfigError, match=f"cannot serve app app:served: .*{reason}"):
        check_framing(app, kind, "app:served", True)
    assert check_framing(app, kind, "app:served", False) is kind


@pytest.mark.parametrize("app", [Diary, FramedBuffer])
def test_a_protocol_with_frame_received_can_have_frames(app: Any) -> None:
    assert check_framing(app, recognise(app, "app:served"), "app:served", True) is AppKind.PROTOCOL


def test_a_factory_of_a_protocol_without_frame_received_is_told_by_its_first_connection() -> None:
    def scenario() -> None:
        with pytest.raises(TypeError, match="a listener with a framing calls frame_received: Bytes has none"):
            Stage(lambda: Bytes(), LINES)

    run(scenario)


@pytest.mark.parametrize("app", [Bytes, streams])
def test_the_connection_in_memory_refuses_what_a_listener_refuses(app: Any) -> None:
    async def scenario() -> None:
        async with connect(app, LINES):
            pass

    with pytest.raises((ConfigError, TypeError), match="frame"):
        asyncio.run(scenario())


def test_a_callback_handler_can_be_tested_in_memory() -> None:
    async def scenario() -> None:
        async with connect(Diary, LINES) as client:
            await client.send(b"1\n" + LONG + b"tw")
            await client.send(b"o\nclose\nthree\n")
            assert await client.reader.read() == b"1\n" + TOLD + b"two\n"

    asyncio.run(asyncio.wait_for(scenario(), 10))


def test_a_coroutine_handler_with_frames_can_be_tested_in_memory() -> None:
    async def handle(conn: Any) -> None:
        async for frame in conn:
            await conn.send(frame)

    async def scenario() -> None:
        async with connect(handle, LINES) as client:
            await client.send(b"1\n" + LONG + b"tw")
            await client.send(b"o\n")
            await client.end()
            assert await client.reader.read() == b"1\n" + TOLD + b"two\n"

    asyncio.run(asyncio.wait_for(scenario(), 10))
