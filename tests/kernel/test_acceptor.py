"""Accepting: without a descriptor to spare, as second worker, at the limit of connections."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import socket
import time
from collections.abc import Iterator

import pytest

from prefork.apps.echo import Echo
from prefork.config.limits import Limits
from prefork.net.acceptor import HEAD_START_SECONDS
from prefork.scoreboard import Cell, Count
from prefork.watch import Watch
from tests.kernel.clients import Client
from tests.kernel.serving import Listening, Serving, cpu_share, run, serving, turn, until, within


async def is_served(client: Client) -> bool:
    await client.send(b"x")
    return await within(5, client.receive(1)) == b"x"


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Let no further descriptor be opened in this process."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = os.dup(0)
    os.close(spare)  # the lowest free number, and with it the first that is refused
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_without_a_descriptor_clients_are_told_to_go_and_the_loop_does_not_spin(
    tcp: Listening, caplog: pytest.LogCaptureFixture
) -> None:
    """Regression 15."""

    async def scenario() -> None:
        async with serving(Echo, tcp) as server:
            early = await server.connect()
            assert await is_served(early)
            clients = [raw_client(server) for _ in range(20)]
            with no_descriptor_left():
                for client in clients:
                    client.socket.connect_ex(tcp.getsockname())
                assert await cpu_share(0.5) < 0.6
                assert server.count(Count.REFUSED) == 20
                assert await is_served(early)
            for client in clients:
                assert await within(5, client.receive(1)) == b""
            assert await is_served(await server.connect())
            assert server.count(Cell.ACCEPTED) == 2

    run(scenario())
    told = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert len(told) == 1
    assert "ulimit -n" in told[0].getMessage()


def raw_client(server: Serving) -> Client:
    """Return a client that is not connected yet: it has its descriptor already."""
    sock = socket.socket()
    sock.setblocking(False)
    client = Client(sock)
    server.clients.append(client)
    return client


def test_connections_that_wait_without_a_descriptor_at_all_are_served_when_there_is_one(
    tcp: Listening,
) -> None:
    """Even the reserve is gone here: somebody else was faster."""

    async def scenario() -> None:
        async with serving(Echo, tcp) as server:
            client = raw_client(server)
            server.reserve.close()
            with no_descriptor_left():
                client.socket.connect_ex(tcp.getsockname())
                assert await cpu_share(0.3) < 0.6
                assert server.count(Cell.ACCEPTED) == 0
            assert await is_served(client)

    run(scenario())


def test_a_second_worker_takes_what_is_still_there_after_the_firsts_head_start(tcp: Listening) -> None:
    async def scenario() -> None:
        async with serving(Echo, tcp, watch=Watch.SECOND) as server:
            client = await server.connect()
            begun = time.monotonic()
            assert await is_served(client)
            assert HEAD_START_SECONDS * 0.9 < time.monotonic() - begun < 1

    run(scenario())


def test_a_second_worker_leaves_to_the_first_what_the_first_takes(tcp: Listening) -> None:
    async def scenario() -> None:
        async with serving(Echo, tcp) as first, serving(Echo, tcp, watch=Watch.SECOND) as second:
            for _ in range(20):
                assert await is_served(await first.connect())
                await turn(2 * HEAD_START_SECONDS)  # what it had begun to wait for is over by then
            await turn(3 * HEAD_START_SECONDS)
            assert (first.count(Cell.ACCEPTED), second.count(Cell.ACCEPTED)) == (20, 0)

    run(scenario())


def test_a_second_worker_takes_all_of_a_burst_though_an_edge_is_reported_once(tcp: Listening) -> None:
    async def scenario() -> None:
        async with serving(Echo, tcp, watch=Watch.SECOND) as server:
            clients = [await server.connect() for _ in range(100)]
            for client in clients:
                assert await is_served(client)
            await turn(3 * HEAD_START_SECONDS)
            assert await is_served(await server.connect())

    run(scenario())


def test_a_second_worker_that_waits_spends_no_time_on_what_it_leaves(tcp: Listening) -> None:
    async def scenario() -> None:
        async with serving(Echo, tcp, Limits(connections=1), watch=Watch.SECOND) as server:
            assert await is_served(await server.connect())
            for _ in range(5):
                await server.connect()
            assert await cpu_share(0.3) < 0.6

    run(scenario())


@pytest.mark.parametrize("watch", [Watch.FIRST, Watch.SECOND, Watch.SHARED])
def test_at_the_limit_of_connections_new_ones_wait_and_come_in_one_by_one(tcp: Listening, watch: Watch) -> None:
    async def scenario() -> None:
        async with serving(Echo, tcp, Limits(connections=2), watch=watch) as server:
            clients = [await server.connect() for _ in range(6)]
            for number, client in enumerate(clients):
                assert await is_served(client)
                assert server.count(Cell.OPEN) <= 2
                if number == 1:
                    assert await cpu_share(0.2) < 0.6
                if number > 0:
                    clients[number - 1].close()
            assert server.count(Cell.ACCEPTED) == 6

    run(scenario())


def test_a_paused_acceptor_leaves_connections_in_the_queue_until_it_resumes(listening: Listening) -> None:
    async def scenario() -> None:
        async with serving(Echo, listening) as server:
            (acceptor,) = server.acceptors
            acceptor.pause()
            acceptor.pause()
            client = await server.connect()
            await turn(0.05)
            assert server.count(Cell.ACCEPTED) == 0
            acceptor.resume()
            acceptor.resume()
            assert await is_served(client)

    run(scenario())


def test_more_connections_than_one_batch_are_all_accepted(tmp_path: object, tcp: Listening) -> None:
    async def scenario() -> None:
        async with serving(Echo, tcp, watch=None) as server:
            clients = [await server.connect() for _ in range(120)]
            server.watch()
            assert all(await asyncio.gather(*map(is_served, clients)))
            assert server.count(Cell.ACCEPTED) == 120

    run(scenario())


def test_a_connection_that_was_reset_in_the_queue_harms_nobody(tcp: Listening) -> None:
    async def scenario() -> None:
        async with serving(Echo, tcp, watch=None) as server:
            gone = [await server.connect() for _ in range(10)]
            for client in gone:
                client.reset()
            client = await server.connect()
            server.watch()
            assert await is_served(client)
            await until(lambda: server.site.tally.open == 1)

    run(scenario())


def test_two_workers_share_a_socket_without_losing_a_connection(listening: Listening) -> None:
    async def scenario() -> None:
        shared = Watch.SHARED
        async with serving(Echo, listening, watch=shared) as one, serving(Echo, listening, watch=shared) as two:
            clients = [await one.connect() for _ in range(100)]
            assert all(await asyncio.gather(*map(is_served, clients)))
            assert one.count(Cell.ACCEPTED) + two.count(Cell.ACCEPTED) == 100

    run(scenario())
