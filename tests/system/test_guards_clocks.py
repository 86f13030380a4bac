"""The clocks of a connection: handshake, idle, message, rates, life; who is too slow goes, others stay."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.eventually import eventually
from tests.system.certificates import Authority
from tests.system.certificates import listener as tls_listener
from tests.system.conftest import Prepare
from tests.system.running import Running, receive
from tests.system.visitors import (
    ask,
    counted,
    has_ended,
    hear,
    listener,
    open_connections,
    rejections,
    told,
    visit,
)

TICK = 2.1  # a sweep a second, a coarse clock of a quarter, a machine that is busy
APPS = """
import asyncio, os

async def echo(conn):
    async for data in conn:
        while data == b'hold!' and not os.path.exists('gate'):
            await asyncio.sleep(0.01)
        await conn.send(data)

async def large(conn):
    async for data in conn:
        await conn.send(bytes(16 << 20))

class Frames(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def frame_received(self, frame):
        self.transport.write_frame(frame)
class Bytes(Frames):
    def data_received(self, data):
        self.transport.write(data)
class Large(Frames):
    def data_received(self, data):
        self.transport.write(bytes(16 << 20))

def frames():
    return Frames()
def callback():
    return Bytes()
def large_callback():
    return Large()
"""
KINDS = ["echo", "frames"]


def start(prepare: Prepare, limits: dict[str, Any], app: str = "echo", **more: Any) -> Running:
    row = listener(limits, app=f"app:{app}", **more)
    return prepare({"app.py": APPS}, workers=1, listeners=[row]).start()


@contextmanager
def repeating(act: Callable[[], object], every: float) -> Iterator[None]:
    """Do something again and again in another thread, until it fails or the block ends."""
    is_over = threading.Event()

    def run() -> None:
        try:
            while not is_over.wait(every):
                act()
        except OSError:  # the server has closed the connection, which the test sees
            pass

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(10)


def seconds_to_end(sock: socket.socket) -> float:
    begun = time.monotonic()
    hear(sock)
    return time.monotonic() - begun


# --- idle ---


@pytest.mark.parametrize("app", ["echo", "callback"])
def test_who_says_nothing_goes_after_limits_idle_and_who_talks_stays(prepare: Prepare, app: str) -> None:
    server = start(prepare, {"idle": "1500ms"}, app=app)
    with visit(server.port()) as quiet, visit(server.port()) as late, visit(server.port()) as talker:
        assert ask(late) == b"hello"
        with repeating(lambda: ask(talker), 0.3):
            assert 1.2 < seconds_to_end(quiet) < 1.5 + TICK
            hear(late)
        assert ask(talker) == b"hello"
    assert rejections(server) == {"idle": 2}
    assert not told(server, "limits.idle")  # it is no news


@pytest.mark.slow
def test_who_waits_for_an_answer_is_not_idle(prepare: Prepare) -> None:
    server = start(prepare, {"idle": "1s"})
    with visit(server.port()) as waiting, visit(server.port()) as quiet:
        waiting.sendall(b"hold!")
        hear(quiet)
        begun = time.monotonic()
        eventually(lambda: time.monotonic() - begun > 1.5)
        (server.folder / "gate").touch()
        assert waiting.recv(5) == b"hold!"


@pytest.mark.slow
def test_a_trial_counts_a_connection_once_and_closes_none(prepare: Prepare) -> None:
    server = start(prepare, {"idle": {"value": "1s", "dry_run": True}})
    with visit(server.port()) as one, visit(server.port()) as two:
        eventually(lambda: counted(server, "idle", "dry_run") == 2, within=5)
        begun = time.monotonic()
        eventually(lambda: time.monotonic() - begun > 2.5)
        assert counted(server, "idle", "dry_run") == 2
        assert ask(one) == ask(two) == b"hello"
    assert not rejections(server)


def test_a_trial_of_one_clock_does_not_stop_the_others(prepare: Prepare) -> None:
    limits = {"idle": {"value": "1s", "dry_run": True}, "message": "2s"}
    server = start(prepare, limits, framing="lines")
    with visit(server.port()) as sock:
        sock.sendall(b"half a li")
        sock.settimeout(2 + TICK + 2)
        assert seconds_to_end(sock) < 2 + TICK
    assert rejections(server) == {"message": 1}


# --- message: regression 13 ---


@pytest.mark.parametrize("framing", ["lines", "length"])
@pytest.mark.parametrize("app", KINDS)
def test_a_byte_per_moment_for_ever_ends_at_limits_message(prepare: Prepare, app: str, framing: str) -> None:
    server = start(prepare, {"message": "2s"}, app=app, framing=framing)
    pieces = iter(
        {"lines": b"x" * 999, "length": b"\0\0\x01\0" + b"x" * 99, "netstring": b"900:" + b"x" * 899}[framing]
    )
    with visit(server.port()) as slow, visit(server.port()) as still:
        slow.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with repeating(lambda: slow.sendall(bytes([next(pieces)])), 0.15):
            took = seconds_to_end(slow)
        assert 1.5 < took < 2 + TICK, took
        assert not has_ended(still)  # who has begun no frame has not begun to be late
    assert rejections(server) == {"message": 1}
    assert len(told(server, "limits.message")) == 1


@pytest.mark.slow
@pytest.mark.parametrize("app", KINDS)
def test_each_frame_has_its_own_time(prepare: Prepare, app: str) -> None:
    server = start(prepare, {"message": "1s"}, app=app, framing="lines")
    with visit(server.port()) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        begun = time.monotonic()
        sock.sendall(b"begun ")
        heard = b""
        while time.monotonic() - begun < 4:  # the end of one frame and the beginning of the next in one segment
            sock.sendall(b"ended\nbegun ")
            heard += receive(sock, 12)
            sock.settimeout(0.3)
            with pytest.raises(TimeoutError):
                sock.recv(1)
            sock.settimeout(10)
        assert heard.count(b"begun ended\n") > 5
    assert not rejections(server)


# --- handshake ---


def test_handshakes_that_stand_still_end_in_time(prepare: Prepare) -> None:
    server = prepare({"app.py": APPS}, workers=1)
    row = {**tls_listener(), "limits": {"handshake": "2s"}}
    server.configure({"workers": 1, "listeners": [row]})
    Authority().issue().write(server.folder)
    server.start()
    with visit(server.port()) as silent, visit(server.port()) as begun, visit(server.port()) as dripping:
        begun.sendall(b"\x16\x03\x01\x02\0\x01\0")
        drops = iter(b"\x16\x03\x01\x40\0" + bytes(999))
        with repeating(lambda: dripping.sendall(bytes([next(drops)])), 0.1):
            took = [seconds_to_end(sock) for sock in (silent, begun, dripping)]
        assert sum(took) < 2 + TICK + 0.5
    assert counted(server, "handshake") == 3
    eventually(lambda: open_connections(server) == 0)


# --- min_rate ---


def reader(port: int, receive_bytes: int = 2048) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    sock.settimeout(30)
    sock.connect(("127.0.0.1", port))
    sock.sendall(b"go")
    return sock


@pytest.mark.slow
@pytest.mark.parametrize("app", ["large", "large_callback"])
def test_a_reader_of_ten_bytes_a_second_goes_within_15_s_and_one_of_64_kib_stays(
    prepare: Prepare, app: str
) -> None:
    server = start(prepare, {"min_rate": 240, "buffer": "64MiB"}, app=app)
    with reader(server.port()) as slow, reader(server.port(), 32_768) as steady:
        begun = time.monotonic()
        with repeating(lambda: slow.recv(1), 0.1), repeating(lambda: receive(steady, 6554), 0.1):
            eventually(lambda: counted(server, "min_rate") == 1, within=20)
            took = time.monotonic() - begun
            assert took < 15.5
            assert open_connections(server) == 1
            eventually(lambda: time.monotonic() - begun > took + 3)
        assert rejections(server) == {"min_rate": 1}
        assert not has_ended(steady)


@pytest.mark.slow
def test_a_frame_that_comes_too_slowly_ends_though_limits_message_is_far(prepare: Prepare) -> None:
    server = start(prepare, {"min_rate": 2000, "message": "5m"}, framing="lines")
    with visit(server.port(), timeout=25) as slow, visit(server.port()) as typist:
        typist.sendall(b"a few wor")
        with repeating(lambda: slow.sendall(b"x" * 100), 0.1):
            assert 10 < seconds_to_end(slow) < 16
        assert not has_ended(typist)
    assert rejections(server) == {"min_rate": 1}


# --- life ---


@pytest.mark.slow
@pytest.mark.parametrize("app", ["echo", "callback"])
def test_a_life_ends_behind_the_next_answer_and_never_before_it(prepare: Prepare, app: str) -> None:
    server = start(prepare, {"life": "3s"}, app=app)
    port = server.port()
    lives = []

    def live() -> None:
        with visit(port) as sock:
            begun, answers = time.monotonic(), [b"hello"]
            while answers[-1] == b"hello" and time.monotonic() - begun < 8:
                answers.append(ask(sock))
            lives.append((time.monotonic() - begun, answers[-1]))

    threads = [threading.Thread(target=live) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert all(2.6 < took < 3.4 + TICK for took, _ in lives), lives
    assert {last for _, last in lives} == {b""}, "the end comes with the last answer, as a FIN and not as a reset"
    assert counted(server, "life") == 6


def test_who_is_in_the_midst_of_a_request_at_the_end_of_life_gets_the_answer(prepare: Prepare) -> None:
    server = start(prepare, {"life": "1s"})
    with visit(server.port()) as busy, visit(server.port()) as idle, visit(server.port()) as new:
        busy.sendall(b"hold!")
        assert ask(idle) == b"hello"
        assert seconds_to_end(idle) < 1.2 + 1 + TICK
        eventually(lambda: counted(server, "life") >= 2, within=5)
        (server.folder / "gate").touch()
        assert receive(busy, 5) == b"hold!"
        assert hear(busy) == b""
        del new


@pytest.mark.slow
def test_a_trial_of_life_ends_nobody(prepare: Prepare) -> None:
    server = start(prepare, {"life": {"value": "1s", "dry_run": True}})
    with visit(server.port()) as sock:
        eventually(lambda: counted(server, "life", "dry_run") == 1, within=5)
        assert ask(sock) == b"hello"
        begun = time.monotonic()
        eventually(lambda: time.monotonic() - begun > 2)
        assert ask(sock) == b"hello"
        assert counted(server, "life", "dry_run") == 1
