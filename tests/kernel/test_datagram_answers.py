"""Answers to datagrams: the same whether the datagrams came one by one or joined, and nobody waits for another."""

from __future__ import annotations

import array
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prefork.net.datagrams import Reply
from prefork.scoreboard import Count
from tests.kernel.datagram_desk import WARM_UP, Desk, Peer, bind, serving
from tests.kernel.serving import run, until

TOO_LARGE = bytes(70_000)
Handler = Callable[[bytes, Any, Reply], Any]


@pytest.fixture(params=["udp", "udp6"])
def inet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    """A bound UDP socket of each version in turn."""
    with bind(request.param, tmp_path) as sock:
        yield sock


@pytest.fixture(params=["single", "joined"])
def is_joined(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "joined")


async def ask(served: Desk, peer: Peer, datagrams: list[bytes], is_joined: bool) -> None:
    """Send datagrams of one size, one by one or as a burst that comes joined."""
    if is_joined:
        await served.warm_up(peer)
        peer.burst(datagrams)
    else:
        peer.send(*datagrams)


def warmly(handler: Handler) -> Handler:
    """Return a handler that answers the warm-up of a peer itself."""

    def on_datagram(data: bytes, peer: Any, reply: Reply) -> None:
        if data == WARM_UP:
            reply(data)
        else:
            handler(data, peer, reply)

    return on_datagram


def outcome(
    handler: Handler, sock: socket.socket, datagrams: list[bytes], is_joined: bool
) -> tuple[list[bytes], int]:
    """Serve a handler; return the answers to some datagrams, up to the one to a last question, and the errors."""

    async def scenario() -> tuple[list[bytes], int]:
        async with serving(warmly(handler), sock) as served:
            peer = served.come()
            await ask(served, peer, datagrams, is_joined)
            peer.send(WARM_UP)
            found: list[bytes] = []
            while WARM_UP not in found and (data := await peer.receive()) is not None:
                found.append(data)
            assert found
            assert found.pop() == WARM_UP
            return found, served.count(Count.ERRORS)

    return run(scenario())


# --- what a handler may do ---


def test_answers_of_any_sizes_keep_their_order(inet: socket.socket, is_joined: bool) -> None:
    sizes = [5, 5, 5, 9, 9, 3, 3, 3, 1, 0, 0, 4, 0, 4, 4, 2, 2000, 2000, 1999, 2000, 30_000, 30_000, 30_000, 1]

    def on_datagram(data: bytes, peer: Any, reply: Reply) -> None:
        reply(data[:1] * sizes[data[0]])

    asked = [bytes([number]) * 3 for number in range(len(sizes))]
    expected = [bytes([number]) * size for number, size in enumerate(sizes)]
    assert outcome(on_datagram, inet, asked, is_joined) == (expected, 0)


def test_sizes_by_chance_keep_their_order_too(inet: socket.socket) -> None:
    for seed in range(30):
        dice = random.Random(seed)
        sizes = [dice.choice((0, 1, 1, 7, 7, 8, 100, 100)) for _ in range(60)]

        def on_datagram(data: bytes, peer: Any, reply: Reply, sizes: list[int] = sizes) -> None:
            reply(data[:1] * sizes[data[0]])

        asked = [bytes([number, number]) for number in range(len(sizes))]
        expected = [bytes([number]) * size for number, size in enumerate(sizes)]
        assert outcome(on_datagram, inet, asked, is_joined=True) == (expected, 0), seed


def test_none_one_and_several_answers_to_a_datagram_keep_their_order(inet: socket.socket, is_joined: bool) -> None:
    def on_datagram(data: bytes, peer: Any, reply: Reply) -> None:
        for number in range(data[0] % 4):
            reply(data + bytes([number]))

    asked = [bytes([number]) for number in range(20)]
    expected = [data + bytes([number]) for data in asked for number in range(data[0] % 4)]
    assert outcome(on_datagram, inet, asked, is_joined) == (expected, 0)


def test_several_answers_in_one_call_stay_between_those_before_and_after(
    inet: socket.socket, is_joined: bool
) -> None:
    def on_datagram(data: bytes, peer: Any, reply: Reply) -> None:
        reply(data + b"first")
        reply.many([data + b"a", data + b"b", data + b"longer", b"", data + b"c"])
        reply(data + b"last")

    asked = [b"%d" % number for number in range(6)]
    expected = [d + x if x else x for d in asked for x in (b"first", b"a", b"b", b"longer", b"", b"c", b"last")]
    assert outcome(on_datagram, inet, asked, is_joined) == (expected, 0)


@pytest.mark.parametrize("count", [0, 1, 2, 64, 65, 130])
@pytest.mark.parametrize("size", [0, 1, 900])
def test_many_are_as_many_as_wanted(inet: socket.socket, count: int, size: int) -> None:
    answers = [bytes([number]) * size for number in range(count)]

    def on_datagram(data: bytes, peer: Any, reply: Reply) -> None:
        reply.many(answers)

    assert outcome(on_datagram, inet, [b"?"], is_joined=False) == (answers, 0)


def test_many_large_ones_are_sent_with_more_calls(inet: socket.socket) -> None:
    answers = [bytes([number]) * 40_000 for number in range(4)] + [b"x" * 65_507]

    def on_datagram(data: bytes, peer: Any, reply: Reply) -> None:
        reply.many(answers)

    assert outcome(on_datagram, inet, [b"?"], is_joined=False) == (answers, 0)


def test_a_buffer_that_is_used_again_is_not_sent_with_what_is_in_it_later(
    inet: socket.socket, is_joined: bool
) -> None:
    buffer = bytearray(4)

    def on_datagram(data: bytes, peer: Any, reply: Reply) -> None:
        buffer[:] = data
        reply(memoryview(buffer)[1:] if data[0] % 2 else buffer)

    asked = [bytes([number]) * 4 for number in range(10)]
    expected = [data[1:] if data[0] % 2 else data for data in asked]
    assert outcome(on_datagram, inet, asked, is_joined) == (expected, 0)


def test_a_view_of_numbers_is_sent_as_its_bytes(inet: socket.socket, is_joined: bool) -> None:
    def on_datagram(data: bytes, peer: Any, reply: Reply) -> None:
        reply(memoryview(array.array("H", data)))

    asked = [bytes([number]) * 6 for number in range(10)]
    assert outcome(on_datagram, inet, asked, is_joined) == (asked, 0)


# --- what a handler may do wrong ---


def test_an_exception_costs_one_datagram_of_a_burst(inet: socket.socket, is_joined: bool) -> None:
    def on_datagram(data: bytes, peer: Any, reply: Reply) -> None:
        if data in (b"3", b"5"):
            raise (ValueError if data == b"3" else SystemExit)(data)
        reply(data)

    asked = [b"%d" % number for number in range(8)]
    expected = [data for data in asked if data not in (b"3", b"5")]
    assert outcome(on_datagram, inet, asked, is_joined) == (expected, 2)


@pytest.mark.parametrize("wrong", ["text", None, 5, [b"list"]], ids=str)
def test_an_answer_that_is_no_bytes_costs_one_datagram(inet: socket.socket, is_joined: bool, wrong: Any) -> None:
    def on_datagram(data: bytes, peer: Any, reply: Reply) -> None:
        reply(wrong if data == b"3" else data)

    asked = [b"%d" % number for number in range(8)]
    assert outcome(on_datagram, inet, asked, is_joined) == ([data for data in asked if data != b"3"], 1)


@pytest.mark.parametrize("wrong", ["text", None, 5], ids=str)
def test_one_of_many_that_is_no_bytes_costs_one_datagram(inet: socket.socket, is_joined: bool, wrong: Any) -> None:
    def on_datagram(data: bytes, peer: Any, reply: Reply) -> None:
        reply.many([wrong, wrong] if data == b"3" else [data, data])

    asked = [b"%d" % number for number in range(6)]
    expected = [data for data in asked if data != b"3" for _ in range(2)]
    assert outcome(on_datagram, inet, asked, is_joined) == (expected, 1)


def test_an_answer_that_is_too_large_is_told_to_the_handler_at_once(inet: socket.socket, is_joined: bool) -> None:
    def on_datagram(data: bytes, peer: Any, reply: Reply) -> None:
        try:
            reply(TOO_LARGE if data in (b"1", b"3") else data)
        except ValueError:
            reply(b"too large")

    asked = [b"%d" % number for number in range(8)]
    expected = [b"too large" if data in (b"1", b"3") else data for data in asked]
    assert outcome(on_datagram, inet, asked, is_joined) == (expected, 0)


def test_an_answer_that_is_too_large_costs_one_datagram(inet: socket.socket, is_joined: bool) -> None:
    def on_datagram(data: bytes, peer: Any, reply: Reply) -> None:
        reply(TOO_LARGE if data in (b"1", b"3") else data)

    asked = [b"%d" % number for number in range(8)]
    assert outcome(on_datagram, inet, asked, is_joined) == ([d for d in asked if d not in (b"1", b"3")], 2)


# --- later ---


def keeping() -> tuple[Handler, list[Reply]]:
    """Return a handler that answers nothing, and the list in which it keeps the way to do so."""
    kept: list[Reply] = []

    def keep(data: bytes, peer: Any, reply: Reply) -> None:
        kept.append(reply)

    return keep, kept


def test_an_answer_may_be_given_later_and_more_than_once(inet: socket.socket) -> None:
    async def scenario() -> None:
        keep, kept = keeping()
        async with serving(keep, inet) as served:
            peers = [served.come() for _ in range(3)]
            for peer in peers:
                peer.send(b"?")
            await until(lambda: len(kept) == 3)
            for number in range(3):
                for reply in reversed(kept):
                    reply(b"%d to %d" % (number, reply.peer[1]))
            for peer in peers:
                port = peer.socket.getsockname()[1]
                assert await peer.answers(3) == [b"%d to %d" % (number, port) for number in range(3)]

    run(scenario())


def test_an_answer_after_the_end_goes_nowhere_and_harms_nobody(inet: socket.socket) -> None:
    async def scenario() -> None:
        keep, kept = keeping()
        async with serving(keep, inet) as served:
            peer = served.come()
            peer.send(b"?")
            await until(lambda: kept)
            served.leave()
            kept[0](b"late")
            kept[0].many([b"late"] * 3)
            kept[0](TOO_LARGE)
            assert peer.pending() == []
            assert served.count(Count.ERRORS) == 0

    run(scenario())


def test_somebody_elses_datagram_may_be_answered_within_a_burst(inet: socket.socket) -> None:
    async def scenario() -> None:
        kept: list[Reply] = []

        def on_datagram(data: bytes, peer: Any, reply: Reply) -> None:
            if data == b"keep":
                kept.append(reply)
                return
            reply(data)
            if kept and data != WARM_UP:
                kept[0](b"news " + data)

        async with serving(on_datagram, inet) as served:
            waiting, peer = served.come(), served.come()
            waiting.send(b"keep")
            await until(lambda: kept)
            await served.warm_up(peer)
            asked = [b"%d" % number for number in range(6)]
            peer.burst(asked)
            assert await peer.answers(6) == asked
            assert await waiting.answers(6) == [b"news " + data for data in asked]

    run(scenario())
