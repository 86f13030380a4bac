"""Answers to a peer whose address may be forged are bounded by its question, until the app trusts it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prefork.config.limits import Limits
from prefork.net.datagrams import HEADER_BYTES
from prefork.scoreboard import REJECTED, TRIED, Rule, block
from tests.kernel.correspondents import bind
from tests.kernel.serving import run, until
from tests.kernel.whole import Whole, whole

QUESTION = bytes(100)
MOST = 3 * (len(QUESTION) + HEADER_BYTES) - HEADER_BYTES


def counted(server: Whole, first: int = REJECTED) -> int:
    return int(block(server.scoreboard.page(0), 0)[first + Rule.AMPLIFICATION])


def answer_much(data: bytes, peer: Any, reply: Any) -> None:  # an app's arguments
    reply(bytes(5000))


def test_an_answer_may_have_three_times_the_bytes_on_the_wire_and_not_one_more(tmp_path: Path) -> None:
    def app(data: bytes, peer: Any, reply: Any) -> None:
        reply(bytes(MOST + 1))
        reply(bytes(MOST))
        reply(b"")

    async def scenario() -> None:
        with bind("udp", tmp_path) as sock:
            async with whole(app, sock, Limits()) as server:
                peer = server.come()
                assert len(await peer.ask(QUESTION)) == MOST
                assert counted(server) == 2  # one byte too many, and then even an empty one

    run(scenario())


def test_many_answers_count_together_with_their_headers(tmp_path: Path) -> None:
    def app(data: bytes, peer: Any, reply: Any) -> None:
        reply.many([bytes(72)] * 4)  # more than is allowed: none is sent
        reply.many([bytes(72)] * 3)

    async def scenario() -> None:
        with bind("udp", tmp_path) as sock:
            async with whole(app, sock, Limits()) as server:
                peer = server.come()
                assert len(await peer.ask(QUESTION)) == 72
                assert [len(await peer.receive()) for _ in range(2)] == [72] * 2
                assert counted(server) == 1

    run(scenario())


def test_a_peer_that_is_trusted_is_answered_without_a_limit_and_others_are_not(tmp_path: Path) -> None:
    def app(data: bytes, peer: Any, reply: Any) -> None:
        if data == b"token":
            reply.trust()
        reply(bytes(5000))

    async def scenario() -> None:
        with bind("udp", tmp_path) as sock:
            async with whole(app, sock, Limits()) as server:
                one, other = server.come(), server.come()
                await one.post(b"?")
                await until(lambda: counted(server) == 1)
                assert len(await one.ask(b"token")) == 5000
                assert len(await one.ask(b"?")) == 5000
                await other.post(b"?")
                await until(lambda: counted(server) == 2)

    run(scenario())


@pytest.mark.parametrize("limits", [Limits(amplification=0), Limits(dry_run=("amplification",))])
def test_no_limit_and_a_dry_run_send_everything(tmp_path: Path, limits: Limits) -> None:
    async def scenario() -> None:
        with bind("udp", tmp_path) as sock:
            async with whole(answer_much, sock, limits) as server:
                assert len(await server.come().ask(b"?")) == 5000
                assert (counted(server), counted(server, TRIED)) == (0, len(limits.dry_run))

    run(scenario())


def test_a_unix_socket_has_no_forged_addresses(tmp_path: Path) -> None:
    async def scenario() -> None:
        with bind("unixgram", tmp_path) as sock:
            async with whole(answer_much, sock, Limits()) as server:
                assert len(await server.come().ask(b"?")) == 5000
                assert counted(server) == 0

    run(scenario())
