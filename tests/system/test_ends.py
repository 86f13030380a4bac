"""The ends of connections: counted once, by reason, never less than before, and told with their true times."""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from tests.eventually import eventually
from tests.system.conftest import Prepare
from tests.system.running import Running, exchange, receive
from tests.system.test_admin import PROXY, get, metrics
from tests.system.test_operating import access_records, conns
from tests.system.visitors import has_ended, hear, listener

APP = """
import asyncio

async def echo(conn):
    async for data in conn:
        if data == b"raise":
            raise ValueError("as told")
        while data == b"hold!":
            await asyncio.sleep(60)
        await conn.send(data)
"""
FAILS = "the app failed on connection"
CLOSED = "prefork_connections_closed_total"
SHIFT_SECONDS = 0.045  # between holds: together they see each phase of a clock of a quarter of a second
ROUND_SECONDS = 0.0006  # the record has milliseconds
SLACK_SECONDS = 0.1  # between the reading of two clocks, on a machine that is busy


class Auditor:
    """Looks at the metrics again and again, and finds no counter of ends lower than before."""

    def __init__(self, server: Running) -> None:
        self._server = server
        self._seen: dict[Any, float] = {}

    def look(self) -> dict[Any, float]:
        """Return the samples; what has come and what is gone, is open."""
        found = metrics(self._server)
        ends = {sample: value for sample, value in found.items() if sample[0] == CLOSED}
        lower = {sample: (value, ends.get(sample)) for sample, value in self._seen.items() if value > 0}
        lower = {sample: pair for sample, pair in lower.items() if pair[1] is None or pair[1] < pair[0]}
        assert not lower, f"a counter went down: {lower}"
        self._seen = ends
        accepted, closed, opened = (
            _by_place(found, f"prefork_connections{name}") for name in ("_accepted_total", "_closed_total", "")
        )
        assert {place: count - closed[place] for place, count in accepted.items()} == opened
        return found

    def closed(self, **labels: str) -> float:
        """Return how many have ended with these labels."""
        return _sum(self.look(), CLOSED, labels)

    def open(self, **labels: str) -> float:
        return _sum(self.look(), "prefork_connections", labels)

    def reasons(self, **labels: str) -> dict[str, float]:
        """Return how many have ended, by reason, without zeros."""
        wanted, counts = set(labels.items()), dict[str, float]()
        for (name, found), value in self.look().items():
            if name == CLOSED and wanted <= found and value:
                reason = dict(found)["reason"]
                counts[reason] = counts.get(reason, 0.0) + value
        return counts


def _sum(found: dict[Any, float], metric: str, labels: dict[str, str]) -> float:
    wanted = set(labels.items())
    return sum(value for (name, has), value in found.items() if name == metric and wanted <= has)


def _by_place(found: dict[Any, float], metric: str) -> dict[tuple[str, str], float]:
    """Return the sums of a metric by listener and slot."""
    sums: dict[tuple[str, str], float] = {}
    for (name, labels), value in found.items():
        if name == metric:
            has = dict(labels)
            place = (has["listener"], has["slot"])
            sums[place] = sums.get(place, 0.0) + value
    return sums


def start(prepare: Prepare, *expected: str, **config: Any) -> Running:
    server = prepare({"app.py": APP}, **{"listeners": [listener()], **PROXY, **config})
    server.expected_errors += expected
    server.start()
    eventually(lambda: get(server, "/healthz/live")[0] == 200)
    return server


def come(server: Running, stack: ExitStack, count: int, name: str = "echo") -> list[socket.socket]:
    """Let so many connect and be served; they stay until the stack is closed."""
    sockets = [stack.enter_context(server.connect(name)) for _ in range(count)]
    assert [exchange(sock, b"hello") for sock in sockets] == [b"hello"] * count
    return sockets


# --- counters ---


def test_what_a_failure_ends_while_its_client_stays_takes_nothing_from_what_was_done(prepare: Prepare) -> None:
    server = start(prepare, FAILS, "Traceback")
    auditor = Auditor(server)
    with ExitStack() as stack:
        come(server, stack, 5)
    eventually(lambda: auditor.reasons() == {"done": 5})
    with ExitStack() as stack:
        staying = come(server, stack, 5)
        assert (auditor.open(), auditor.closed()) == (5, 5)
        for sock in staying:
            sock.sendall(b"raise")
        assert [receive(sock, 1) for sock in staying] == [b""] * 5
        eventually(lambda: auditor.closed(reason="done") == 5 and auditor.closed(reason="error") == 5)
        assert auditor.reasons() == {"done": 5, "error": 5}
        assert auditor.open() == 0


def test_who_never_closes_is_counted_when_the_old_worker_has_left(prepare: Prepare) -> None:
    server = start(prepare, timeouts={"drain": "3s"})
    auditor, old = Auditor(server), server.worker_pids()
    with ExitStack() as stack:
        *idle, held = come(server, stack, 9)
        held.sendall(b"hold!")
        assert server.reload()["verdict"] == "committed"
        eventually(lambda: auditor.look() and not old & {row["pid"] for row in server.workers()})
        reasons = auditor.reasons()
        assert reasons.keys() == {"done", "cut"}, "the quiet ones left, the one who was held was cut"
        assert sum(reasons.values()) == 9
        assert auditor.open() == 0
        assert [hear(sock) for sock in idle] == [b""] * 8
        come(server, stack, 3)
        assert (auditor.open(), auditor.closed()) == (3, 9)


def test_what_a_killed_worker_had_is_lost_and_what_others_have_is_open(prepare: Prepare) -> None:
    server = start(prepare, "was ended by SIGKILL")
    auditor = Auditor(server)
    with ExitStack() as stack:
        sockets = come(server, stack, 12)
        victim = max(server.workers(), key=lambda row: int(row["connections"]))
        slot, count = str(victim["slot"]), victim["connections"]
        assert count >= 6
        os.kill(victim["pid"], signal.SIGKILL)
        eventually(lambda: auditor.reasons(slot=slot) == {"lost": count})
        assert auditor.open(slot=slot) == 0
        assert (auditor.open(), auditor.closed()) == (12 - count, count)
        eventually(lambda: len(server.worker_pids("ready")) == 2)
        assert [has_ended(sock) for sock in sockets].count(True) == count
        come(server, stack, 4)
        assert (auditor.open(), auditor.reasons()) == (16 - count, {"lost": count})
    eventually(lambda: auditor.reasons() == {"lost": count, "done": 16 - count})


def test_who_is_kicked_and_who_is_idle_have_reasons_of_their_own(prepare: Prepare) -> None:
    idle = {**listener({"idle": "1s"}), "name": "idle"}
    server = start(prepare, listeners=[listener(), idle])
    auditor = Auditor(server)
    with ExitStack() as stack:
        (kicked,) = come(server, stack, 1)
        (row,) = conns(server)
        assert server.run("kick", "--control", str(server.control), row["id"]).returncode == 0
        assert hear(kicked) == b""
        eventually(lambda: auditor.reasons(listener="echo") == {"kicked": 1})
        (quiet,) = come(server, stack, 1, "idle")
        assert hear(quiet) == b""
        eventually(lambda: auditor.reasons(listener="idle") == {"idle": 1})
        (staying,) = come(server, stack, 1)
        assert auditor.reasons() == {"kicked": 1, "idle": 1}
        assert auditor.open(listener="echo") == auditor.open() == 1
        assert exchange(staying, b"still here") == b"still here"


# --- records ---


@dataclass(frozen=True)
class Life:
    """What a client knows of its connection: wall clock and CLOCK_MONOTONIC around its begin and its end."""

    walls: tuple[float, float]
    least: float
    most: float
    record: dict[str, Any]


def live(server: Running, port: int, hold: float) -> Life:
    """Connect, ask once, stay a while, close, and wait until the record is written."""
    wall, begun = time.time(), time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        name = "{}:{}".format(*sock.getsockname())
        assert exchange(sock, b"hello") == b"hello"
        answered, answered_wall = time.monotonic(), time.time()
        eventually(lambda: time.monotonic() - answered >= hold)
        least = time.monotonic() - answered
    record = eventually(lambda: next((r for r in access_records(server) if r["peer"] == name), None))
    assert record is not None
    return Life((wall, answered_wall), least, time.monotonic() - begun, record)


@pytest.mark.parametrize("app", ["app:echo", "prefork.apps.echo:echo"])
def test_a_record_has_the_times_that_the_client_has_seen(prepare: Prepare, app: str) -> None:
    server = prepare({"app.py": APP})
    log = {"file": str(server.log_file), "format": "json", "access": "100%"}
    server.configure({"workers": 2, "listeners": [listener(app=app)], "log": log})
    server.start()
    port = server.port()
    for number in range(12):
        life = live(server, port, number * SHIFT_SECONDS)
        duration, begun = life.record["duration"], life.record["start"]
        assert life.least - ROUND_SECONDS <= duration <= life.most + ROUND_SECONDS, life
        assert life.walls[0] - ROUND_SECONDS <= begun <= life.walls[1] + SLACK_SECONDS, life
    assert len(access_records(server)) == 12
