"""The drain of a server of datagrams, over udp, udp6 and unixgram: what was read is answered."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from prefork.config.limits import Limits
from prefork.net.datagrams import Reply
from prefork.net.server import LAST_ACCEPTS_SECONDS
from prefork.scoreboard import Count
from tests.kernel.serving import run, turn, until
from tests.kernel.test_datagram_backpressure import ANSWERS, Workshop, answer_much, number_of, questions
from tests.kernel.test_datagram_conformance import ECHOES, Echo, echo
from tests.kernel.whole import whole


@pytest.mark.parametrize("app", ECHOES.values(), ids=ECHOES)
def test_a_server_with_nothing_in_hand_is_through_at_once(bound: socket.socket, app: object) -> None:
    async def scenario() -> None:
        async with whole(app, bound) as server:
            assert await server.come().ask(b"?") == b"?"
            await turn()
            server.begin_drain()
            assert server.is_over.is_set()

    run(scenario())


@pytest.mark.parametrize("app", ECHOES.values(), ids=ECHOES)
@pytest.mark.parametrize("is_last", [True, False])
def test_what_has_come_before_the_drain_is_read_and_answered(
    bound: socket.socket, app: object, is_last: bool
) -> None:
    async def scenario() -> None:
        async with whole(app, bound) as server:
            peer = server.come()
            server.unwatch()
            await peer.post(*questions(8))
            server.watch()
            server.begin_drain(is_last=is_last)
            assert [await peer.receive() for _ in range(8)] == questions(8)
            await server.until_over()

    run(scenario())


def test_handlers_at_work_finish_and_their_answers_are_sent_before_the_end(bound: socket.socket) -> None:
    async def scenario() -> None:
        shop = Workshop()
        async with whole(shop, bound) as server:
            peer = server.come()
            await peer.post(*questions(5))
            await until(lambda: shop.at_work == 5)
            server.begin_drain()
            await turn(0.05)
            assert not server.is_over.is_set()
            shop.go.set()
            await server.until_over()
            assert peer.pending() == questions(5)

    run(scenario())


def test_answers_that_wait_for_a_slow_peer_are_sent_before_the_end(unixgram: socket.socket) -> None:
    """As a connection's are: what was written is delivered, if its peer takes it before timeouts.drain."""

    async def scenario() -> None:
        async with whole(answer_much, unixgram) as server:
            peer = server.come(is_connected=False)
            await peer.post(b"1")
            await until(lambda: server.count(Count.DATAGRAMS) == 1)
            server.begin_drain()
            answers = [number_of(await peer.receive()) for _ in range(ANSWERS)]
            assert answers == [(1, number) for number in range(ANSWERS)]
            await server.until_over()

    run(scenario())


def test_answers_that_wait_for_a_peer_that_never_reads_are_counted_at_the_end(unixgram: socket.socket) -> None:
    async def scenario() -> None:
        async with whole(answer_much, unixgram) as server:
            peer = server.come(is_connected=False)
            await peer.post(b"1")
            await until(lambda: server.count(Count.DATAGRAMS) == 1)
            server.begin_drain(seconds=0.1)
            await server.until_over()
            await turn()
            assert server.count(Count.UNSENT) + len(peer.pending()) == ANSWERS

    run(scenario())


def test_what_comes_after_the_drain_has_begun_is_left_to_those_who_come_after(bound: socket.socket) -> None:
    """The socket stays with the master: who comes after this worker reads it."""

    async def scenario() -> None:
        shop = Workshop()
        async with whole(shop, bound, Limits(connections=2, amplification=0)) as old, whole(echo, bound) as new:
            new.unwatch()
            peer = old.come()
            await peer.post(*questions(2))
            await until(lambda: shop.at_work == 2)
            old.begin_drain()
            await peer.post(b"late", b"later")
            shop.go.set()
            await old.until_over()
            assert old.count(Count.DATAGRAMS) == 2
            new.watch()
            answers = [await peer.receive() for _ in range(4)]
            assert (sorted(answers[:2]), answers[2:]) == (questions(2), [b"late", b"later"])

    run(scenario())


def test_the_last_server_answers_those_who_come_a_moment_late(bound: socket.socket) -> None:
    async def scenario() -> None:
        async with whole(echo, bound) as server:
            peer = server.come()
            server.begin_drain(is_last=True)
            assert await peer.ask(b"in time") == b"in time"
            assert not server.is_over.is_set()
            await server.until_over()

    run(scenario())


def test_the_last_server_goes_on_reading_when_handlers_end_while_it_may_be_asked(bound: socket.socket) -> None:
    async def brief(data: bytes, peer: Any, reply: Reply) -> None:
        await turn(0.01)
        reply(data)

    async def scenario() -> None:
        async with whole(brief, bound, Limits(connections=2, amplification=0)) as server:
            peer = server.come()
            await peer.post(*questions(8))
            server.begin_drain(is_last=True)
            assert [await peer.receive() for _ in range(8)] == questions(8)
            await server.until_over()

    run(scenario())


@pytest.mark.slow
def test_the_last_server_reads_on_when_handlers_end_late(bound: socket.socket) -> None:
    """What waits behind limits.connections has nobody else who could read it."""

    async def scenario() -> None:
        shop = Workshop()
        async with whole(shop, bound, Limits(connections=2, amplification=0)) as server:
            peer = server.come()
            await peer.post(*questions(8))
            await until(lambda: shop.at_work == 2)
            server.begin_drain(is_last=True)
            await turn(2 * LAST_ACCEPTS_SECONDS)
            shop.go.set()
            assert [await peer.receive() for _ in range(8)] == questions(8)
            await server.until_over()
            assert shop.most == 2

    run(scenario())


def test_handlers_that_do_not_end_are_left_behind_when_the_time_is_over(bound: socket.socket) -> None:
    ended: list[BaseException] = []

    async def endless(data: bytes, peer: Any, reply: Reply) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            ended.append(error)
            raise

    async def scenario() -> None:
        async with whole(endless, bound) as server:
            await server.come().post(b"?")
            await until(lambda: server.site.handlers)
            server.begin_drain(seconds=0.1)
            assert 0.09 < await server.until_over() < 5

    run(scenario())
    assert len(ended) == 1


def test_a_handler_learns_of_the_drain_by_its_protocols_end_after_the_last_answer(bound: socket.socket) -> None:
    calls: list[str] = []

    class Told(Echo):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            calls.append(data.decode())

        def connection_lost(self, error: BaseException | None) -> None:
            calls.append("connection_lost")

    async def scenario() -> None:
        async with whole(Told, bound) as server:
            peer = server.come()
            await peer.post(*questions(3))
            server.begin_drain()
            server.server.close()
            assert calls == ["0", "1", "2", "connection_lost"]
            assert [await peer.receive() for _ in range(3)] == questions(3)

    run(scenario())
