"""Limits beside each other: a full listener and an empty one, handshakes, pushers and sinks, answers of IPv6."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from tests.eventually import eventually
from tests.system.certificates import Authority, wrap
from tests.system.certificates import listener as tls_listener
from tests.system.conftest import Prepare
from tests.system.datagrams import caller
from tests.system.running import Running, exchange
from tests.system.test_admin import PROXY, get, total
from tests.system.test_guards_clocks import repeating
from tests.system.visitors import (
    Visitors,
    counted,
    has_ended,
    hear,
    listener,
    open_connections,
    rejections,
    visit,
)

APPS = """
import asyncio, time

async def echo(conn):
    async for data in conn:
        await conn.send(data)

async def push(conn):
    while True:
        await conn.send(b"x" * 100)
        await asyncio.sleep(0.01)

async def sink(conn):
    async for data in conn:
        pass

async def clock(conn):
    async for data in conn:
        await asyncio.sleep(0.1)
        await conn.send(b"%.6f" % time.monotonic())

def many(data, peer, reply):
    if data == b"end":
        reply(data)
        return
    for _ in range(500):
        reply(b"x")

def sized(data, peer, reply):
    reply(b"x" * int(data))
"""
LIFE_SECONDS = 3.5  # of limits.life, 1 s: a tenth, 1 s for the last answer, 1 s for a sweep, and some
LINE_BYTES = 3000
QUESTION_BYTES = 1000
LONG_HEADER_BYTES = 48  # IPv6 and UDP
FACTOR = 3  # limits.amplification by default
ANSWERED, RESET, SILENT = "answered", "ECONNRESET", "nothing"


def start(prepare: Prepare, *rows: dict[str, Any], workers: int = 1) -> Running:
    return prepare({"app.py": APPS}, workers=workers, listeners=list(rows)).start()


# --- connections ---


def come_at_once(port: int, stack: ExitStack, count: int) -> list[tuple[socket.socket, int]]:
    """Let so many begin to connect before the first is looked at; return them with what connect(2) said."""
    found = []
    for _ in range(count):
        sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        sock.setblocking(False)
        found.append((sock, sock.connect_ex(("127.0.0.1", port))))
    return found


def fates_of(come: Sequence[tuple[socket.socket, int]]) -> list[str]:
    """Return what becomes of connections that have begun, within 5 s for all of them."""
    deadline = time.monotonic() + 5
    return [_fate(sock, code, deadline) for sock, code in come]


def _fate(sock: socket.socket, code: int, deadline: float) -> str:
    sock.settimeout(max(0.05, deadline - time.monotonic()))
    try:
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, os.strerror(code))
        return ANSWERED if exchange(sock, b"hello") == b"hello" else "ended"
    except TimeoutError:
        return SILENT
    except OSError as error:
        return errno.errorcode[error.errno or 0]


@pytest.mark.parametrize("count", [20, 64])
def test_who_is_too_many_for_all_workers_is_reset_though_another_listener_has_room(
    prepare: Prepare, count: int
) -> None:
    other = {**listener(), "name": "other"}
    server = start(prepare, listener({"connections": 5, "when_full": "refuse"}), other, workers=2)
    with ExitStack() as stack:
        come = come_at_once(server.port(), stack, count)
        fates = fates_of(come)
        assert sorted(set(fates)) == [RESET, ANSWERED]
        assert fates.count(ANSWERED) == 10
        assert rejections(server) == {"connections": count - 10}
        assert [row["connections"] for row in server.workers()] == [5, 5]
        assert exchange(stack.enter_context(server.connect("other")), b"neighbour") == b"neighbour"
        served = [sock for (sock, _), what in zip(come, fates, strict=True) if what == ANSWERED]
        assert [exchange(sock, b"again") for sock in served] == [b"again"] * 10
        assert fates_of(come_at_once(server.port(), stack, 3)) == [RESET] * 3


# --- life and idle ---


def test_a_newcomer_is_not_refused_while_another_worker_has_room(prepare: Prepare) -> None:
    other = {**listener(), "name": "other"}
    server = start(prepare, listener({"connections": 5, "when_full": "refuse"}), other, workers=2)
    with ExitStack() as stack:
        served = [
            sock for sock, come in come_at_once(server.port(), stack, 10) if fates_of([(sock, come)]) == [ANSWERED]
        ]
        while len(served) < 10:
            (one,) = come_at_once(server.port(), stack, 1)
            served += [one[0]] if fates_of([one]) == [ANSWERED] else []
        for _ in range(40):
            served.pop(0).close()
            eventually(lambda: open_connections(server) == 9)
            (one,) = come_at_once(server.port(), stack, 1)
            assert fates_of([one]) == [ANSWERED]
            served.append(one[0])


@pytest.mark.parametrize("app", ["push", "sink"])
def test_life_ends_who_pushes_and_never_reads_and_who_reads_and_never_answers(prepare: Prepare, app: str) -> None:
    row = listener({"life": "1s"}, app=f"app:{app}")
    server = prepare({"app.py": APPS}, workers=1, listeners=[row], **PROXY).start()
    eventually(lambda: get(server, "/healthz/live")[0] == 200)
    port = server.port()
    with ThreadPoolExecutor(4) as threads:
        lives = list(threads.map(seconds_of_life, [port] * 4, [app == "sink"] * 4))
    assert min(lives) >= 1.0, lives
    assert max(lives) <= LIFE_SECONDS, lives
    eventually(lambda: closed(server, reason="life") == 4)
    assert closed(server) == 4


def seconds_of_life(port: int, talks: bool) -> float:
    """Return how long a client is served that reads all, and says a byte now and then, or nothing."""
    begun = time.monotonic()
    with ExitStack() as stack:
        sock = stack.enter_context(visit(port, timeout=2 * LIFE_SECONDS))
        if talks:
            stack.enter_context(repeating(lambda: sock.sendall(b"x"), 0.2))
        while read_some(sock) and time.monotonic() - begun < 2 * LIFE_SECONDS:
            pass
        return time.monotonic() - begun


def read_some(sock: socket.socket) -> bytes:
    """Return what has come; nothing: the connection has ended, by whatever, or nothing comes."""
    try:
        return sock.recv(65_536)
    except OSError:
        return b""


def closed(server: Running, **labels: str) -> float:
    return total(server, "prefork_connections_closed_total", **labels)


def quiet_seconds(port: int, delay: float) -> float:
    """Return how long a connection is left alone from its last byte on, which comes after a delay.

    The clock is CLOCK_MONOTONIC, the same for all processes, and each byte is told with a time before it.
    """
    begun = time.monotonic()
    with visit(port) as sock:
        eventually(lambda: time.monotonic() - begun >= delay)
        last = time.monotonic()
        sock.sendall(b"now?")
        heard = hear(sock)
        ended = time.monotonic()
    return ended - (float(heard) if heard else last)


@pytest.mark.parametrize("app", ["clock", "sink"])
def test_idle_ends_nobody_before_its_time_and_everybody_soon_after(prepare: Prepare, app: str) -> None:
    server = start(prepare, listener({"idle": "1s"}, app=f"app:{app}"))
    port, count = server.port(), 16
    with ThreadPoolExecutor(count) as threads:  # each begins somewhere else between two sweeps
        quiet = list(threads.map(lambda number: quiet_seconds(port, number * 0.06), range(count)))
    assert min(quiet) >= 1.0, quiet
    assert max(quiet) <= 3.0, quiet
    assert rejections(server) == {"idle": count}


# --- frames ---


@pytest.mark.parametrize("over", ["close", "skip", "error"])
def test_a_line_over_limits_frame_is_counted_whatever_becomes_of_it(prepare: Prepare, over: str) -> None:
    framing = {"lines": {"over": over}}
    server = start(prepare, {**listener({"frame": "1KiB"}), "framing": framing})
    with visit(server.port()) as sock, visit(server.port()) as other:
        sock.sendall(b"x" * LINE_BYTES + b"\nshort\n")
        heard = hear(sock) if over == "close" else receive_until(sock, b"short\n")
        assert (heard == b"short\n") == (over == "skip")
        assert b"x" * 1024 not in heard
        assert exchange(other, b"x" * 1023 + b"\n") == b"x" * 1023 + b"\n"
        eventually(lambda: counted(server, "frame") == 1)
    assert rejections(server) == {"frame": 1}


def receive_until(sock: socket.socket, end: bytes) -> bytes:
    """Return all up to some last bytes."""
    heard = b""
    while not heard.endswith(end) and (data := sock.recv(65_536)):
        heard += data
    assert heard.endswith(end)
    return heard


# --- handshakes ---


def start_tls(prepare: Prepare, authority: Authority, limits: dict[str, Any]) -> Running:
    server = prepare({"app.py": APPS}, workers=1, listeners=[tls_listener(limits=limits)])
    authority.issue().write(server.folder)
    return server.start()


def test_the_oldest_handshake_over_the_limit_goes_and_the_newest_is_finished(prepare: Prepare) -> None:
    authority = Authority()
    server = start_tls(prepare, authority, {"handshakes": 1, "handshake": "60s"})
    with visit(server.port()) as oldest:
        eventually(lambda: open_connections(server) == 1)
        with visit(server.port()) as newest:
            eventually(lambda: has_ended(oldest))
            assert rejections(server) == {"handshakes": 1}
            assert not has_ended(newest)
            with wrap(newest, authority.client()) as client:
                assert exchange(client, b"hello") == b"hello"
    assert rejections(server) == {"handshakes": 1}


def test_a_trial_of_handshakes_counts_and_ends_nobody(prepare: Prepare) -> None:
    authority = Authority()
    limits = {"handshakes": {"value": 1, "dry_run": True}, "handshake": "60s"}
    server = start_tls(prepare, authority, limits)
    with visit(server.port()) as oldest, visit(server.port()) as newest:
        eventually(lambda: open_connections(server) == 2)
        assert rejections(server, "dry_run") == {"handshakes": 1}
        for sock in (newest, oldest):
            with wrap(sock, authority.client()) as client:
                assert exchange(client, b"hello") == b"hello"
    assert not rejections(server)


def test_balancers_who_say_nothing_are_no_more_than_limits_handshakes(prepare: Prepare) -> None:
    limits = {"handshakes": 5, "handshake": "60s"}
    server = start(prepare, listener(limits, proxy_protocol={"from": ["127.0.0.1"]}))
    with Visitors(server) as visitors:
        silent = [visitors.one() for _ in range(20)]
        eventually(lambda: counted(server, "handshakes") == 15)
        eventually(lambda: [has_ended(sock) for sock in silent].count(True) == 15)
        assert open_connections(server) == 5
        assert [has_ended(sock) for sock in silent] == [True] * 15 + [False] * 5
        for sock in silent[15:]:
            sock.sendall(b"PROXY TCP4 198.51.100.7 192.0.2.1 4711 443\r\n")
            assert exchange(sock, b"hello") == b"hello"
        assert rejections(server) == {"handshakes": 15}


# --- amplification ---


def start_long(prepare: Prepare, name: str) -> Running:
    return start(prepare, {"name": "echo", "bind": "udp://[::1]:0", "app": f"app:{name}"})


def test_many_answers_of_a_byte_weigh_on_the_wire_what_the_question_allows(prepare: Prepare) -> None:
    server = start_long(prepare, "many")
    with caller(("::1", server.port())) as sock:
        sock.send(b"?" * QUESTION_BYTES)
        sock.send(b"end")
        answers = list(iter(lambda: sock.recv(65_536), b"end"))
    allowed = FACTOR * (QUESTION_BYTES + LONG_HEADER_BYTES)
    weight = sum(len(answer) + LONG_HEADER_BYTES for answer in answers)
    assert allowed - (1 + LONG_HEADER_BYTES) < weight <= allowed
    assert set(answers) == {b"x"}
    assert counted(server, "amplification") == 500 - len(answers)


def test_a_short_question_has_an_answer_of_its_share_and_not_one_byte_more(prepare: Prepare) -> None:
    server = start_long(prepare, "sized")
    most = FACTOR * (4 + LONG_HEADER_BYTES) - LONG_HEADER_BYTES
    with caller(("::1", server.port())) as sock:
        for size in (most + 1, most, most + 1, most - 1, 4):
            sock.send(b"%04d" % size)
        assert [len(sock.recv(65_536)) for _ in range(3)] == [most, most - 1, 4]
    assert counted(server, "amplification") == 2
