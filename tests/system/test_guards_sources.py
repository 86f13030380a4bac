"""What one source may have: so many connections over all workers, exactly, and so many new ones per second."""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from prefork.firewall import pack_host, source_of
from prefork.net.sources import SourceTable
from prefork.scoreboard import Rows
from tests.eventually import eventually
from tests.system.conftest import Prepare
from tests.system.running import Running, exchange
from tests.system.traffic import Stream
from tests.system.visitors import Visitors, ask, counted, listener, rejections, told, visit, wait_empty

LIMIT, ATTEMPTS = 100, 600
BAD, GOOD = "127.0.0.2", "127.0.0.3"
NO_LINGER = struct.pack("ii", 1, 0)


def start(prepare: Prepare, limits: dict[str, object], workers: int = 4) -> Running:
    return prepare(workers=workers, listeners=[listener(limits)]).start()


def served(visitors: Visitors, source: str = BAD, attempts: int = ATTEMPTS) -> int:
    return len(visitors.come(attempts, source))


def test_a_source_gets_its_limit_over_all_workers_exactly_and_another_is_served(prepare: Prepare) -> None:
    server = start(prepare, {"per_ip": LIMIT})
    with Visitors(server) as visitors:
        assert served(visitors) == LIMIT
        assert served(visitors, GOOD, 10) == 10
        assert counted(server, "per_ip") == ATTEMPTS - LIMIT
        assert sum(row["connections"] for row in server.workers()) == LIMIT + 10
        assert len(told(server, "limits.per_ip")) <= 4  # one of each worker


def test_attempts_from_many_threads_at_once_get_the_limit_exactly(prepare: Prepare) -> None:
    server = start(prepare, {"per_ip": LIMIT})
    with Visitors(server) as visitors, ThreadPoolExecutor(16) as pool:
        visitors.sockets += pool.map(lambda _: visit(visitors.port, BAD), range(ATTEMPTS))
        found = list(pool.map(ask, visitors.sockets))
        assert found.count(b"hello") == LIMIT
        assert counted(server, "per_ip") == ATTEMPTS - LIMIT


def test_while_a_source_beats_on_the_door_it_never_has_more_and_the_last_place_is_taken(prepare: Prepare) -> None:
    server = start(prepare, {"per_ip": 8})
    open_now, most, lock = 0, 0, threading.Lock()

    def come_and_go() -> None:
        nonlocal open_now, most
        for _ in range(60):
            with visit(server_port, BAD) as sock:
                if ask(sock) != b"hello":
                    continue
                with lock:
                    open_now += 1
                    most = max(most, open_now)
                ask(sock)
                with lock:
                    open_now -= 1

    server_port = server.port()
    threads = [threading.Thread(target=come_and_go) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most <= 8
    wait_empty(server)
    with Visitors(server) as visitors:
        assert served(visitors, BAD, 20) == 8


def test_the_places_of_a_killed_worker_are_free_again(prepare: Prepare) -> None:
    server = start(prepare, {"per_ip": 40})
    with Visitors(server) as visitors:
        assert served(visitors, BAD, 60) == 40
        before = server.workers("ready")
        victim = max(before, key=lambda row: row["connections"])
        assert victim["connections"]
        os.kill(victim["pid"], signal.SIGKILL)
        server.expected_errors.append("signal 9")
        server.expected_errors.append("SIGKILL")
        eventually(lambda: victim["pid"] not in server.worker_pids() and len(server.worker_pids()) == 4)
        assert served(visitors, BAD, 60) == victim["connections"]


def test_the_place_of_a_connection_that_has_ended_is_free_again(prepare: Prepare) -> None:
    server = start(prepare, {"per_ip": 10})
    with Visitors(server) as visitors:
        for _ in range(3):
            come = visitors.come(20, BAD)
            assert len(come) == 10
            visitors.leave(list(visitors.sockets))
            wait_empty(server)


def test_no_place_is_lost_by_resets_half_closes_and_connections_of_no_byte(prepare: Prepare) -> None:
    server = start(prepare, {"per_ip": 50, "goodbye": "too many"})
    port = server.port()
    for turn in range(1500):
        sock = visit(port, BAD)
        if turn % 4 == 1:
            sock.shutdown(socket.SHUT_WR)
        elif turn % 4 == 2:
            ask(sock)
        if turn % 2:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        sock.close()
    wait_empty(server)
    with Visitors(server) as visitors:
        assert served(visitors, BAD, 70) == 50


@pytest.mark.parametrize("limits", [{}, {"per_ip": "auto"}, {"per_ip": 0}])
def test_private_sources_have_no_limit_by_default(prepare: Prepare, limits: dict[str, object]) -> None:
    server = start(prepare, limits)
    with Visitors(server) as visitors:
        assert served(visitors, "127.0.0.1") == ATTEMPTS
    assert not rejections(server)


def test_a_prefix_makes_a_network_one_source(prepare: Prepare) -> None:
    server = start(prepare, {"per_ip": 10, "prefix_v4": 24})
    with Visitors(server) as visitors:
        assert sum(served(visitors, f"127.0.7.{last}", 2) for last in range(1, 9)) == 10
        assert served(visitors, "127.0.8.1", 3) == 3


def test_a_source_of_ipv6_is_counted_too(prepare: Prepare) -> None:
    server = prepare(workers=2, listeners=[listener({"per_ip": 5}, bind="tcp://[::1]:0")]).start()
    sockets = []
    for _ in range(9):
        sockets.append(socket.socket(socket.AF_INET6))
        sockets[-1].settimeout(10)
        sockets[-1].connect_ex(("::1", server.port()))
    assert [ask(sock) for sock in sockets].count(b"hello") == 5
    for sock in sockets:
        sock.close()


def test_a_network_of_64_bits_is_one_source_and_its_neighbour_another() -> None:
    rows = Rows(2)
    rows.seat_limit = 2
    tables = [SourceTable(rows, seat) for seat in range(2)]

    def enters(host: str, seat: int) -> bool:
        packed = pack_host(host)
        assert packed is not None
        return tables[seat].enter(tables[seat].key_of(b"a\0" + source_of(packed, 32, 64)), 2, 100.0)

    assert [enters(f"2001:db8::{i:x}", i % 2) for i in range(1, 5)] == [True, True, False, False]
    assert enters("2001:db8:0:1::1", 0)
    assert enters("::ffff:192.0.2.1", 0)
    assert enters("192.0.2.1", 1)
    assert not enters("::ffff:192.0.2.1", 1)


def test_sources_that_only_have_a_rate_do_not_pile_up_in_memory() -> None:
    rows = Rows(1)
    rows.seat_limit = 1
    table = SourceTable(rows, 0)
    for second in range(4):
        for number in range(40_000):
            table.hit(table.key_of(b"%d.%d" % (second, number)), 5, 1000.0 + 10 * second)
    kept = len(table._homeless)
    assert kept < 40_000, f"{kept} sources that have gone long ago are remembered"


# --- rates ---


def test_a_source_may_connect_so_often_in_a_second_that_slides(prepare: Prepare) -> None:
    server = start(prepare, {"per_ip_rate": 20}, workers=2)
    with Visitors(server) as visitors:
        begun = time.monotonic()
        first = served(visitors, BAD, 60)
        took = time.monotonic() - begun
        assert 20 <= first <= 20 * (1 + took) + 2
        assert served(visitors, GOOD, 10) == 10
        assert counted(server, "per_ip_rate") == 60 - first
        eventually(lambda: visitors.come(1, BAD), within=2.5, every=0.2)


def test_all_sources_together_may_connect_so_often_in_a_second(prepare: Prepare) -> None:
    server = start(prepare, {"rate": 30}, workers=2)
    with Visitors(server) as visitors:
        begun = time.monotonic()
        come = sum(served(visitors, f"127.0.0.{2 + i % 50}", 1) for i in range(100))
        took = time.monotonic() - begun
        assert 30 <= come <= 30 * (1 + took) + 2
        assert counted(server, "rate") == 100 - come
        eventually(lambda: visitors.come(1, GOOD), within=2.5, every=0.2)


def test_a_source_at_its_limit_does_not_use_up_the_rate_of_all(prepare: Prepare) -> None:
    server = start(prepare, {"per_ip": 3, "rate": 40}, workers=1)
    with Visitors(server) as visitors:
        assert served(visitors, BAD, 100) <= 3
        assert served(visitors, GOOD, 3) == 3


# --- trials, reloads, logs ---


def test_a_trial_counts_and_refuses_nobody(prepare: Prepare) -> None:
    server = start(prepare, {"per_ip": {"value": 10, "dry_run": True}})
    with Visitors(server) as visitors:
        assert served(visitors, BAD, 35) == 35
        assert counted(server, "per_ip", "dry_run") == 25
        assert not rejections(server)
        visitors.leave(list(visitors.sockets))
        wait_empty(server)
        assert served(visitors, BAD, 10) == 10
        assert counted(server, "per_ip", "dry_run") == 25
    assert len(told(server, "would be refused")) in range(1, 5)


def test_a_trial_of_rates_refuses_nobody(prepare: Prepare) -> None:
    server = start(prepare, {"per_ip_rate": 5, "rate": 5, "dry_run": ["per_ip_rate", "rate"]}, workers=1)
    with Visitors(server) as visitors:
        assert served(visitors, BAD, 60) == 60
    dry_run = rejections(server, "dry_run")
    assert dry_run["per_ip_rate"] > 20
    assert dry_run["rate"] > 20


def test_a_reload_changes_the_limit(prepare: Prepare) -> None:
    server = start(prepare, {"per_ip": 10}, workers=2)
    with Visitors(server) as visitors:
        assert served(visitors, BAD, 20) == 10
        server.configure({"workers": 2, "listeners": [listener({"per_ip": 25})]})
        assert server.reload()["verdict"] == "committed"
        visitors.leave(list(visitors.sockets))
        wait_empty(server, within=15)
        assert served(visitors, BAD, 40) == 25
        assert counted(server, "per_ip") == 10 + 15


HELD = (
    "import asyncio, os\n"
    "async def echo(conn):\n"
    "    async for data in conn:\n"
    "        while data == b'hold!' and not os.path.exists('gate'):\n"
    "            await asyncio.sleep(0.01)\n"
    "        await conn.send(data)\n"
)


@pytest.mark.slow
def test_two_generations_count_together(prepare: Prepare) -> None:
    config = {"workers": 2, "timeouts": {"boot": "20s", "beat": "20s", "drain": "8s"}}
    server = prepare({"app.py": HELD}, listeners=[listener({"per_ip": 20})], **config).start()
    with Visitors(server) as visitors:
        busy = visitors.come(12, BAD)
        for sock in busy:
            sock.sendall(b"hold!")
        assert server.reload()["verdict"] == "committed"
        assert len(server.worker_pids("retiring", "draining", "ready")) >= 2
        assert served(visitors, BAD, 30) == 8
        (server.folder / "gate").touch()
        assert [sock.recv(5) for sock in busy] == [b"hold!"] * 12
        eventually(lambda: {row["generation"] for row in server.workers()} == {2}, within=15)
        assert served(visitors, BAD, 30) == 12


@pytest.mark.slow
def test_a_flood_of_refusals_is_a_few_lines_of_the_log(prepare: Prepare) -> None:
    server = start(prepare, {"per_ip": 5}, workers=2)
    with Visitors(server) as visitors:
        visitors.come(5, BAD)
        assert served(visitors, BAD, 400) == 0
        with server.connect() as good:
            assert exchange(good, b"hello") == b"hello"
    folded = eventually(lambda: told(server, "similar in 10 s: per_ip"), within=15)
    assert len(told(server, "limits.per_ip")) <= 4
    assert sum(int(line.split(": ", 1)[1].split()[0]) for line in folded) <= 400


def test_a_good_client_is_served_while_another_source_floods(prepare: Prepare) -> None:
    server = start(prepare, {"per_ip": 10}, workers=2)
    port = server.port()
    with Visitors(server) as visitors, Stream(("127.0.0.1", port)) as stream:
        visitors.come(10, BAD)
        refused = served(visitors, BAD, 500)
        eventually(lambda: stream.answered > 50)
    assert refused == 0
    # the stream comes from 127.0.0.1, one connection at a time
    assert not stream.failures
