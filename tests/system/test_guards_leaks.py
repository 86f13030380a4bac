"""After thousands of strangers of all kinds nothing is taken any more: no place, no descriptor, no count."""

from __future__ import annotations

import os
import random
import signal
import socket
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.eventually import eventually
from tests.system.certificates import Authority
from tests.system.certificates import listener as tls_listener
from tests.system.conftest import Prepare
from tests.system.processes import count_fds
from tests.system.running import Running, exchange
from tests.system.visitors import Visitors, ask, listener, open_connections, told, visit, wait_empty

pytestmark = pytest.mark.slow  # storms of seconds each
BAD, BALANCER = "127.0.0.2", "127.0.0.9"
PLACES = 40
NO_LINGER = struct.pack("ii", 1, 0)
V1 = b"PROXY TCP4 127.0.0.2 192.0.2.1 4711 443\r\n"
HELLO = b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"
WORDS = (
    b"",
    b"hello",
    b"GET / HTTP/1.1\r\n\r\n",
    HELLO,
    V1,
    V1 + b"hello",
    V1 + HELLO,
    V1[:20],
    b"\0" * 700,
    b"\r\n\r\n\0",
)
TURNS = 1200


def stranger(port: int, seed: int) -> None:
    """Come, say something or nothing, and go in one of several ways."""
    chance = random.Random(seed)
    with visit(port, chance.choice([BAD, BALANCER])) as sock:
        try:
            sock.sendall(chance.choice(WORDS))
            way = chance.randrange(4)
            if way == 1:
                sock.shutdown(socket.SHUT_WR)
            elif way == 2:
                sock.settimeout(0.05)
                sock.recv(100)
            if way != 3:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        except OSError:  # refused before all was said, or no answer in time
            pass


def storm(server: Running, act: Callable[[int, int], None] = stranger, turns: int = TURNS) -> None:
    port = server.port()
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(lambda seed: act(port, seed), range(turns)):
            pass


def claims(server: Running) -> int:
    """Return how many of its places a source finds free, by taking them."""
    with Visitors(server) as visitors:
        return len(visitors.come(PLACES + 20, BAD))


def worker_fds(server: Running) -> dict[int, list[str]]:
    """Return what the descriptors of the workers stand for; sockets are all called the same."""
    found: dict[int, list[str]] = {}
    for pid in server.worker_pids():
        names = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()]
        found[pid] = sorted(name.partition("[")[0] for name in names)
    return found


def limits(**more: Any) -> dict[str, Any]:
    return {"per_ip": PLACES, "handshake": "2s", **more}


@pytest.mark.parametrize("more", [{}, {"goodbye": "go away"}, {"connections": 15, "when_full": "refuse"}])
def test_all_places_are_free_after_a_storm(prepare: Prepare, more: dict[str, Any]) -> None:
    row = listener(limits(**more), proxy_protocol={"from": [BALANCER]})
    server = prepare(workers=2, listeners=[row]).start()
    fds = worker_fds(server)
    storm(server)
    wait_empty(server, within=15)
    eventually(lambda: worker_fds(server) == fds)
    if "connections" not in more:  # a full worker refuses though the other may have room
        assert claims(server) == PLACES
    wait_empty(server)
    counters = server.status()["counters"]
    assert counters["accepted"] - counters["closed"] == open_connections(server)
    assert len(server.log().splitlines()) < 60, server.log()


def test_all_places_are_free_after_evictions(prepare: Prepare) -> None:
    row = listener(limits(connections=10, when_full="oldest"), proxy_protocol={"from": [BALANCER]})
    server = prepare(workers=1, listeners=[row]).start()
    (worker,) = server.worker_pids()
    fds = count_fds(worker)
    storm(server)
    wait_empty(server, within=15)
    server.configure({"workers": 1, "listeners": [row]})
    eventually(lambda: count_fds(worker) == fds)
    with Visitors(server) as visitors:
        assert len(visitors.come(10, BAD)) == 10
        assert open_connections(server) == 10


def tls_server(prepare: Prepare, **more: Any) -> Running:
    row = {**tls_listener(), "limits": limits(**more), "proxy_protocol": {"from": [BALANCER]}}
    server = prepare(workers=2, listeners=[row])
    server.authority = Authority()  # type: ignore[attr-defined]
    server.authority.issue().write(server.folder)  # type: ignore[attr-defined]
    return server.start()


def secured_places(server: Running) -> int:
    """Return how many connections of TLS a source gets."""
    context = server.authority.client()  # type: ignore[attr-defined]
    port, served = server.port(), 0
    sockets: list[Any] = []
    for _ in range(PLACES + 10):
        sockets.append(visit(port, BAD))
        try:
            sockets[-1] = context.wrap_socket(
                sockets[-1], server_hostname="localhost", do_handshake_on_connect=False
            )
            sockets[-1].do_handshake()
            served += exchange(sockets[-1], b"hello") == b"hello"
        except (OSError, ValueError):  # ValueError: it was reset before
            pass
    for sock in sockets:
        sock.close()
    return served


@pytest.mark.parametrize("handshakes", [1000, 3])
def test_all_places_are_free_after_a_storm_on_tls(prepare: Prepare, handshakes: int) -> None:
    server = tls_server(prepare, handshakes=handshakes)
    fds = worker_fds(server)
    storm(server)
    wait_empty(server, within=15)
    eventually(lambda: worker_fds(server) == fds)
    assert secured_places(server) == PLACES
    wait_empty(server)
    assert len(server.log().splitlines()) < 80, server.log()


def test_a_storm_over_reloads_and_killed_workers_leaves_nothing_taken(prepare: Prepare) -> None:
    row = listener(limits(), proxy_protocol={"from": [BALANCER]})
    server = prepare(workers=2, listeners=[row]).start()
    server.expected_errors += ["SIGKILL"]
    master_fds = len(server.open_fds())
    for turn in range(3):
        storm(server, turns=200)
        os.kill(min(server.worker_pids()), signal.SIGKILL)
        storm(server, turns=200)
        eventually(lambda: len(server.worker_pids()) == 2)
        assert server.reload()["verdict"] == "committed", turn
    eventually(lambda: {row["generation"] for row in server.workers()} == {4}, within=15)
    wait_empty(server, within=15)
    assert claims(server) == PLACES
    assert abs(len(server.open_fds()) - master_fds) <= 1


@pytest.mark.slow
def test_a_server_stops_soon_though_headers_and_handshakes_do_not_come(prepare: Prepare) -> None:
    row = listener(limits(handshake="60s"), proxy_protocol={"from": [BALANCER]})
    server = prepare(workers=2, listeners=[row]).start()
    with visit(server.port(), BALANCER) as silent:
        eventually(lambda: open_connections(server) == 1)
        assert server.stop(within=12) == 0
        assert ask(silent) != b"hello"


def test_a_storm_makes_no_worker_fail(prepare: Prepare) -> None:
    server = prepare(workers=2, listeners=[listener(limits(), framing="lines")]).start()
    pids = server.worker_pids()
    storm(server)
    assert server.worker_pids() == pids
    assert not told(server, "Traceback")
    for pid in pids:
        assert Path(f"/proc/{pid}").exists()
