"""Apps of datagrams that fail, and answers that cannot be sent: each costs one datagram, never the worker."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

import pytest

from prefork.net.datagrams import Reply
from prefork.scoreboard import Count
from tests.kernel.correspondents import largest
from tests.kernel.serving import run, until
from tests.kernel.whole import whole

SERVED = b"still served"
FAULTS: dict[str, type[BaseException]] = {
    "an exception": ValueError,
    "sys.exit": SystemExit,
    "a cancelled future's result": asyncio.CancelledError,
}


class Act:
    """Does something to each datagram but one, which is echoed."""

    def __init__(self, act: Any) -> None:
        self.act = act
        self.errors: list[BaseException] = []

    def serve(self, data: bytes, peer: Any, reply: Any) -> None:
        if data == SERVED:
            reply(data)
            return
        try:
            self.act(reply)
        except BaseException as error:
            self.errors.append(error)
            raise


def function_of(act: Act) -> Any:
    def serve(data: bytes, peer: Any, reply: Reply) -> None:
        act.serve(data, peer, reply)

    return serve


def coroutine_of(act: Act) -> Any:
    async def serve(data: bytes, peer: Any, reply: Reply) -> None:
        act.serve(data, peer, reply)

    return serve


def protocol_of(act: Act) -> Any:
    class Serves(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
            self.transport = transport

        def datagram_received(self, data: bytes, addr: Any) -> None:
            act.serve(data, addr, lambda answer: self.transport.sendto(answer, addr))

    return Serves


KINDS = {"function": function_of, "async function": coroutine_of, "protocol": protocol_of}


async def fails_alone(kind: Any, act: Act, sock: socket.socket) -> int:
    """Let an act fail three times between good answers; return how many errors were counted."""
    async with whole(kind(act), sock) as server:
        peer = server.come()
        for count in range(3):
            await peer.post(b"fail")
            await until(lambda n=count: len(act.errors) == n + 1)  # type: ignore[misc]
            assert await peer.ask(SERVED) == SERVED
        assert server.site.handlers == 0
        return server.count(Count.ERRORS)


# A SystemExit of a task leaves the loop, and is for the worker to hold: see tests/system. A task that is cancelled
# has not failed.
RAISERS = {
    f"{what} in {where}": (kind, fault)
    for where, kind in KINDS.items()
    for what, fault in FAULTS.items()
    if kind is not coroutine_of or fault is ValueError
}


@pytest.mark.parametrize(("kind", "fault"), RAISERS.values(), ids=RAISERS)
def test_an_app_that_raises_costs_one_datagram(
    bound: socket.socket, kind: Any, fault: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(reply: Any) -> None:
        raise fault("on purpose")

    assert run(fails_alone(kind, Act(fail), bound)) == 3
    assert [r.exc_info is not None for r in caplog.records if r.levelno == logging.ERROR] == [True] * 3


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_an_answer_that_is_too_large_is_a_value_error_to_its_sender(bound: socket.socket, kind: Any) -> None:
    act = Act(lambda reply: reply(bytes(largest(bound) + 1)))
    assert run(fails_alone(kind, act, bound)) == 3
    assert [str(error) for error in act.errors] == [
        f"cannot send a datagram of {largest(bound) + 1} bytes: it is too large"
    ] * 3


@pytest.mark.parametrize("kind", ["function", "async function"])
def test_one_of_many_answers_that_is_too_large_is_a_value_error(bound: socket.socket, kind: str) -> None:
    act = Act(lambda reply: reply.many([b"one", bytes(largest(bound) + 1), b"three"]))

    async def scenario() -> None:
        async with whole(KINDS[kind](act), bound) as server:
            peer = server.come()
            await peer.post(b"fail")
            assert await peer.receive() == b"one"
            await until(lambda: act.errors)
            assert await peer.ask(SERVED) == SERVED

    run(scenario())
    assert [type(error) for error in act.errors] == [ValueError]


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("wrong", ["text", 7, None, [1]], ids=str)
def test_an_answer_of_anything_but_bytes_is_a_type_error_to_its_sender(
    bound: socket.socket, kind: Any, wrong: object
) -> None:
    act = Act(lambda reply: reply(wrong))
    assert run(fails_alone(kind, act, bound)) == 3
    assert [type(error) for error in act.errors] == [TypeError] * 3


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
def test_an_answer_may_be_any_kind_of_bytes(bound: socket.socket, kind: Any, make: Any) -> None:
    async def scenario() -> None:
        async with whole(kind(Act(lambda reply: reply(make(b"whole")))), bound) as server:
            peer = server.come()
            assert [await peer.ask(b"?") for _ in range(3)] == [b"whole"] * 3

    run(scenario())


ADDRESSES: dict[str, Any] = {"no address": None, "a number": 7, "a wrong port": ("::1", 99_999)}


@pytest.mark.parametrize("address", ADDRESSES.values(), ids=ADDRESSES)
def test_a_protocol_that_sends_to_no_address_is_told_so(bound: socket.socket, address: Any) -> None:
    if address and bound.family == socket.AF_INET:
        address = ("127.0.0.1", 99_999)
    errors: list[BaseException] = []

    class Misdirects(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
            self.transport = transport

        def datagram_received(self, data: bytes, addr: Any) -> None:
            try:
                self.transport.sendto(data, addr if data == SERVED else address)
            except (TypeError, ValueError, OverflowError) as error:
                errors.append(error)

    async def scenario() -> None:
        async with whole(Misdirects, bound) as server:
            peer = server.come()
            await peer.post(b"fail")
            assert await peer.ask(SERVED) == SERVED
            assert len(errors) == 1

    run(scenario())


def test_a_connection_lost_that_raises_is_reported_and_the_socket_is_closed(
    bound: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    class Fails(asyncio.DatagramProtocol):
        def connection_lost(self, error: BaseException | None) -> None:
            raise ValueError("on purpose")

    async def scenario() -> None:
        async with whole(Fails, bound) as server:
            descriptors = len(server.site.selector.watchers)
            server.server.close()
            assert len(server.site.selector.watchers) == descriptors - 1
            assert server.count(Count.ERRORS) == 1

    run(scenario())
    assert [r.exc_info is not None for r in caplog.records if r.levelno == logging.ERROR] == [True]
