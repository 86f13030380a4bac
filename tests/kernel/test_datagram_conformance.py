"""Datagrams over udp, udp6 and unixgram: each whole, alone and in its order, for every kind of app."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Callable
from typing import Any

import pytest

from prefork.net.datagrams import Reply
from prefork.scoreboard import Count
from tests.kernel.correspondents import Correspondent, largest
from tests.kernel.serving import run, turn, until
from tests.kernel.whole import Whole, whole

NOISE = random.Random(31).randbytes(1 << 18)
TINY = [b"%d," % number for number in range(10_000)]


def echo(data: bytes, peer: Any, reply: Reply) -> None:
    reply(data)


async def echo_later(data: bytes, peer: Any, reply: Reply) -> None:
    reply(data)


class Echo(asyncio.DatagramProtocol):
    """As in asyncio's documentation."""

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(data, addr)


ECHOES: dict[str, Any] = {
    "function": echo,
    "async function": echo_later,
    "protocol": Echo,
    "factory": lambda: Echo(),
}


class Book:
    """An app that writes down what arrives."""

    def __init__(self) -> None:
        self.data: list[bytes] = []
        self.peers: set[object] = set()

    def __call__(self, data: bytes, peer: Any, reply: Reply) -> None:
        self.data.append(data)
        self.peers.add(peer)


# --- sizes and boundaries ---


@pytest.mark.parametrize("app", ECHOES.values(), ids=ECHOES)
def test_datagrams_of_every_size_come_back_whole(bound: socket.socket, app: object) -> None:
    async def scenario() -> None:
        async with whole(app, bound) as server:
            peer, most = server.come(), largest(bound)
            for size in (0, 1, 2, 508, 1472, 1473, 9000, 65_506, 65_507, most - 1, most):
                assert await peer.ask(NOISE[:size]) == NOISE[:size]

    run(scenario())


def test_the_sizes_where_a_buffer_might_end_come_in_whole(unixgram: socket.socket) -> None:
    """A unix datagram may be three times as large as any of UDP."""

    async def scenario() -> None:
        book = Book()
        async with whole(book, unixgram) as server:
            peer = server.come()
            sizes = [65_535, 65_536, 65_537, 131_072, largest(unixgram)]
            for count, size in enumerate(sizes):
                await peer.post(NOISE[:size])
                await until(lambda n=count: len(book.data) == n + 1)  # type: ignore[misc]
            assert [len(data) for data in book.data] == sizes

    run(scenario())


def test_datagrams_are_neither_joined_nor_cut(bound: socket.socket) -> None:
    sizes = random.Random(37)
    sent = [NOISE[: sizes.choice((0, 1, 7, 100, 100, 100, 1400))] for _ in range(2000)]

    async def scenario() -> None:
        book = Book()
        async with whole(book, bound) as server:
            peer = server.come()
            for number, data in enumerate(sent):
                await peer.post(data)
                if number % 20 == 0:
                    await until(lambda n=number: len(book.data) == n + 1)  # type: ignore[misc]
            await until(lambda: len(book.data) == len(sent))
            assert book.data == sent
            assert book.peers == {peer.socket.getsockname()}
            assert server.count(Count.DATAGRAMS) == len(sent)

    run(scenario())


# --- order ---


@pytest.mark.parametrize("app", ECHOES.values(), ids=ECHOES)
def test_ten_thousand_tiny_datagrams_are_answered_in_order(bound: socket.socket, app: object) -> None:
    async def scenario() -> None:
        async with whole(app, bound) as server:
            assert await server.come().ask_all(TINY) == TINY
            assert (server.count(Count.DATAGRAMS), server.count(Count.UNSENT)) == (10_000, 0)

    run(scenario())


@pytest.mark.parametrize("app", ECHOES.values(), ids=ECHOES)
def test_many_peers_get_their_own_answers_in_order(bound: socket.socket, app: object) -> None:
    async def scenario() -> None:
        async with whole(app, bound) as server:
            questions = [[b"%d:%d" % (peer, number) for number in range(100)] for peer in range(20)]
            answers = await asyncio.gather(*(server.come().ask_all(own, 8) for own in questions))
            assert answers == questions

    run(scenario())


def test_several_answers_to_one_datagram_come_in_order_and_one_by_one(bound: socket.socket) -> None:
    def count_up(data: bytes, peer: Any, reply: Reply) -> None:
        for number in range(int(data)):
            reply(b"%d" % number)
        reply.many([b"same", b"size", b"then", b"", b"other", b"!"])

    async def scenario() -> None:
        async with whole(count_up, bound) as server:
            peer = server.come()
            for count in (0, 1, 5, 100):
                await peer.post(b"%d" % count)
                expected = [b"%d" % number for number in range(count)]
                expected += [b"same", b"size", b"then", b"", b"other", b"!"]
                assert [await peer.receive() for _ in expected] == expected

    run(scenario())


# --- pause, resume, close ---


@pytest.mark.parametrize("app", ECHOES.values(), ids=ECHOES)
def test_a_socket_that_is_left_to_others_is_not_read_and_goes_on_where_it_was(
    bound: socket.socket, app: object
) -> None:
    async def scenario() -> None:
        async with whole(app, bound) as server:
            peer = server.come()
            assert await peer.ask(b"before") == b"before"
            server.unwatch()
            server.unwatch()
            await peer.post(b"one", b"two", b"three")
            await turn(0.05)
            assert server.count(Count.DATAGRAMS) == 1
            assert peer.pending() == []
            server.watch()
            server.watch()
            assert [await peer.receive() for _ in range(3)] == [b"one", b"two", b"three"]

    run(scenario())


def test_an_answer_to_what_was_read_before_is_sent_by_a_socket_that_was_left(bound: socket.socket) -> None:
    replies: list[Reply] = []

    def keep(data: bytes, peer: Any, reply: Reply) -> None:
        replies.append(reply)

    async def scenario() -> None:
        async with whole(keep, bound) as server:
            peer = server.come()
            await peer.post(b"?")
            await until(lambda: replies)
            server.unwatch()
            replies[0](b"late")
            replies[0](b"and later")
            assert [await peer.receive(), await peer.receive()] == [b"late", b"and later"]

    run(scenario())


def test_an_answer_after_the_close_is_dropped_without_a_fault(bound: socket.socket) -> None:
    replies: list[Reply] = []

    def keep(data: bytes, peer: Any, reply: Reply) -> None:
        replies.append(reply)

    async def scenario() -> None:
        async with whole(keep, bound) as server:
            peer = server.come()
            await peer.post(b"?")
            await until(lambda: replies)
            server.server.close()
            replies[0](b"too late")
            replies[0].many([b"too", b"late"])
            await turn(0.02)
            assert peer.pending() == []

    run(scenario())


class Recorder(Echo):
    def __init__(self) -> None:
        self.calls: list[object] = []

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.calls.append("connection_made")

    def connection_lost(self, error: BaseException | None) -> None:
        self.calls += ["connection_lost", error]


async def recorded(server: Whole, made: list[Recorder]) -> tuple[Correspondent, Recorder]:
    """Return a peer that was answered, and the protocol that has answered."""
    peer = server.come()
    assert await peer.ask(b"hello") == b"hello"
    return peer, made[0]


class Loud(Recorder):
    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(data.upper(), addr)


def recorders() -> tuple[list[Recorder], Callable[[], Recorder]]:
    made: list[Recorder] = []

    def make() -> Recorder:
        made.append(Recorder())
        return made[-1]

    return made, make


def test_a_protocol_is_told_once_of_its_beginning_and_its_end(bound: socket.socket) -> None:
    async def scenario() -> None:
        made, make = recorders()
        async with whole(make, bound) as server:
            _, protocol = await recorded(server, made)
            server.unwatch()
            server.watch()
            assert protocol.calls == ["connection_made"]
            server.server.close()
            assert protocol.calls == ["connection_made", "connection_lost", None]
            assert protocol.transport.is_closing()
            assert len(made) == 1

    run(scenario())


def test_a_protocol_that_closes_its_transport_is_told_and_reads_nothing_more(bound: socket.socket) -> None:
    """As asyncio documents it; the socket stays with the server, and what comes waits for another worker."""

    async def scenario() -> None:
        made, make = recorders()
        async with whole(make, bound) as server:
            peer, protocol = await recorded(server, made)
            protocol.transport.close()
            protocol.transport.close()
            assert protocol.transport.is_closing()
            await until(lambda: len(protocol.calls) > 1)
            assert protocol.calls == ["connection_made", "connection_lost", None]
            await peer.post(b"anybody?")
            await turn(0.05)
            assert server.count(Count.DATAGRAMS) == 1

    run(scenario())


def test_a_transport_tells_its_names_and_exchanges_its_protocol(bound: socket.socket) -> None:
    async def scenario() -> None:
        made, make = recorders()
        async with whole(make, bound) as server:
            peer, protocol = await recorded(server, made)
            transport = protocol.transport
            assert transport.get_extra_info("sockname") == bound.getsockname()
            assert transport.get_extra_info("socket").fileno() >= 0
            assert transport.get_extra_info("peername", "nobody") == "nobody"
            assert transport.get_protocol() is protocol
            second = Loud()
            second.transport = transport
            transport.set_protocol(second)
            assert transport.get_protocol() is second
            assert await peer.ask(b"who?") == b"WHO?"

    run(scenario())


def test_what_comes_from_a_unix_peer_without_a_name_is_read_and_cannot_be_answered(
    unixgram: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        for app in (echo, echo_later):
            async with whole(app, unixgram) as server:
                await server.come(is_named=False).post(b"?", b"??")
                await until(lambda: server.count(Count.DATAGRAMS) == 2)
                await turn()
                assert (server.count(Count.ERRORS), server.count(Count.UNSENT)) == (0, 0)

    run(scenario())
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
