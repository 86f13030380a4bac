"""No datagram that has reached a socket's buffer is lost; those for which there was no room are counted."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import product
from typing import Any

import pytest

from tests.eventually import eventually
from tests.system.conftest import Prepare
from tests.system.datagrams import Flows, Load, Where, call, caller, send_burst, take
from tests.system.processes import is_gone, stopped
from tests.system.running import Running

KILLED = "was ended by SIGKILL"
APPS = """
import asyncio, time

def function(data, peer, reply):
    reply(data)

async def coroutine(data, peer, reply):
    await asyncio.sleep(0.001)
    reply(data)

class Protocol(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        self.transport.sendto(data, addr)

def slow(data, peer, reply):
    time.sleep(0.001)
    reply(data)

async def busy(conn):
    await conn.send(b"wait")
    await asyncio.sleep(3600)

def silent(data, peer, reply):
    pass
"""
RELOADS = 8  # about one a second


def row(name: str, bind: str = "udp://127.0.0.1:0", **more: Any) -> dict[str, Any]:
    return {"name": name, "bind": bind, "app": f"app:{name.partition('.')[0]}", **more}


def prepare_apps(prepare: Prepare, *rows: dict[str, Any], **config: Any) -> Running:
    return prepare({"app.py": APPS}, listeners=list(rows), **config)


def where(server: Running, name: str) -> Where:
    return ("::1" if name.endswith(".6") else "127.0.0.1", server.port(name))


def counters(server: Running) -> dict[str, int]:
    done = server.run("status", "--json", "test.yaml")
    found: dict[str, int] = json.loads(done.stdout)["counters"]
    return found


# --- over reloads ---


def test_a_hup_a_second_loses_nothing(prepare: Prepare) -> None:
    names = ("function", "function.6", "coroutine", "Protocol")
    rows = [row(name, "udp://[::1]:0" if name.endswith(".6") else "udp://127.0.0.1:0") for name in names]
    server = prepare_apps(prepare, *rows, workers=4).start()
    with ExitStack() as stack:
        loads = [stack.enter_context(Load(where(server, name), 60)) for name in names]
        loads += [stack.enter_context(Load(where(server, name), 8, burst=6)) for name in names]
        for number in range(RELOADS):
            begun = server.status()["generation"]
            server.send(signal.SIGHUP)
            eventually(lambda: server.status()["generation"] == begun + 1, within=20)  # noqa: B023
            loads[number % len(loads)].wait_for_more(300)
    assert [load.failures[:3] for load in loads] == [[]] * len(loads)
    assert all(load.answered for load in loads)
    assert counters(server)["dropped"] == counters(server)["errors"] == 0
    eventually(lambda: counters(server)["datagrams"] == sum(load.answered * load.burst for load in loads))


def replace_worker(server: Running, pid: int, end: str) -> None:
    """Have the only worker replaced; it may stand still."""
    if end == "kill":
        os.kill(pid, signal.SIGKILL)
        return
    server.send(signal.SIGHUP)
    eventually(lambda: not server.worker_pids("ready") & {pid})


@pytest.mark.parametrize("end", ["reload", "kill"])
@pytest.mark.parametrize("app", ["function", "coroutine"])
def test_bursts_keep_their_boundaries_and_order_when_their_worker_is_replaced(
    prepare: Prepare, app: str, end: str
) -> None:
    server = prepare_apps(prepare, row(app), workers=1).start()
    server.expected_errors.append(KILLED)
    asked = [b"%02d %s" % (number, b"x" * 700) for number in range(12)]
    with caller(where(server, app)) as sock, caller(where(server, app)) as other:
        for _ in range(3):
            send_all(sock, [b"run"] * 20)
            assert take(sock, 20) == [b"run"] * 20
            send_burst(sock, asked)
            assert take(sock, 12) == asked
            (pid,) = server.worker_pids()
            with stopped(pid):
                send_burst(sock, asked)
                other.send(b"single")
                send_burst(sock, asked)
                replace_worker(server, pid, end)
            assert take(sock, 24) == asked * 2
            assert take(other, 1) == [b"single"]
            eventually(lambda: server.is_ready() and len(server.workers()) == 1)


def send_all(sock: socket.socket, datagrams: list[bytes]) -> None:
    for data in datagrams:
        sock.send(data)


def test_bursts_of_small_and_large_datagrams_are_answered_in_order(prepare: Prepare) -> None:
    server = prepare_apps(prepare, row("function"), row("function.6", "udp://[::1]:0")).start()
    for name, size, most in product(("function", "function.6"), (1, 1472, 9000), (2, 5, 64, 64, 5)):
        count = min(most, 65_000 // size)
        asked = [*(bytes([number]) * size for number in range(count - 1)), b"!" * (size // 2 + 1)]
        with caller(where(server, name)) as sock:
            send_burst(sock, asked)
            assert take(sock, count) == asked


# --- drops ---


def overflow(server: Running, name: str, count: int = 3000) -> int:
    """Send more to a worker that stands still than there is room for; return how many were not answered."""
    (pid,) = server.worker_pids()
    with caller(where(server, name)) as sock:
        with stopped(pid):
            send_all(sock, [b"%08d" % number for number in range(count)])
        sock.settimeout(1)
        found = take(sock, count)
        assert found == [b"%08d" % number for number in range(len(found))]  # the first ones are kept
    return count - len(found)


@contextmanager
def watching_drops(server: Running) -> Iterator[list[int]]:
    """Look at the counter again and again while the block runs."""
    seen: list[int] = []
    is_over = threading.Event()

    def look() -> None:
        while not is_over.is_set():
            seen.append(server.status()["counters"]["dropped"])

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        is_over.set()
        thread.join()


def is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def test_what_has_no_room_is_counted_and_the_count_never_goes_down(prepare: Prepare) -> None:
    rows = [row("function"), row("Protocol", socket={"receive_buffer": "64KiB"}), row("silent")]
    server = prepare_apps(prepare, *rows, workers=1).start()
    server.expected_errors.append(KILLED)
    assert counters(server)["dropped"] == 0
    dropped = overflow(server, "function") + overflow(server, "Protocol")
    assert dropped > 3000
    assert counters(server)["dropped"] == dropped
    ports = [server.port(name) for name in ("function", "Protocol")]
    with watching_drops(server) as seen:
        assert server.reload()["verdict"] == "committed"
        (pid,) = server.worker_pids()
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: server.worker_pids() and pid not in server.worker_pids())
        server.configure({"workers": 1, "listeners": [rows[2]]})
        assert server.reload()["verdict"] == "committed"
        eventually(lambda: all(is_free(port) for port in ports))
        wanted = len(seen) + 5
        eventually(lambda: len(seen) >= wanted)
    assert set(seen) == {dropped}
    assert counters(server)["dropped"] == dropped


def test_a_larger_buffer_holds_more(prepare: Prepare) -> None:
    rows = [row("function"), row("Protocol", socket={"receive_buffer": "2MiB"})]
    server = prepare_apps(prepare, *rows, workers=1).start()
    assert overflow(server, "Protocol") == 0
    assert overflow(server, "function") > 0
    server.configure({"workers": 1, "listeners": [row("function", socket={"receive_buffer": "2MiB"}), rows[1]]})
    assert server.reload()["verdict"] == "committed"
    eventually(lambda: len(server.workers()) == 1)
    assert overflow(server, "function") == 0


# --- the end ---


@contextmanager
def flood(where: Where) -> Iterator[None]:
    """Send as fast as it goes while the block runs."""
    is_over = threading.Event()

    def send() -> None:
        with caller(where) as sock:
            while not is_over.is_set():
                try:
                    sock.send(b"flood")
                except ConnectionRefusedError:  # the server has ended
                    is_over.wait(0.01)

    threads = [threading.Thread(target=send) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("app", ["function", "slow", "coroutine"])
def test_a_flood_keeps_neither_a_reload_nor_the_end_waiting(prepare: Prepare, app: str) -> None:
    times = {"boot": "20s", "beat": "20s", "drain": "3s"}
    server = prepare_apps(prepare, row(app), workers=2, timeouts=times).start()
    with flood(where(server, app)):
        eventually(lambda: server.status()["counters"]["datagrams"] > 300)
        assert server.reload()["verdict"] == "committed"
        eventually(lambda: len(server.workers()) == 2, within=6)
        server.ask("scale", count=1)
        eventually(lambda: len(server.workers()) == 1, within=6)
        begun = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begun < 4


@pytest.mark.parametrize("is_busy", [False, True], ids=["idle", "busy"])
def test_a_port_is_free_soon_after_the_master_was_killed(prepare: Prepare, is_busy: bool) -> None:
    """Also while workers finish what is open elsewhere, for which they have two seconds."""
    server = prepare_apps(prepare, row("function"), row("busy", "tcp://127.0.0.1:0"), workers=2).start()
    server.expected_errors += ["exit", "the master is gone"]
    port, below = server.port("function"), server.descendants()
    with ExitStack() as stack:
        for _ in range(20 if is_busy else 0):
            client = stack.enter_context(server.connect("busy"))
            assert client.recv(4) == b"wait"
        sock = stack.enter_context(caller(("127.0.0.1", port)))
        assert call(sock, b"hello") == b"hello"
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL
        server.control.unlink()
        eventually(lambda: is_free(port), within=1)
        eventually(lambda: all(is_gone(pid) for pid in below), within=5)


def test_a_recycled_worker_loses_nothing(prepare: Prepare) -> None:
    server = prepare_apps(prepare, row("function"), workers=2, recycle={"age": "1s"}).start()
    with Load(where(server, "function"), 40) as load, Flows(where(server, "function"), 40) as flows:
        first = server.worker_pids()
        eventually(lambda: not server.worker_pids() & first, within=20)
        assert flows.ask().count(b"") == 0
    assert load.failures == []
