"""What a watcher's callback schedules is run at once, though the selector stays inside select()."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest

from prefork.net.loop import READABLE, Selector, new_loop

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
