"""Frames over a real socket: deadlines while nothing is read, slow peers that only earn errors, one segment."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from prefork import JsonLines, Lines, Over
from prefork.config.limits import Limits
from prefork.framing import Framing
from prefork.net.handler import build_protocol_factory
from prefork.net.service import Draining, Service, Worksite
from prefork.net.tally import Tally
from prefork.net.transport import READ_BYTES, StreamTransport
from prefork.scoreboard import PAGE_BYTES, Count
from tests.kernel.serving import run, turn, until

LINES = Lines(30, over=Over.ERROR)
LONG = b"far too long".ljust(40, b"!") + b"\n"
TOLD = b"error: line over 30 bytes\n"
NO_JSON = b'{"error": "this is no JSON"}\n'


class Pair:
    """The two ends of a connection, of which one is served with a framing."""

    def __init__(self, app: Any, framing: Framing, limits: Limits) -> None:
        loop: Any = asyncio.get_running_loop()
        self.page = memoryview(bytearray(PAGE_BYTES)).cast("Q")
        site = Worksite(loop, loop.prefork_selector, Tally(self.page), Draining())
        self.service = Service("test", limits, framing, site)
        self.service.make_protocol = build_protocol_factory(app, self.service)
        self.ours, self.peer = socket.socketpair()
        for sock in (self.ours, self.peer):
            sock.setblocking(False)
        self.received = b""
        self.transport = StreamTransport(self.ours, "peer", self.service, self.service.ledger.count_opened())
        self.transport.open()

    async def send(self, data: bytes) -> None:
        """Send, and wait until it was taken: what is sent next is another read."""
        self.peer.sendall(data)
        await until(lambda: self._is_taken() or not self.transport.is_reading())

    def _is_taken(self) -> bool:
        try:
            return not self.ours.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True

    async def receive(self, count: int) -> bytes:
        """Wait for so many bytes, counted from the first; return all that have come."""
        await until(lambda: self._read() >= count)
        return self.received

    def _read(self) -> int:
        with contextlib.suppress(BlockingIOError):
            self.received += self.peer.recv(1_000_000)
        return len(self.received)


@contextlib.contextmanager
def pair(app: Any, framing: Framing, limits: Limits | None = None) -> Iterator[Pair]:
    made = Pair(app, framing, limits or Limits(idle=0.0))
    try:
        yield made
    finally:
        made.peer.close()
        made.transport.abort()


class Gated:
    """A coroutine handler that echoes when its gate is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()

    async def handle(self, conn: Any) -> None:
        async for frame in conn:
            await self.gate.wait()
            await conn.send(frame)


class Pausing(asyncio.Protocol):
    """A callback handler that stops the input at a word."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def frame_received(self, frame: bytes) -> None:
        self.transport.write_frame(frame)
        if frame == b"pause":
            self.transport.pause_reading()


async def at(served: Pair, now: float) -> None:
    """Let it be so late, and look at the deadlines, as the loop does: a handler is resumed within."""
    served.service.now = served.service.site.now = now
    asyncio.get_running_loop().call_soon(served.transport.sweep, now)
    await turn()


LIMITS = Limits(idle=0.0, message=60.0)


def test_the_time_in_which_a_handler_was_at_work_is_not_the_peers() -> None:
    """What came meanwhile waits in the kernel; the rest of a frame gets its whole limits.message afterwards."""

    async def scenario() -> None:
        gated = Gated()
        with pair(gated.handle, LINES, LIMITS) as served:
            await at(served, 100.0)
            for piece in (b"1\n", b"2\n", b"3\nha"):
                await served.send(piece)
            assert not served.transport.is_reading()
            await at(served, 1000.0)
            gated.gate.set()
            assert await served.receive(6) == b"1\n2\n3\n"
            await at(served, 1059.0)
            await served.send(b"lf\n")
            assert await served.receive(11) == b"1\n2\n3\nhalf\n"
            assert served.service.ledger.cells[Count.TIMED_OUT] == 0

    run(scenario())


def test_the_time_in_which_a_callback_has_paused_its_transport_is_not_the_peers() -> None:
    async def scenario() -> None:
        with pair(Pausing, LINES, LIMITS) as served:
            await at(served, 100.0)
            await served.send(b"pause\nha")
            assert not served.transport.is_reading()
            await at(served, 1000.0)
            served.transport.resume_reading()
            await at(served, 1059.0)
            await served.send(b"lf\n")
            assert await served.receive(11) == b"pause\nhalf\n"
            assert served.service.ledger.cells[Count.TIMED_OUT] == 0

    run(scenario())


@pytest.mark.parametrize("begin", [b"ha", LONG[:35]], ids=["within the limit", "passed over"])
@pytest.mark.parametrize("app", ["coroutine", "callback"])
def test_bytes_now_and_then_do_not_prolong_the_time_of_a_frame(begin: bytes, app: str) -> None:
    async def scenario() -> None:
        gated = Gated()
        gated.gate.set()
        with pair(gated.handle if app == "coroutine" else Pausing, LINES, LIMITS) as served:
            await at(served, 100.0)
            await served.send(b"1\n" + begin)
            for now in (120.0, 140.0, 159.0):
                await at(served, now)
                await served.send(b"x")
            assert not served.transport.is_closing()
            await at(served, 161.0)
            assert served.service.ledger.cells[Count.TIMED_OUT] == 1

    run(scenario())


@pytest.mark.parametrize("app", ["coroutine", "callback"])
def test_answers_and_errors_to_the_frames_of_one_read_leave_in_one_segment(app: str) -> None:
    async def scenario() -> None:
        gated = Gated()
        gated.gate.set()
        with pair(gated.handle if app == "coroutine" else Pausing, LINES) as served:
            await served.send((b"ok\n" + LONG) * 16)
            await until(lambda: served._read() > 0)
            assert served.received == (b"ok\n" + TOLD) * 16

    run(scenario())


def test_a_peer_that_reads_none_of_its_errors_is_not_read_from_either_and_goes_on_later() -> None:
    async def scenario() -> None:
        gated = Gated()
        gated.gate.set()
        rubbish = b"x\n" * (READ_BYTES // 2)
        with pair(gated.handle, JsonLines()) as served:
            sent = 0
            while served.transport.is_reading():
                with contextlib.suppress(BlockingIOError):
                    sent += served.peer.send(rubbish)
                await turn()
            one_read = READ_BYTES // 2 * len(NO_JSON)
            assert served.transport.get_write_buffer_size() <= 2 * one_read
            wanted = (sent // 2) * len(NO_JSON)
            assert len(await served.receive(wanted)) == wanted
            await until(served.transport.is_reading)
            await served.send(b"\n1\n")
            assert (await served.receive(wanted + 2)).endswith(NO_JSON + b"1\n")

    run(scenario())
