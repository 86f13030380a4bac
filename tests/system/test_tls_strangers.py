"""Whoever does not speak TLS as it is to be spoken costs that connection, one line and one count; no worker."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import select
import socket
import struct
import time
from typing import Any

from tests.client_hello import HANDSHAKE, alpn, extension, message, records, server_name
from tests.eventually import eventually
from tests.system.certificates import (
    TELLING,
    Authority,
    Carried,
    connect,
    counters,
    listener,
    read_to_the_end,
    refusals,
    told,
)
from tests.system.conftest import Prepare
from tests.system.processes import count_fds
from tests.system.running import Running
from tests.system.traffic import Crowd, send_all

NO_LINGER = struct.pack("ii", 1, 0)
LISTENERS = ("echo", "alpn")
DEADLINE, HASTE, GRACE = 1.0, 0.05, 0.5  # of limits.handshake here; it ends a little early, never late
random_ = random.Random(5246)
WORDS = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a mail": b"EHLO example.org\r\n",
    "one byte": b"x",
    "zeros": bytes(5000),
    "chance": random_.randbytes(5000),
    "chance as a record": b"\x16\x03\x01\x01\x00" + random_.randbytes(256),
    "chance as a hello": records(b"\x01\x00\x00\xfc" + random_.randbytes(252)),
    "a record too large": b"\x16\x03\x01\xff\xff" + bytes(70_000),
    "an empty record": b"\x16\x03\x01\x00\x00" * 40,
    "an alert": b"\x15\x03\x01\x00\x02\x02\x28",
    "a goodbye": b"\x15\x03\x01\x00\x02\x01\x00",
    "application data": b"\x17\x03\x03\x00\x05hello",
    "a heartbeat": b"\x18\x03\x01\x00\x03\x01\x40\x00",
    "SSL 2": b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10\x01\x00\x80" + bytes(34),
    "two hellos": records(message()) * 2,
    "a hello and data": records(message()) + b"\x17\x03\x03\x00\x05hello",
    "no suites": records(message(suites=[])),
    "no compression": records(message(compressions=b"")),
    "an extension twice": records(message(alpn(b"echo"), alpn(b"echo"))),
    "an extension too long": records(message()[:-4] + b"\0\x10\xff\xff"),
    "a tail behind the extensions": records(message() + b"tail"),
    "16 MiB announced": b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + bytes(16_380),
    "a huge hello": records(message(extension(21, bytes(16_000)))),
    "a name and half": records(message(server_name(b"localhost"))[:-3]),
}


def start(prepare: Prepare, **tls: Any) -> tuple[Running, Authority]:
    """Start a server with a listener that knows nothing of ALPN, and one, `alpn`, that looks for it first."""
    rows = [listener(**tls), {**listener(alpn=["echo"], **tls), "name": "alpn"}]
    server = prepare({"app.py": TELLING}, workers=1, listeners=rows)
    authority = Authority()
    authority.issue().write(server.folder)
    return server.start(), authority


def say(sock: socket.socket, words: bytes) -> None:
    """Say something and that it is all; see what comes of it."""
    try:
        sock.sendall(words)
        sock.shutdown(socket.SHUT_WR)
    except ConnectionError:  # it was refused before all was said
        return
    read_to_the_end(sock)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
    sock.close()


def test_what_is_no_handshake_is_refused_counted_and_told_in_one_line(prepare: Prepare) -> None:
    server, authority = start(prepare)
    with connect(server, authority.client()) as other:
        told(other)
        pids = server.worker_pids()
        before = count_fds(*pids)
        for name, words in itertools.product(LISTENERS, WORDS.values()):
            with server.connect(name, timeout=3) as sock:
                say(sock, words)
            told(other)
        eventually(lambda: counters(server)["unsecured"] == 2 * len(WORDS))
        eventually(lambda: count_fds(*pids) <= before)
    assert server.worker_pids() == pids
    shown = json.loads(server.run("status", "--json", "--control", str(server.control)).stdout)["counters"]
    assert (shown["handshakes"], shown["unsecured"]) == (1, 2 * len(WORDS))
    lines = [line.rpartition(" prefork.")[2] for line in refusals(server)]
    reasons = [(line.partition(":")[0], line.partition(" refused: ")[2]) for line in lines]
    assert len(set(reasons)) == len(reasons) > 6  # each reason once for each listener
    assert all(line.isprintable() for line in lines)


def test_clients_that_reset_before_or_in_the_handshake_cost_no_worker(prepare: Prepare) -> None:
    server, authority = start(prepare)
    hello = Carried(authority.client()).hello
    parts = (b"", b"\x16", b"hello", hello[:100], hello)
    with connect(server, authority.client()) as other:
        told(other)
        pids = server.worker_pids()
        before = count_fds(*pids)
        for name, words, is_seen in itertools.product(LISTENERS, parts, (False, True)):
            sock = server.connect(name)
            sock.sendall(words)
            if is_seen:
                told(other)  # the worker has looked at it meanwhile
            reset(sock)
        eventually(lambda: counters(server)["closed"] == 20)
        eventually(lambda: count_fds(*pids) <= before)
        told(other)
    assert server.worker_pids() == pids
    assert counters(server)["unsecured"] == 20


def test_many_resets_at_once_cost_no_worker_and_no_descriptor(prepare: Prepare) -> None:
    server, authority = start(prepare)
    with connect(server, authority.client()) as other:
        told(other)
        pids = server.worker_pids()
        before = count_fds(*pids)
        for words in (b"", b"hello"):
            for sock in send_all(Crowd().come(("127.0.0.1", server.port()), 100), words):
                reset(sock)
        eventually(lambda: counters(server)["closed"] == counters(server)["accepted"] - 1)
        eventually(lambda: count_fds(*pids) <= before)
        told(other)
    assert server.worker_pids() == pids


def test_bytes_that_are_changed_on_the_way_end_that_connection_alone(prepare: Prepare) -> None:
    server, authority = start(prepare)
    with connect(server, authority.client()) as other, server.connect() as sock:
        carried = Carried(authority.client())
        carried.start(sock)
        carried.tls.write(b"?" * 100)
        record = bytearray(carried.words())
        record[-1] ^= 1
        sock.sendall(record)
        read_to_the_end(sock)
        told(other)
    eventually(lambda: counters(server)["closed"] == 2)
    assert (counters(server)["broken"], counters(server)["errors"]) == (1, 0)


# --- deadlines ---


def test_who_does_not_come_to_an_end_is_closed_by_the_limit(prepare: Prepare) -> None:
    server, authority = start(prepare, limits={"handshake": f"{DEADLINE}s"})
    hello = Carried(authority.client()).hello
    with connect(server, authority.client()) as other, contextlib.ExitStack() as stack:
        told(other)
        begun = time.monotonic()
        clients = []
        for name in LISTENERS:
            silent, half, stops = (stack.enter_context(server.connect(name, timeout=5)) for _ in range(3))
            half.sendall(hello[:150])
            stops.sendall(hello)
            assert stops.recv(65_536)[0] == HANDSHAKE  # the ServerHello
            clients += [silent, half, stops]
        for sock in clients:
            read_to_the_end(sock)
            assert DEADLINE - HASTE <= time.monotonic() - begun < DEADLINE + GRACE
        told(other)
    eventually(lambda: counters(server)["unsecured"] == 6)
    assert ["limits.handshake has passed" in line for line in refusals(server)] == [True, True]
    assert counters(server)["handshakes"] == 1


def test_a_byte_now_and_then_does_not_prolong_the_limit(prepare: Prepare) -> None:
    server, authority = start(prepare, limits={"handshake": f"{DEADLINE}s"})
    hello = iter(Carried(authority.client()).hello)
    with server.connect() as sock:
        ends = select.poll()
        ends.register(sock, select.POLLRDHUP)
        begun = time.monotonic()
        while not ends.poll(20):
            sock.sendall(bytes((next(hello),)))
        assert DEADLINE - HASTE <= time.monotonic() - begun < DEADLINE + GRACE
    eventually(lambda: counters(server)["unsecured"] == 1)


def test_the_limit_ends_with_the_handshake(prepare: Prepare) -> None:
    server, authority = start(prepare, limits={"handshake": "0.5s"})
    with connect(server, authority.client()) as client:
        begun = time.monotonic()
        eventually(lambda: time.monotonic() > begun + 0.5 + GRACE)
        assert told(client)["version"] == "TLSv1.3"


# --- how many at once ---


def test_of_too_many_handshakes_the_oldest_gives_way(prepare: Prepare) -> None:
    server, authority = start(prepare, limits={"handshakes": 5})
    with Crowd() as crowd, connect(server, authority.client()) as other:
        silent = crowd.come(("127.0.0.1", server.port()), 5)
        eventually(lambda: server.workers()[0]["connections"] == 6)
        for sock in silent[:3]:
            with connect(server, authority.client()) as good:
                assert told(good)["version"] == "TLSv1.3"
            assert sock.recv(100) == b""
            crowd.come(("127.0.0.1", server.port()), 1)
            eventually(lambda: server.workers()[0]["accepted"] >= counters(server)["accepted"])
            told(other)
        assert "limits.handshakes is reached, and it is the oldest" in refusals(server)[0]
        assert len(refusals(server)) == 1


def test_a_limit_of_one_listener_is_no_concern_of_another(prepare: Prepare) -> None:
    rows = [listener(limits={"handshakes": 1000}), {**listener(limits={"handshakes": 1}), "name": "narrow"}]
    server = prepare({"app.py": TELLING}, workers=1, listeners=rows)
    authority = Authority()
    authority.issue().write(server.folder)
    server.start()
    hello = Carried(authority.client())
    with server.connect() as slow, server.connect("narrow") as first, server.connect("narrow") as second:
        eventually(lambda: server.workers()[0]["connections"] == 3)
        assert first.recv(100) == b""  # it gave way to the second
        assert hello.start(slow).version() == "TLSv1.3"
        assert Carried(authority.client()).start(second).version() == "TLSv1.3"
    assert counters(server)["unsecured"] == 1
