"""Who keeps whom waiting: peers that do not read or have no name, coroutines that are too many."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefork.config.limits import Limits
from prefork.net.datagrams import Reply
from prefork.scoreboard import Count
from tests.kernel.datagram_desk import WARM_UP, Peer, bind, serving
from tests.kernel.serving import cpu_share, run, turn, until


@pytest.fixture(params=["udp", "udp6"])
def inet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    """A bound UDP socket of each version in turn."""
    with bind(request.param, tmp_path) as sock:
        yield sock


@pytest.fixture
def unixgram(tmp_path: Path) -> Iterator[socket.socket]:
    with bind("unixgram", tmp_path) as sock:
        yield sock


# --- unix: each peer has a queue of its own, and some have no name ---


@pytest.mark.parametrize("is_async", [False, True], ids=["function", "coroutine"])
def test_a_peer_without_a_name_cannot_be_answered_and_that_is_no_error(
    unixgram: socket.socket, is_async: bool
) -> None:
    seen: list[Any] = []

    def on_datagram(data: bytes, peer: Any, reply: Reply) -> None:
        seen.append(reply.peer)
        reply(data)
        reply.many([data, data])

    async def on_datagram_later(data: bytes, peer: Any, reply: Reply) -> None:
        on_datagram(data, peer, reply)

    async def scenario() -> None:
        async with serving(on_datagram_later if is_async else on_datagram, unixgram) as served:
            nobody, peer = served.come(is_named=False), served.come()
            nobody.send(b"one", b"two")
            peer.send(b"three")
            assert await peer.answers(3) == [b"three"] * 3
            assert len(seen) == 3
            assert not seen[0]
            assert served.count(Count.ERRORS) == 0

    run(scenario())


def echo(data: bytes, peer: Any, reply: Reply) -> None:
    reply(data)


async def fill(peer: Peer) -> None:
    """Ask more than one has room for answers; read none.

    The room is net.unix.max_dgram_qlen, 10 or so; but who is connected to the server has any, unix(7).
    """
    where = peer.socket.getpeername()
    name = peer.socket.getsockname()
    peer.socket.close()
    peer.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    peer.socket.bind(name)
    for _ in range(60):
        peer.socket.sendto(b"hello", where)
        await turn()


def test_a_peer_that_does_not_read_keeps_nobody_else_waiting(unixgram: socket.socket) -> None:
    async def scenario() -> None:
        async with serving(echo, unixgram) as served:
            stuck, peer = served.come(), served.come()
            await fill(stuck)
            for number in range(30):
                peer.send(b"%d" % number)
                assert await peer.receive() == b"%d" % number

    run(scenario())


def test_a_peer_that_does_not_read_keeps_the_loop_at_rest(unixgram: socket.socket) -> None:
    async def scenario() -> None:
        async with serving(echo, unixgram) as served:
            await fill(served.come())
            assert await cpu_share(0.3) < 0.5

    run(scenario())


def test_a_peer_that_is_gone_is_counted_and_harms_nobody(unixgram: socket.socket) -> None:
    async def scenario() -> None:
        async with serving(echo, unixgram) as served:
            gone, peer = served.come(), served.come()
            gone.send(b"hello")
            gone.close()
            peer.send(b"hello")
            assert await peer.receive() == b"hello"
            assert served.count(Count.UNSENT) == 1
            assert served.count(Count.ERRORS) == 0

    run(scenario())


def test_an_answer_larger_than_the_sockets_buffer_is_told_to_the_handler(unixgram: socket.socket) -> None:
    def on_datagram(data: bytes, peer: Any, reply: Reply) -> None:
        try:
            reply(bytes(4 * 1024 * 1024))
        except ValueError:
            reply(b"too large")

    async def scenario() -> None:
        async with serving(on_datagram, unixgram) as served:
            peer = served.come()
            peer.send(b"?")
            assert await peer.receive() == b"too large"

    run(scenario())


# --- coroutines ---


@pytest.mark.parametrize("is_joined", [False, True], ids=["single", "joined"])
def test_never_more_coroutines_than_allowed_are_at_work(inet: socket.socket, is_joined: bool) -> None:
    """What came as one cannot be read in parts: it may be too much by that."""

    async def scenario() -> None:
        gate, counts = asyncio.Event(), [0, 0]

        async def on_datagram(data: bytes, peer: Any, reply: Reply) -> None:
            counts[0] += 1
            counts[1] = max(counts)
            if data != WARM_UP:
                await gate.wait()
            reply(data)
            counts[0] -= 1

        async with serving(on_datagram, inet, Limits(connections=4, amplification=0)) as served:
            peer = served.come()
            await served.warm_up(peer)
            asked = [b"%02d" % number for number in range(40)]
            if is_joined:
                peer.burst(asked)
            else:
                peer.send(*asked)
            await until(lambda: counts[0] >= 4)
            for _ in range(10):
                await turn()
            assert counts[1] <= (40 if is_joined else 4)
            gate.set()
            assert len(await peer.answers(40)) == 40
            assert counts[0] == 0

    run(scenario())


def test_a_socket_that_was_given_away_is_not_read_again_when_a_coroutine_ends(inet: socket.socket) -> None:
    """Its successor reads it: a peer must not come back to the old worker."""

    async def scenario() -> None:
        gate, begun = asyncio.Event(), []

        async def on_datagram(data: bytes, peer: Any, reply: Reply) -> None:
            begun.append(data)
            await gate.wait()

        async with serving(on_datagram, inet, Limits(connections=1, amplification=0)) as served:
            peer = served.come()
            peer.send(b"mine")
            await until(lambda: begun)
            served.watched[0].pause()
            peer.send(b"my successor's")
            gate.set()
            await until(lambda: not served.service.ledger.open)
            for _ in range(10):
                await turn()
            assert begun == [b"mine"]

    run(scenario())


def test_a_full_worker_that_is_given_a_socket_again_reads_no_more_than_it_may(inet: socket.socket) -> None:
    async def scenario() -> None:
        gate, begun = asyncio.Event(), []

        async def on_datagram(data: bytes, peer: Any, reply: Reply) -> None:
            begun.append(data)
            await gate.wait()

        async with serving(on_datagram, inet, Limits(connections=1, amplification=0)) as served:
            peer = served.come()
            peer.send(b"one")
            await until(lambda: begun)
            peer.send(b"two")
            served.watched[0].resume()
            for _ in range(10):
                await turn()
            assert begun == [b"one"]
            gate.set()
            await until(lambda: begun == [b"one", b"two"])

    run(scenario())
