"""The end of a connection that we close first: its input is read and dropped, in portions."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from prefork.net.linger import LINGER_SECONDS, Linger
from prefork.net.loop import READABLE
from tests.unit.fake_transport import new_service


class Endless:
    """A socket whose peer sends faster than anybody reads, up to a number of reads, then does something else."""

    def __init__(self, reads: int, then: bytes | OSError) -> None:
        self.reads = 0
        self.is_closed = False
        self._most = reads
        self._then = then

    def fileno(self) -> int:
        return 99

    def recv(self, count: int) -> bytes:
        self.reads += 1
        if self.reads <= self._most:
            return bytes(count)
        if isinstance(self._then, OSError):
            raise self._then
        return self._then

    def close(self) -> None:
        self.is_closed = True


class Books:
    """A selector that only keeps who watches what."""

    def __init__(self) -> None:
        self.watched: dict[int, Any] = {}

    def replace(self, fd: int, watcher: Any) -> None:
        self.watched[fd] = watcher

    def forget(self, fd: int) -> None:
        del self.watched[fd]


async def lingering(sock: Any) -> tuple[Linger, Books]:
    service = new_service()
    books: Any = Books()
    service.site.selector = books
    serial = service.ledger.count_opened()
    return Linger(sock, service, READABLE, serial), books


def test_a_peer_that_sends_for_ever_does_not_keep_the_loop_to_itself() -> None:
    async def scenario() -> None:
        sock = Endless(10_000, b"")
        linger, books = await lingering(sock)
        linger.on_event(READABLE)
        assert 1 <= sock.reads <= 64
        assert not sock.is_closed
        assert books.watched == {99: linger}

    asyncio.run(scenario())


@pytest.mark.parametrize("end", [b"", ConnectionResetError()], ids=["its end", "a reset"])
def test_after_the_peers_last_byte_comes_the_close(end: bytes | OSError) -> None:
    async def scenario() -> None:
        sock = Endless(3, end)
        linger, books = await lingering(sock)
        linger.on_event(READABLE)
        assert sock.is_closed
        assert books.watched == {}

    asyncio.run(scenario())


def test_while_the_peer_is_silent_it_stays_until_its_deadline() -> None:
    async def scenario() -> None:
        sock = Endless(3, BlockingIOError())
        linger, _ = await lingering(sock)
        linger.on_event(READABLE)
        assert not sock.is_closed
        assert 0 < linger.deadline - asyncio.get_running_loop().time() <= LINGER_SECONDS

    asyncio.run(scenario())
