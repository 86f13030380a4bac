"""Two workers at one listening socket: who takes a connection depends on how many each of them has.

The second scoreboard page of a server stands for its partner, where the partner itself is not needed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from prefork.apps.echo import Echo
from prefork.config.limits import Limits
from prefork.net.acceptor import ACCEPTS_PER_EVENT, HEAD_START_SECONDS, MARGIN, MARGIN_SHARE, YIELD_SECONDS
from prefork.scoreboard import Cell
from prefork.watch import Watch
from tests.kernel.clients import Client
from tests.kernel.serving import Accepting, Listening, run, serving, turn, until, within

AT_ONCE_TURNS = 3  # one for the connection's event, the others for what the loop had before
EARLY = 0.9  # of a time that is measured from a moment before it began, with a coarse clock


@asynccontextmanager
async def worker_with(count: int, tcp: Listening) -> AsyncIterator[Accepting]:
    """Serve with a number of connections that are open; nothing is accepted any more."""
    async with serving(Echo, tcp) as server:
        for _ in range(count):
            await server.connect()
        await until(lambda: server.count(Cell.OPEN) == count)
        server.acceptors.pop().close()
        server.scoreboard.page(1)[Cell.OPEN] = 0
        yield server


def join(server: Accepting, watch: Watch, theirs: int) -> None:
    """Begin to accept beside a partner that has so many connections."""
    server.scoreboard.page(1)[Cell.OPEN] = theirs
    server.watch(watch, server.scoreboard.page(1))


async def is_taken_at_once(server: Accepting) -> bool:
    before = server.count(Cell.ACCEPTED)
    await server.connect()
    for _ in range(AT_ONCE_TURNS):
        await turn()
    return server.count(Cell.ACCEPTED) == before + 1


async def seconds_until_taken(server: Accepting) -> float:
    before, begun = server.count(Cell.ACCEPTED), time.monotonic()
    await server.connect()
    await until(lambda: server.count(Cell.ACCEPTED) == before + 1)
    return time.monotonic() - begun


async def is_served(client: Client) -> bool:
    await client.send(b"x")
    return await within(5, client.receive(1)) == b"x"


async def serve_one(server: Accepting) -> None:
    """Connect and be answered; then let a worker come back that has left this one to another.

    It takes what is there at that moment, whosever turn it is.
    """
    assert await is_served(await server.connect())
    await turn(2 * YIELD_SECONDS)


LARGE = 2 * MARGIN_SHARE  # so many that the share of the margin counts
BALANCES = {
    "none of either": (0, 0),
    "fewer": (2, 10),
    "more by the margin": (MARGIN, 0),
    "more by the margin and the share": (LARGE, LARGE - MARGIN - 2),
}
EXCESSES = {
    "more than the margin": (MARGIN + 1, 0),
    "more than the margin and the share": (LARGE, LARGE - MARGIN - 3),
}


@pytest.mark.parametrize(("mine", "theirs"), BALANCES.values(), ids=BALANCES)
def test_a_first_worker_takes_at_once_what_is_its_turn(tcp: Listening, mine: int, theirs: int) -> None:
    async def scenario() -> None:
        async with worker_with(mine, tcp) as server:
            join(server, Watch.FIRST, theirs)
            assert await is_taken_at_once(server)

    run(scenario())


@pytest.mark.parametrize(("mine", "theirs"), EXCESSES.values(), ids=EXCESSES)
def test_a_first_worker_that_is_far_ahead_leaves_a_connection_to_its_partner_for_a_moment(
    tcp: Listening, mine: int, theirs: int
) -> None:
    async def scenario() -> None:
        async with worker_with(mine, tcp) as server:
            join(server, Watch.FIRST, theirs)
            for _ in range(5):
                assert await seconds_until_taken(server) > YIELD_SECONDS * EARLY

    run(scenario())


def test_a_first_worker_asks_for_its_partners_number_at_each_connection(tcp: Listening) -> None:
    async def scenario() -> None:
        async with worker_with(MARGIN + 1, tcp) as server:
            join(server, Watch.FIRST, 0)
            assert await seconds_until_taken(server) > YIELD_SECONDS * EARLY
            server.scoreboard.page(1)[Cell.OPEN] = 100
            assert await is_taken_at_once(server)
            server.scoreboard.page(1)[Cell.OPEN] = 0
            assert await seconds_until_taken(server) > YIELD_SECONDS * EARLY

    run(scenario())


def test_a_second_worker_takes_at_once_when_it_has_fewer_than_the_first(tcp: Listening) -> None:
    async def scenario() -> None:
        async with worker_with(3, tcp) as server:
            join(server, Watch.SECOND, 5)
            assert await is_taken_at_once(server)
            assert await is_taken_at_once(server)
            await turn(2 * HEAD_START_SECONDS)  # it comes back once for what an edge did not report
            assert await seconds_until_taken(server) > HEAD_START_SECONDS * EARLY  # five each

    run(scenario())


@pytest.mark.parametrize("theirs", [0, 3])
def test_a_second_worker_takes_over_after_the_head_start_of_a_first_that_does_not_come(
    tcp: Listening, theirs: int
) -> None:
    async def scenario() -> None:
        async with worker_with(3, tcp) as server:
            join(server, Watch.SECOND, theirs)
            for _ in range(3):
                assert await seconds_until_taken(server) > HEAD_START_SECONDS * EARLY

    run(scenario())


@asynccontextmanager
async def partners(tcp: Listening, limit: int = 10_000) -> AsyncIterator[tuple[Accepting, Accepting]]:
    """Serve by two workers that see each other's numbers: the first, and its second with a limit.

    The first has 40 connections and the second none.
    """
    async with (
        worker_with(40, tcp) as first,
        serving(Echo, tcp, Limits(connections=limit), watch=None) as second,
    ):
        first.watch(Watch.FIRST, second.scoreboard.page(0))
        second.watch(Watch.SECOND, first.scoreboard.page(0))
        yield first, second


def test_connections_even_out_between_a_first_that_is_far_ahead_and_its_partner(tcp: Listening) -> None:
    async def scenario() -> None:
        async with partners(tcp) as (first, second):
            for _ in range(80):
                await serve_one(first)
            mine, theirs = first.count(Cell.OPEN), second.count(Cell.OPEN)
            assert mine + theirs == 120
            assert abs(mine - theirs) <= MARGIN + mine // MARGIN_SHARE + 1

    run(scenario())


def test_a_partner_that_has_fewer_takes_what_a_first_leaves_before_the_first_comes_back(tcp: Listening) -> None:
    async def scenario() -> None:
        async with partners(tcp) as (first, second):
            for number in range(20):
                await serve_one(first)
                assert (first.count(Cell.OPEN), second.count(Cell.OPEN)) == (40, number + 1)

    run(scenario())


def test_a_first_that_is_far_ahead_takes_what_a_partner_at_its_limit_cannot(tcp: Listening) -> None:
    async def scenario() -> None:
        async with partners(tcp, limit=2) as (first, second):
            for _ in range(10):
                await serve_one(first)
            assert (first.count(Cell.OPEN), second.count(Cell.OPEN)) == (48, 2)

    run(scenario())


@pytest.mark.parametrize("watch", [Watch.FIRST, Watch.SECOND])
def test_a_burst_is_taken_whole_by_the_one_that_is_left_though_it_is_far_ahead(
    tcp: Listening, watch: Watch
) -> None:
    """The other one's number stands still in shared memory: it is stopped, or busy."""

    async def scenario() -> None:
        async with worker_with(20, tcp) as server:
            join(server, watch, 0)
            clients = [await server.connect() for _ in range(ACCEPTS_PER_EVENT + 20)]
            assert all(await asyncio.gather(*map(is_served, clients)))

    run(scenario())


@pytest.mark.parametrize(("watch", "most"), [(Watch.FIRST, 7 + MARGIN + 1), (Watch.SECOND, 7)])
def test_a_worker_takes_of_a_burst_what_is_its_turn_and_leaves_the_rest_for_a_moment(
    tcp: Listening, watch: Watch, most: int
) -> None:
    async def scenario() -> None:
        async with worker_with(3, tcp) as server:
            clients = [await server.connect() for _ in range(20)]
            begun = time.monotonic()
            join(server, watch, 7)
            await turn()  # it looks at the queue once, and comes back only in the next
            assert server.count(Cell.OPEN) == most
            assert all(await asyncio.gather(*map(is_served, clients)))
            assert time.monotonic() - begun > YIELD_SECONDS * EARLY

    run(scenario())


def test_what_a_first_leaves_is_there_for_others_when_it_is_closed_meanwhile(tcp: Listening) -> None:
    async def scenario() -> None:
        async with worker_with(MARGIN + 1, tcp) as first, serving(Echo, tcp, watch=None) as other:
            join(first, Watch.FIRST, 0)
            client = await first.connect()
            await turn()
            first.stop_accepting()
            await turn(3 * YIELD_SECONDS)
            other.watch()
            assert await is_served(client)
            assert (first.count(Cell.OPEN), other.count(Cell.OPEN)) == (MARGIN + 1, 1)

    run(scenario())


def test_a_first_that_was_far_ahead_is_at_once_again_when_its_connections_have_ended(tcp: Listening) -> None:
    async def scenario() -> None:
        async with worker_with(MARGIN + 1, tcp) as server:
            join(server, Watch.FIRST, 0)
            assert await seconds_until_taken(server) > YIELD_SECONDS * EARLY
            for client in server.clients[:3]:
                client.close()
            await until(lambda: server.count(Cell.OPEN) == MARGIN - 1)
            assert await is_taken_at_once(server)

    run(scenario())
