"""asyncio's datagram protocols, as `loop.create_datagram_endpoint` would serve them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prefork.scoreboard import Count
from tests.kernel.datagram_desk import bind, serving
from tests.kernel.serving import run, turn, until


@pytest.fixture
def udp(tmp_path: Path) -> Iterator[socket.socket]:
    with bind("udp", tmp_path) as sock:
        yield sock


class Recorder(asyncio.DatagramProtocol):
    """Notes what it is called with, and echoes."""

    def __init__(self) -> None:
        self.made: list[Any] = []
        self.received: list[bytes] = []
        self.lost: list[Exception | None] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made.append(transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.received.append(data)
        if data == b"raise":
            raise RuntimeError(data)
        self.made[0].sendto(data, addr)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


def noting(made: list[Recorder]) -> Callable[[], Recorder]:
    """Return a factory that notes what it makes."""

    def build() -> Recorder:
        made.append(Recorder())
        return made[-1]

    return build


def test_a_protocol_has_the_life_that_asyncio_gives_it(udp: socket.socket) -> None:
    async def scenario() -> None:
        made: list[Recorder] = []

        async with serving(noting(made), udp) as served:
            (protocol,) = made
            (transport,) = protocol.made
            assert isinstance(transport, asyncio.DatagramTransport)
            assert transport.get_extra_info("sockname") == udp.getsockname()
            assert transport.get_extra_info("socket").getsockname() == udp.getsockname()
            assert transport.get_protocol() is protocol
            assert not transport.is_closing()
            peer = served.come()
            peer.send(b"one", b"", b"two")
            assert await peer.answers(3) == [b"one", b"", b"two"]
            assert protocol.received == [b"one", b"", b"two"]
            assert protocol.lost == []
            served.leave()
            assert protocol.lost == [None]
            assert transport.is_closing()
            transport.sendto(b"late", peer.socket.getsockname())
            assert peer.pending() == []

    run(scenario())


def test_a_class_is_made_once_for_each_socket(udp: socket.socket) -> None:
    async def scenario() -> None:
        async with serving(Recorder, udp) as served:
            served.watched[0].pause()
            served.watch()
            peer = served.come()
            peer.send(b"one")
            assert await peer.receive() == b"one"

    run(scenario())


def test_an_exception_costs_one_datagram(udp: socket.socket) -> None:
    async def scenario() -> None:
        async with serving(Recorder, udp) as served:
            peer = served.come()
            peer.send(b"raise", b"one", b"raise", b"two")
            assert await peer.answers(2) == [b"one", b"two"]
            assert served.count(Count.ERRORS) == 2

    run(scenario())


def test_what_cannot_be_sent_is_told_as_asyncio_tells_it(udp: socket.socket) -> None:
    async def scenario() -> None:
        made: list[Recorder] = []
        async with serving(noting(made), udp) as served:
            transport = made[0].made[0]
            where = served.come().socket.getsockname()
            with pytest.raises(TypeError, match="bytes-like"):
                transport.sendto("text", where)
            with pytest.raises(ValueError, match="address"):
                transport.sendto(b"data")
            with pytest.raises(ValueError, match="too large"):
                transport.sendto(bytes(70_000), where)

    run(scenario())


def test_another_protocol_can_take_over(udp: socket.socket) -> None:
    async def scenario() -> None:
        made: list[Recorder] = []
        async with serving(noting(made), udp) as served:
            transport = made[0].made[0]
            successor = Recorder()
            successor.made.append(transport)
            transport.set_protocol(successor)
            assert transport.get_protocol() is successor
            peer = served.come()
            peer.send(b"for the successor")
            assert await peer.receive() == b"for the successor"
            assert (made[0].received, successor.received) == ([], [b"for the successor"])

    run(scenario())


def test_one_that_closes_its_transport_gets_no_more(udp: socket.socket) -> None:
    async def scenario() -> None:
        made: list[Recorder] = []
        async with serving(noting(made), udp) as served:
            transport = made[0].made[0]
            peer = served.come()
            peer.send(b"one")
            assert await peer.receive() == b"one"
            transport.close()
            assert transport.is_closing()
            peer.send(b"two")
            for _ in range(10):
                await turn()
            assert made[0].received == [b"one"]
            await until(lambda: made[0].lost == [None])
            transport.close()
            transport.abort()
            for _ in range(10):
                await turn()
            assert made[0].lost == [None]

    run(scenario())


def test_an_exception_at_the_end_is_logged_and_harms_nobody(
    udp: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    class Bad(Recorder):
        def connection_lost(self, exc: Exception | None) -> None:
            raise RuntimeError("at the end")

    async def scenario() -> None:
        async with serving(Bad, udp) as served:
            served.leave()
            assert served.count(Count.ERRORS) == 1

    run(scenario())
    assert "at the end" in caplog.text
