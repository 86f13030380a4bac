"""What an operator sees of a server at work: log lines of many workers, readiness under load, scrapes.

Knows: pages of the admin process, lines of the log. Does not know: how they are made.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tools.disorder.plan import Kind, Plan
from tools.disorder.scene import Scene
from tools.disorder.server import Server, Settings
from tools.disorder.tally import percentile

_LOGGERS, _LINES_PER_SECOND = 8, 5000
_SCRAPED_SLOTS = 16
_READY_SECONDS = 0.1
_SCRAPE_SECONDS = 0.005
_PAGE_SECONDS = 10.0

LOGGER = f'''\
import asyncio
import time


async def write(conn):
    """Log so many lines per second, for the seconds that the client says; then answer."""
    async for data in conn:
        begun, number = time.monotonic(), 0
        for tenth in range(10 * int(data)):
            for _ in range({_LINES_PER_SECOND // 10}):
                conn.log.info("line %d of %s %s", number, conn.id, "x" * 60)
                number += 1
            await asyncio.sleep(max(0.0, begun + (tenth + 1) / 10 - time.monotonic()))
        await conn.send(b"%.3f" % (time.monotonic() - begun))


async def spin(conn):
    """Use a whole CPU, in turns of 20 ms."""
    async for _ in conn:
        while True:
            until = time.monotonic() + 0.02
            while time.monotonic() < until:
                pass
            await asyncio.sleep(0)
'''


def log_lines(scene: Scene) -> None:
    """Many workers write one log as fast as is asked for."""
    seconds = round(scene.duration(2, 10))
    path = scene.directory / "lines.log"
    extra = {"log": {"file": str(path), "format": "json"}}
    server = scene.server(Settings(workers=_LOGGERS, handlers={"write": "write"}, module=LOGGER, extra=extra))
    clients = _one_client_each(server, "write", _LOGGERS)
    for client in clients:
        client.settimeout(seconds + 60)
        client.sendall(str(seconds).encode())
    took = max(float(client.recv(100)) for client in clients)
    for client in clients:
        client.close()
    scene.note(f"{_LOGGERS} x {_LINES_PER_SECOND * seconds} lines within {took:.2f} s")
    wanted = _LINES_PER_SECOND * seconds
    torn, found = _read_lines(path)
    path.unlink()
    scene.outcome.expect_equal("torn", torn, 0)
    scene.outcome.expect_equal("lost", sum(wanted - number for number in found.values()), 0)
    scene.outcome.expect_equal("writers", len(found), _LOGGERS)
    scene.outcome.expect_at_most("the rate was kept", took, seconds * 1.1, "s")
    scene.leave(server)


def _read_lines(path: Path) -> tuple[int, Counter[str]]:
    """Return how many lines of a log are no records, and how many each connection has written, in their order."""
    torn, found = 0, Counter[str]()
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            torn += 1
            continue
        match = re.fullmatch(r"line (\d+) of (\S+) x{60}", row["msg"])
        if match and int(match[1]) == found[match[2]]:
            found[match[2]] += 1
    return torn, found


def _one_client_each(server: Server, name: str, workers: int) -> list[socket.socket]:
    """Return connections, one of each worker."""
    clients: dict[int, socket.socket] = {}
    spare = []
    while len(clients) < workers:
        client = socket.create_connection(("127.0.0.1", server.port(name)))
        me = f"127.0.0.1:{client.getsockname()[1]}"
        slot = _slot_of(server, me)
        spare.append(clients.setdefault(slot, client))
        if clients[slot] is not client:
            spare.append(client)
    for client in spare:
        if client not in clients.values():
            client.close()
    return list(clients.values())


def _slot_of(server: Server, peer: str) -> int:
    deadline = time.monotonic() + _PAGE_SECONDS
    while time.monotonic() < deadline:
        with server.control() as control:
            rows: Any = control.ask("conns")
        found = [int(row["slot"]) for row in rows if row["peer"] == peer]
        if found:
            return found[0]
    raise TimeoutError(f"no worker has accepted {peer}")


def ready_when_busy(scene: Scene) -> None:
    """All workers at 100 % CPU: is the server still able to say that it is ready?"""
    extra = {"admin": {"bind": "tcp://127.0.0.1:0"}}
    server = scene.server(Settings(handlers={"spin": "spin"}, module=LOGGER, extra=extra))
    clients = _one_client_each(server, "spin", 4)
    for client in clients:
        client.sendall(b"go")
    time.sleep(2)  # until the workers have told of a busy second
    with server.control() as control:
        busy = [row["busy"] for row in control.ask("status")["workers"]]
    times, statuses = _ask_often(_admin_port(server), "/healthz/ready", scene.times(50, 300))
    scene.note(f"busy {busy}; p50 {percentile(times, 0.5) * 1e3:.1f}, p99 {percentile(times, 0.99) * 1e3:.1f} ms")
    scene.outcome.expect_at_most("the longest answer", times[-1] * 1000, _READY_SECONDS * 1000, "ms")
    scene.outcome.expect_equal("answers other than 200", sum(status != 200 for status in statuses), 0)
    for client in clients:
        client.close()
    scene.leave(server)


def scrape(scene: Scene) -> None:
    """Metrics of many slots, before and after many workers."""
    extra = {"admin": {"bind": "tcp://127.0.0.1:0"}}
    server = scene.server(Settings(workers=_SCRAPED_SLOTS, extra=extra))
    load = scene.load(Plan(server.port(), Kind.LONG, 8, think=0.02, max_bytes=64))
    load.finish()
    port = _admin_port(server)
    before = _measure_scrape(scene, port, "fresh")
    times = scene.times(2, 63)
    for _ in range(times):
        with server.control() as control:
            verdict = control.ask("reload")["verdict"]
        scene.outcome.expect_equal("verdict", verdict, "committed")
    scene.settle(server)
    after = _measure_scrape(scene, port, f"after {times * _SCRAPED_SLOTS} respawns")
    scene.outcome.expect_at_most("its size, of what it was", after / before, 1.05, "x")
    scene.leave(server)


def _measure_scrape(scene: Scene, port: int, when: str) -> int:
    """Measure scrapes one after the other; return their size."""
    size = len(_get(port, "/metrics")[1])
    times, _ = _ask_often(port, "/metrics", 60)
    scene.note(f"{when}: p50 {percentile(times, 0.5) * 1e3:.2f}, p99 {percentile(times, 0.99) * 1e3:.2f} ms")
    scene.outcome.expect_at_most(f"{when}, p50", percentile(times, 0.5) * 1000, _SCRAPE_SECONDS * 1000, "ms")
    return size


def _admin_port(server: Server) -> int:
    found = re.findall(r"admin listens on tcp://127\.0\.0\.1:(\d+)", server.log_tail(10_000))
    return int(found[-1])


def _ask_often(port: int, page: str, number: int) -> tuple[list[float], list[int]]:
    """Return the times of answers in ascending order, and their statuses."""
    times, statuses = [], []
    for _ in range(number):
        begun = time.monotonic()
        statuses.append(_get(port, page)[0])
        times.append(time.monotonic() - begun)
        time.sleep(0.02)
    return sorted(times), statuses


def _get(port: int, page: str) -> tuple[int, bytes]:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=_PAGE_SECONDS)
    try:
        client.request("GET", page)
        response = client.getresponse()
        return response.status, response.read()
    finally:
        client.close()
