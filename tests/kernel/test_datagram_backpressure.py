"""Datagrams of peers that do not read, and handlers that have enough to do, over udp, udp6 and unixgram."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from prefork.config.limits import Limits
from prefork.net.datagrams import Reply
from prefork.scoreboard import Count
from tests.kernel.correspondents import largest
from tests.kernel.serving import cpu_share, run, turn, until
from tests.kernel.whole import whole

ANSWERS = 100  # to one question: more than the queue of a unix peer holds
ANSWER_BYTES = 1000
SMALL = b"0"  # the question that has one answer


def answers_to(data: bytes) -> Iterator[bytes]:
    for number in range(1 if data == SMALL else ANSWERS):
        yield b"%s:%d" % (data, number) + bytes(ANSWER_BYTES)


def answer_much(data: bytes, peer: Any, reply: Reply) -> None:
    for answer in answers_to(data):
        reply(answer)


async def answer_much_later(data: bytes, peer: Any, reply: Reply) -> None:
    answer_much(data, peer, reply)


class AnswersMuch(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        for answer in answers_to(data):
            self.transport.sendto(answer, addr)


TALKERS: dict[str, Any] = {
    "function": answer_much,
    "async function": answer_much_later,
    "protocol": AnswersMuch,
}


def number_of(answer: bytes) -> tuple[int, int]:
    question, _, number = answer.rstrip(b"\0").partition(b":")
    return int(question), int(number)


# --- peers that do not read ---


@pytest.mark.parametrize("app", TALKERS.values(), ids=TALKERS)
@pytest.mark.parametrize("is_connected", [True, False], ids=["connected", "not connected"])
def test_what_a_unix_peer_does_not_take_is_counted_and_the_rest_is_in_order(
    unixgram: socket.socket, app: object, is_connected: bool
) -> None:
    async def scenario() -> None:
        async with whole(app, unixgram, Limits(buffer=65_536, amplification=0)) as server:
            peer = server.come(is_connected=is_connected)
            for question in range(1, 31):
                await peer.post(b"%d" % question)
                await until(lambda n=question: server.count(Count.DATAGRAMS) == n)  # type: ignore[misc]
            await turn()
            assert server.count(Count.UNSENT) > 2000
            assert await cpu_share(0.2) < 0.6
            received = await peer.receive_until_quiet()
            assert len(received) + server.count(Count.UNSENT) == 3000
            numbers = list(map(number_of, received))
            assert numbers == sorted(numbers)
            assert numbers[0] == (1, 0)
            assert number_of(await peer.ask(SMALL)) == (0, 0)

    run(scenario())


def test_a_unix_peer_that_reads_a_little_later_gets_all_of_a_burst(unixgram: socket.socket) -> None:
    """Its own queue has ten places, and limits.buffer is there for the rest: unix(7) calls itself reliable."""

    async def scenario() -> None:
        async with whole(answer_much, unixgram) as server:
            peer = server.come(is_connected=False)
            await peer.post(b"1")
            answers = [number_of(await peer.receive()) for _ in range(ANSWERS)]
            assert answers == [(1, number) for number in range(ANSWERS)]
            assert server.count(Count.UNSENT) == 0

    run(scenario())


def test_a_unix_peer_that_asks_on_while_it_reads_gets_its_answers_in_order(unixgram: socket.socket) -> None:
    """What it makes room for is for those that wait, not for the newest."""

    async def scenario() -> None:
        async with whole(answer_much, unixgram) as server:
            peer = server.come(is_connected=False)
            answers: list[bytes] = []
            for question in range(1, 6):
                await peer.post(b"%d" % question)
                answers += [await peer.receive() for _ in range(3)]
            while len(answers) < 5 * ANSWERS:
                answers.append(await peer.receive())
            assert list(map(number_of, answers)) == [(q, n) for q in range(1, 6) for n in range(ANSWERS)]

    run(scenario())


@pytest.mark.parametrize("app", TALKERS.values(), ids=TALKERS)
def test_a_peer_that_does_not_read_holds_up_nobody_else(bound: socket.socket, app: object) -> None:
    async def scenario() -> None:
        async with whole(app, bound) as server:
            silent, other = server.come(is_connected=False), server.come()
            for question in range(1, 31):
                await silent.post(b"%d" % question)
                await until(lambda n=question: server.count(Count.DATAGRAMS) == 2 * n - 1)  # type: ignore[misc]
                assert number_of(await other.ask(SMALL)) == (0, 0)

    run(scenario())


def test_answers_to_a_peer_that_has_left_are_counted_and_harm_nobody(unixgram: socket.socket) -> None:
    async def scenario() -> None:
        async with whole(answer_much, unixgram) as server:
            gone = server.come(is_connected=False)
            await gone.post(b"1")
            gone.close()
            await until(lambda: server.count(Count.UNSENT) == ANSWERS)
            assert number_of(await server.come().ask(SMALL)) == (0, 0)

    run(scenario())


def test_answers_to_an_inet_peer_that_has_left_harm_nobody(bound: socket.socket) -> None:
    """The network may tell of a closed port, icmp(7): that is no news about anybody else."""

    async def scenario() -> None:
        async with whole(answer_much, bound) as server:
            for question in range(1, 21):
                gone = server.come()
                await gone.post(b"%d" % question)
                gone.close()
            assert number_of(await server.come().ask(SMALL)) == (0, 0)
            assert server.count(Count.DATAGRAMS) == 21
            assert server.count(Count.ERRORS) == 0

    run(scenario())


@pytest.mark.parametrize("kind", ["function", "protocol"])
def test_an_answer_that_is_too_large_is_told_while_others_wait_and_costs_none_of_them(
    unixgram: socket.socket, kind: str
) -> None:
    most, errors = largest(unixgram), []

    def answer_badly(send: Callable[[bytes], object]) -> None:
        for number in range(ANSWERS):
            send(b"1:%d" % number)
            if number % 10 == 5:
                with pytest.raises(ValueError, match="too large") as error:
                    send(bytes(most + 1))
                errors.append(error)

    class Answers(AnswersMuch):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            answer_badly(lambda answer: self.transport.sendto(answer, addr))

    def answer(data: bytes, peer: Any, reply: Reply) -> None:
        answer_badly(reply)

    async def scenario() -> None:
        async with whole(Answers if kind == "protocol" else answer, unixgram) as server:
            peer = server.come(is_connected=False)
            await peer.post(b"?")
            assert [number_of(await peer.receive()) for _ in range(ANSWERS)] == [(1, n) for n in range(ANSWERS)]
            assert (len(errors), server.count(Count.ERRORS), server.count(Count.UNSENT)) == (ANSWERS // 10, 0, 0)

    run(scenario())


# --- handlers that have enough to do ---


class Workshop:
    """An async app whose work ends when it is told, and which counts how much is in hand."""

    def __init__(self) -> None:
        self.begun: list[bytes] = []
        self.at_work = self.most = 0
        self.go = asyncio.Event()

    async def __call__(self, data: bytes, peer: Any, reply: Reply) -> None:
        self.begun.append(data)
        self.at_work += 1
        self.most = max(self.most, self.at_work)
        await self.go.wait()
        self.at_work -= 1
        reply(data)


def questions(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def test_no_more_handlers_are_at_work_than_limits_connections(bound: socket.socket) -> None:
    async def scenario() -> None:
        shop = Workshop()
        async with whole(shop, bound, Limits(connections=3, amplification=0)) as server:
            peer = server.come()
            await peer.post(*questions(10))
            await until(lambda: shop.at_work == 3)
            await turn(0.05)
            assert shop.begun == questions(3)
            assert await cpu_share(0.1) < 0.6
            shop.go.set()
            answers = [await peer.receive() for _ in range(10)]
            assert (answers, shop.begun, shop.most) == (questions(10), questions(10), 3)

    run(scenario())


def test_work_that_ends_does_not_begin_to_read_a_socket_that_was_left_meanwhile(bound: socket.socket) -> None:
    """Another worker reads from it by then."""

    async def scenario() -> None:
        shop = Workshop()
        async with whole(shop, bound, Limits(connections=2, amplification=0)) as server:
            peer = server.come()
            await peer.post(*questions(6))
            await until(lambda: shop.at_work == 2)
            server.unwatch()
            shop.go.set()
            assert [await peer.receive(), await peer.receive()] == questions(2)
            await turn(0.05)
            assert shop.begun == questions(2)
            server.watch()
            assert [await peer.receive() for _ in range(4)] == questions(6)[2:]

    run(scenario())


def test_a_socket_that_is_watched_again_is_not_read_while_there_is_enough_to_do(bound: socket.socket) -> None:
    async def scenario() -> None:
        shop = Workshop()
        async with whole(shop, bound, Limits(connections=2, amplification=0)) as server:
            peer = server.come()
            await peer.post(*questions(6))
            await until(lambda: shop.at_work == 2)
            server.unwatch()
            server.watch()
            await turn(0.05)
            assert shop.begun == questions(2)
            shop.go.set()
            assert [await peer.receive() for _ in range(6)] == questions(6)
            assert shop.most == 2

    run(scenario())


def test_a_second_socket_counts_into_the_same_limit(bound: socket.socket) -> None:
    async def scenario() -> None:
        shop = Workshop()
        async with whole(shop, bound, Limits(connections=2, amplification=0)) as server:
            peer = server.come()
            await peer.post(*questions(2))
            await until(lambda: shop.at_work == 2)
            server.unwatch(0)
            server.watch(1)
            await peer.post(b"third")
            await turn(0.05)
            assert shop.begun == questions(2)
            shop.go.set()
            assert [await peer.receive() for _ in range(3)] == [*questions(2), b"third"]

    run(scenario())
