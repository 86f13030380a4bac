"""What a watcher's callback schedules is run at once, though the selector stays inside select()."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable

import pytest

from prefork.net.loop import READABLE, Selector, new_loop
from tests.eventually import eventually

PATIENCE_SECONDS = 10.0
Schedule = Callable[[asyncio.AbstractEventLoop, Callable[[], None]], object]


class Bell:
    """A watcher that schedules something."""

    def __init__(self, sock: socket.socket, ring: Callable[[], object]) -> None:
        self._socket = sock
        self._ring = ring

    def on_event(self, mask: int) -> None:
        self._socket.recv(1)
        self._ring()


def run_until_rung(schedule: Schedule) -> bool:
    """Return whether what a watcher schedules is run before anything else is due."""
    loop, selector = new_loop()
    rung: list[bool] = []

    def ring() -> None:
        rung.append(True)
        loop.stop()

    left, right = socket.socketpair()
    with left, right:
        try:
            watch(selector, left, lambda: schedule(loop, ring))
            loop.call_soon(right.send, b"x")
            loop.call_later(PATIENCE_SECONDS, loop.stop)
            loop.run_forever()
            selector.unwatch(left.fileno())
        finally:
            loop.close()
    return bool(rung)


def watch(selector: Selector, sock: socket.socket, ring: Callable[[], object]) -> None:
    selector.watch(sock.fileno(), Bell(sock, ring), READABLE)


@pytest.mark.parametrize(
    "schedule",
    [
        lambda loop, ring: loop.call_soon(ring),
        lambda loop, ring: loop.call_later(0.001, ring),
        lambda loop, ring: loop.call_at(loop.time(), ring),
        lambda loop, ring: loop.create_task(ringing(ring)),
        lambda loop, ring: loop.call_soon_threadsafe(ring),
        lambda _, ring: ring(),
    ],
    ids=["call_soon", "call_later", "call_at", "create_task", "call_soon_threadsafe", "stop"],
)
def test_what_a_watcher_schedules_is_run_at_once(schedule: Schedule) -> None:
    assert run_until_rung(schedule)


async def ringing(ring: Callable[[], None]) -> None:
    ring()


def test_another_thread_sees_whether_the_loop_waits_and_since_when_it_does_not() -> None:
    loop, selector = new_loop()
    turns: list[float | None] = []
    before = time.monotonic()
    try:
        loop.call_later(0, lambda: turns.append(selector.turn_since))
        loop.call_later(PATIENCE_SECONDS, loop.stop)
        thread = threading.Thread(target=lambda: stop_when_waiting(loop, selector))
        loop.call_soon(thread.start)
        loop.run_forever()
        thread.join()
    finally:
        loop.close()
    (turn,) = turns
    assert turn is not None
    assert before <= turn <= time.monotonic() < before + PATIENCE_SECONDS


def stop_when_waiting(loop: asyncio.AbstractEventLoop, selector: Selector) -> None:
    eventually(lambda: selector.turn_since is None)
    loop.call_soon_threadsafe(loop.stop)
