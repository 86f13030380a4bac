"""Scenarios of how connections are shared among workers, even if one stands still now and then.

Knows: the counts of connections per worker that `status` shows.
Does not know: reloads, deaths.
"""

from __future__ import annotations

import socket

from tools.disorder.plan import Kind, Plan
from tools.disorder.scene import Scene
from tools.disorder.server import Settings

_CLIENTS = 600


def stall(scene: Scene) -> None:
    """One of four workers stands still for 300 ms of each second."""
    server = scene.server(Settings(handlers={"echo": "echo", "stall": "stall"}, beat="5s"))
    with socket.create_connection(("127.0.0.1", server.port("stall")), timeout=5) as sock:
        sock.sendall(b"stall")
        sock.recv(100)
    load = scene.load(Plan(server.port(), Kind.PACED, rate=400.0))
    server.wait_for(lambda _: False, within=scene.duration(3, 60))
    tally = scene.record("new", load.finish())
    scene.outcome.expect_at_most("failed", tally.failed, 0)
    scene.outcome.expect_at_most("p99", tally.latency_ms()["p99"], 20, "ms")
    scene.leave(server)


def balance(scene: Scene) -> None:
    """Many long connections: the worker with most has little more than the one with least."""
    server = scene.server()
    ratios = []
    for seed in range(scene.times(1, 5)):
        load = scene.load(Plan(server.port(), Kind.LONG, _CLIENTS, think=0.5, spread=0.8, seed=seed))
        server.wait_for(lambda status: status.connections >= _CLIENTS, within=5)
        counts = [worker.connections for worker in server.status().ready]
        ratios.append(max(counts) / max(1, min(counts)))
        scene.note(f"connections per worker: {' / '.join(map(str, counts))}")
        tally = scene.record(f"long {seed + 1}", load.finish())
        scene.outcome.expect_at_most("failed", tally.failed, 0)
        server.wait_for(lambda status: status.connections == 0, within=5)
    scene.outcome.expect_at_most("most / least", max(ratios), 1.3)
    scene.leave(server)
