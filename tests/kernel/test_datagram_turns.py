"""A socket leaves others their turn, and at the end reads what is there, but not for ever."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefork.net.datagrams import Reply
from prefork.scoreboard import Count
from tests.kernel.datagram_desk import FAMILIES, Desk, bind, serving
from tests.kernel.serving import run, until

IP_RECVERR = 11  # ip(7)


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


async def drained(served: Desk) -> int:
    """Read what is there, to its end; return how many datagrams that were."""
    before = served.count(Count.DATAGRAMS)
    served.watched[0].finish()
    await until(lambda: not served.site.handlers)
    return served.count(Count.DATAGRAMS) - before


def test_a_socket_takes_turns_with_others(inet: socket.socket) -> None:
    """A flood on one socket must not keep the loop for itself."""

    async def scenario() -> None:
        turns: list[int] = []

        def on_datagram(data: bytes, peer: Any, reply: Reply) -> None:
            turns.append(1)
            peer_of_all.send(b"again")

        async with serving(on_datagram, inet) as served:
            peer_of_all = served.come()
            peer_of_all.send(b"first")
            await until(lambda: len(turns) > 1000)
            served.watched[0].pause()

    run(scenario())


@pytest.mark.parametrize("is_joined", [False, True], ids=["single", "joined"])
def test_others_have_their_turn_between_batches(inet: socket.socket, is_joined: bool) -> None:
    """A handler of a millisecond must not keep them waiting for seconds: 64 joined ones may hold 64 each."""

    async def scenario() -> int:
        loop, batches = asyncio.get_running_loop(), [0]

        def on_datagram(data: bytes, peer: Any, reply: Reply) -> None:
            if not batches[-1]:
                loop.call_soon(batches.append, 0)
            batches[-1] += 1

        async with serving(on_datagram, inet) as served:
            peer = served.come()
            for _ in range(30):
                if is_joined:
                    peer.burst([b"x"] * 64)
                else:
                    peer.send(*[b"x"] * 8)
            await until(lambda: sum(batches) == (30 * 64 if is_joined else 30 * 8))
        return max(batches)

    assert run(scenario()) < 2 * 64


# --- the end ---


def test_the_last_reading_takes_all_that_is_there(desk: socket.socket) -> None:
    async def scenario() -> None:
        async with serving(echo, desk) as served:
            peers = [served.come() for _ in range(50)]
            for peer in peers[:10] if desk.family == socket.AF_UNIX else peers:
                peer.send(b"one")
            if desk.family != socket.AF_UNIX:
                peers[0].burst([b"burst"] * 64)
            assert await drained(served) == (10 if desk.family == socket.AF_UNIX else 114)
            peers[0].send(b"too late")
            assert await drained(served) == 0

    run(scenario())


@pytest.mark.parametrize("is_warm", [False, True], ids=["single", "joined"])
def test_the_last_reading_ends_although_more_comes_all_the_time(inet: socket.socket, is_warm: bool) -> None:
    """Else a worker under a flood never leaves, and is killed at the end of its drain."""

    async def scenario() -> None:
        more = True

        def on_datagram(data: bytes, peer: Any, reply: Reply) -> None:
            reply(data)
            if more and served.count(Count.DATAGRAMS) < 200_000:
                flood.send(b"more")

        async with serving(on_datagram, inet) as served:
            flood = served.come()
            more = False
            if is_warm:
                await served.warm_up(flood)
            more = True
            flood.send(b"more")
            assert await drained(served) < 20_000

    run(scenario())


def test_the_last_reading_goes_on_behind_an_answer_that_could_not_be_delivered(tmp_path: Path) -> None:
    """With IP_RECVERR, which an inherited socket may have, a later call tells of it, ip(7)."""

    async def scenario(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        async with serving(echo, sock) as served:
            gone, peer = served.come(), served.come()
            gone.send(b"hello")
            gone.close()
            await drained(served)
            served.watched[0].resume()
            peer.send(b"one", b"two", b"three")
            await drained(served)
            assert await peer.answers(3) == [b"one", b"two", b"three"]

    with bind("udp", tmp_path) as sock:
        run(scenario(sock))
