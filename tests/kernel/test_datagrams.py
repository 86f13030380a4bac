"""Datagrams keep their boundaries, their order and their peers, however the kernel hands them over."""

from __future__ import annotations

import asyncio
import random
import select
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefork.net.datagrams import Reply
from prefork.scoreboard import Count
from tests.kernel.datagram_desk import FAMILIES, SOL_UDP, UDP_GRO, Peer, bind, serving
from tests.kernel.serving import run, turn, until

SO_RXQ_OVFL, IP_RECVERR = 40, 11  # socket(7), ip(7)
DULL = 600  # single datagrams after which nobody expects another burst


@pytest.fixture(params=FAMILIES)
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    """A bound socket of each family in turn."""
    with bind(request.param, tmp_path) as sock:
        yield sock


@pytest.fixture(params=["udp", "udp6"])
def inet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    """A bound UDP socket of each version in turn."""
    with bind(request.param, tmp_path) as sock:
        yield sock


def echo(data: bytes, peer: Any, reply: Reply) -> None:
    reply(data)


async def async_echo(data: bytes, peer: Any, reply: Reply) -> None:
    reply(data)


class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(data, addr)


APPS = pytest.mark.parametrize("app", [echo, async_echo, Echo], ids=["function", "coroutine", "protocol"])


def numbered(first: int, count: int, size: int) -> list[bytes]:
    """Return datagrams of one size that differ."""
    return [number.to_bytes(8, "big").rjust(size, b".")[-size:] for number in range(first, first + count)]


# --- single datagrams ---


@APPS
def test_each_datagram_is_answered_as_it_came(desk: socket.socket, app: Any) -> None:
    async def scenario() -> None:
        async with serving(app, desk) as served:
            peer = served.come()
            for size in (0, 1, 1472, 9000, 65_507):
                peer.send(b"x" * size)
                assert await peer.receive() == b"x" * size
            assert served.count(Count.DATAGRAMS) == 5

    run(scenario())


@APPS
def test_many_at_once_are_answered_in_order_and_each_to_its_own_sender(desk: socket.socket, app: Any) -> None:
    async def scenario() -> None:
        async with serving(app, desk) as served:
            peers = [served.come() for _ in range(5)]
            asked = {peer: numbered(1000 * place, 8, 20) for place, peer in enumerate(peers)}
            for turn in range(8):
                for peer in peers if desk.family != socket.AF_UNIX else peers[:1]:  # whose queue has 10 places
                    peer.send(asked[peer][turn])
            for peer in peers if desk.family != socket.AF_UNIX else peers[:1]:
                assert await peer.answers(8) == asked[peer]

    run(scenario())


# --- joined datagrams ---


@pytest.mark.parametrize("size", [1, 2, 100, 1472, 9000])
@APPS
def test_a_burst_is_answered_datagram_by_datagram_in_order(inet: socket.socket, app: Any, size: int) -> None:
    async def scenario() -> None:
        async with serving(app, inet) as served:
            peer = served.come()
            await served.warm_up(peer)
            for count in (2, 7, 64):
                count = min(count, 65_000 // size)
                asked = [*numbered(0, count - 1, size), b"y" * (size - size // 2)]
                peer.burst(asked)
                assert await peer.answers(count) == asked
            assert peer.pending() == []

    run(scenario())


def test_the_first_burst_of_all_is_answered_too(inet: socket.socket) -> None:
    async def scenario() -> None:
        async with serving(echo, inet) as served:
            peer = served.come()
            peer.burst(numbered(0, 20, 50))
            peer.burst(numbered(20, 20, 50))
            assert await peer.answers(40) == numbered(0, 40, 50)
            assert served.count(Count.DATAGRAMS) == 40

    run(scenario())


def test_runs_of_datagrams_are_joined(inet: socket.socket) -> None:
    """Else the tests of joined datagrams would be about nothing."""

    async def scenario() -> None:
        async with serving(echo, inet) as served:
            await served.warm_up(served.come())
            assert served.is_joining

    run(scenario())


def test_bursts_among_single_datagrams_of_others_keep_their_order(inet: socket.socket) -> None:
    async def scenario() -> None:
        dice = random.Random(3)
        async with serving(echo, inet) as served:
            peers = [served.come() for _ in range(4)]
            await served.warm_up(peers[0])
            for _ in range(50):
                asked = await disorder(peers, dice)
                for peer in peers:
                    assert await peer.answers(len(asked[peer])) == asked[peer]
            assert all(peer.pending() == [] for peer in peers)

    run(scenario())


async def disorder(peers: list[Peer], dice: random.Random) -> dict[Peer, list[bytes]]:
    """Send singles and bursts from all sides at once; return by peer what it has sent."""
    asked: dict[Peer, list[bytes]] = {peer: [] for peer in peers}
    for _ in range(dice.randint(1, 12)):
        peer = dice.choice(peers)
        if dice.random() < 0.4:
            size = dice.choice((1, 30, 500))
            burst = numbered(dice.randrange(10**6), dice.randint(2, 9), size)
            peer.burst(burst)
            asked[peer] += burst
        else:
            single = dice.randbytes(dice.choice((0, 1, 30, 500)))
            peer.send(single)
            asked[peer].append(single)
    return asked


def test_joining_and_parting_many_times_moves_no_boundary(inet: socket.socket) -> None:
    """After long quiet the socket may go back to single datagrams: a burst is then in the buffer, or not yet."""

    async def scenario() -> None:
        dice = random.Random(5)
        async with serving(echo, inet) as served:
            one, other = served.come(), served.come()
            for number in range(60):
                await served.warm_up(one)
                quiet = dice.choice((0, 120, 190, 255, 256, 257, 320, DULL))
                await be_quiet(one, other, quiet - quiet % 2)
                singles = dice.randint(0, 130)
                await queue_before_a_burst(one, other, singles, number)
                assert one.pending() == other.pending() == []

    run(scenario())


async def be_quiet(one: Peer, other: Peer, count: int) -> None:
    """Send single datagrams from two sides in turn: nothing of that can be joined."""
    for number in range(count // 2):
        for peer in (one, other):
            peer.send(b"%d" % number)
        for peer in (one, other):
            assert await peer.receive() == b"%d" % number


async def queue_before_a_burst(one: Peer, other: Peer, singles: int, number: int) -> None:
    """Fill the buffer with single datagrams, and a burst behind them, before any of it is read."""
    for _ in range(singles // 2):
        one.send(b"one")
        other.send(b"other")
    burst = numbered(number, 12, 40)
    one.burst(burst)
    other.send(b"last")
    assert await one.answers(singles // 2 + 12) == [b"one"] * (singles // 2) + burst
    assert await other.answers(singles // 2 + 1) == [b"other"] * (singles // 2) + [b"last"]


def test_bursts_after_a_long_quiet_are_joined_again(inet: socket.socket) -> None:
    async def scenario() -> None:
        async with serving(echo, inet) as served:
            one, other = served.come(), served.come()
            for _ in range(3):
                await served.warm_up(one)
                await be_quiet(one, other, DULL)
                await served.warm_up(one)
                assert served.is_joining

    run(scenario())


# --- a socket outlives its workers ---


@APPS
def test_the_next_worker_of_a_socket_on_which_datagrams_are_joined_gets_each_of_them(
    inet: socket.socket, app: Any
) -> None:
    async def scenario() -> None:
        async with serving(app, inet) as served:
            peer = served.come()
            await served.warm_up(peer)
            peer.burst(numbered(0, 5, 40))
            served.leave()
            peer.burst(numbered(5, 5, 40))
            served.watch()
            peer.burst(numbered(10, 5, 40))
            assert await peer.answers(15) == numbered(0, 15, 40)

    run(scenario())


def test_two_workers_that_read_one_socket_during_a_change_get_whole_datagrams(inet: socket.socket) -> None:
    async def scenario() -> None:
        async with serving(echo, inet) as served:
            peer = served.come()
            served.watch()
            peer.send(*[b"run"] * 64)
            assert await peer.answers(64) == [b"run"] * 64
            for number in range(20):
                asked = numbered(number, 6, 30)
                peer.burst(asked)
                peer.send(b"single")
                assert sorted(await peer.answers(7)) == sorted([*asked, b"single"])

    run(scenario())


def test_one_that_was_taken_away_and_given_back_reads_on_as_the_socket_is_by_then(inet: socket.socket) -> None:
    async def scenario() -> None:
        async with serving(echo, inet) as served:
            peer = served.come()
            first = served.watched[0]
            first.pause()
            served.watch()
            await served.warm_up(peer)
            served.watched[1].pause()
            first.resume()
            peer.burst(numbered(0, 9, 40))
            assert await peer.answers(9) == numbered(0, 9, 40)

    run(scenario())


OPTIONS = {
    "joined": (SOL_UDP, UDP_GRO),
    "time stamps": (socket.SOL_SOCKET, 29),  # SO_TIMESTAMP
    "counts of drops": (socket.SOL_SOCKET, SO_RXQ_OVFL),
    "addresses": (socket.IPPROTO_IP, 8),  # IP_PKTINFO
    "time to live": (socket.IPPROTO_IP, 12),  # IP_RECVTTL
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_inherited_socket_may_have_options_that_add_to_each_datagram(tmp_path: Path, name: str) -> None:
    """systemd.socket(5) sets them for Timestamping=, PassPacketInfo= and others."""

    async def scenario(sock: socket.socket) -> None:
        sock.setsockopt(*OPTIONS[name], 1)
        async with serving(echo, sock) as served:
            peer = served.come()
            peer.send(*[bytes(100)] * 1000)  # more than there is room for
            await until(lambda: not select.select([sock], [], [], 0)[0])
            assert set(peer.pending()) == {bytes(100)}
            await until(lambda: not peer.pending())  # a busy kernel delivers the last ones a moment later
            await turn(0.05)
            peer.pending()
            peer.burst(numbered(0, 5, 40))
            assert await peer.answers(5) == numbered(0, 5, 40)
            await served.warm_up(peer)
            peer.burst(numbered(5, 5, 40))
            assert await peer.answers(5) == numbered(5, 5, 40)

    with bind("udp", tmp_path) as sock:
        run(scenario(sock))
