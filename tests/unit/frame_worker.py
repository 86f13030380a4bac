"""A handler that works when it is allowed to, on frames of which some are too long.

Knows: connections, scenes. Does not know: what a test is about.
"""

from __future__ import annotations

import asyncio
from typing import Any

from prefork import Connection, Lines, Over, RemoteProtocolError
from prefork.scoreboard import Count
from tests.unit.fake_transport import Scene

TOLD = b"error: line over 30 bytes\n"
LONG = b"far too long".ljust(40, b"!") + b"\n"
LINES = Lines(30, over=Over.ERROR)


class Worker:
    """A handler that answers each frame when it is allowed to, and writes down what it got."""

    def __init__(self) -> None:
        self.got: list[Any] = []
        self._permits = asyncio.Semaphore(0)

    def permit(self, count: int = 1) -> None:
        for _ in range(count):
            self._permits.release()

    async def handle(self, conn: Connection) -> None:
        try:
            async for frame in conn:
                self.got.append(frame)
                await self._permits.acquire()
                await conn.send(frame)
        except (RemoteProtocolError, ConnectionError) as error:
            self.got.append(type(error))
            raise
        self.got.append("end")


async def echo(conn: Connection) -> None:
    async for frame in conn:
        await conn.send(frame)


def counter(scene: Scene, cell: Count) -> int:
    return int(scene.service.ledger.cells[cell])


def slow_down(scene: Scene) -> None:
    scene.conn.pause_writing()


async def speed_up(scene: Scene) -> None:
    asyncio.get_running_loop().call_soon(scene.conn.resume_writing)
    await scene.settle()
