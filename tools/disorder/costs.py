"""Scenarios that measure what the server costs: memory of its workers, CPU of a health check.

Knows: private memory from smaps_rollup, CPU from wait4.
Does not know: the cost per request, which is the benchmark's.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import time

from tools.disorder import apps, tree
from tools.disorder.plan import Kind, Plan
from tools.disorder.scene import Scene
from tools.disorder.server import Server, Settings


def heap(scene: Scene) -> None:
    """A preloaded heap of 200 MB stays shared among four workers at work."""
    server = scene.server(Settings(handlers={"echo": "heavy"}, module=apps.HEAP))
    port = server.port()
    long = scene.load(Plan(port, Kind.LONG, 20, think=0.005))
    new = scene.load(Plan(port, Kind.PACED, rate=200.0))
    time.sleep(scene.duration(4, 60))
    failed = scene.record("long", long.finish()).failed + scene.record("new", new.finish()).failed
    pids = [worker.pid for worker in server.status().ready]
    private = [tree.private_kib(pid) / 1024 for pid in pids]
    scene.note("private MB per worker: " + ", ".join(f"{size:.1f}" for size in private))
    scene.note(f"RSS of a worker {max(tree.rss_kib(pid) for pid in pids) / 1024:.0f} MB")
    scene.outcome.expect_at_most("failed", failed, 0)
    scene.outcome.expect_at_most("private memory per worker", max(private), 15, "MB")
    scene.leave(server)


def health(scene: Scene) -> None:
    """CPU of `prefork health`, as a probe runs it."""
    server = scene.server()
    runs = [_timed_health(server) for _ in range(scene.times(10, 30))]
    statuses = {status for status, _ in runs}
    milliseconds = sorted(seconds * 1000 for _, seconds in runs)
    scene.note(f"CPU of {len(runs)} runs: {milliseconds[0]:.0f} … {milliseconds[-1]:.0f} ms")
    scene.outcome.expect_equal("exit status", statuses, {0})
    scene.outcome.expect_at_most("median CPU", statistics.median(milliseconds), 60, "ms")
    scene.leave(server)


def _timed_health(server: Server) -> tuple[int, float]:
    process = subprocess.Popen(
        server.command_line("health"),
        cwd=server.directory,
        env=server.environment(),
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_utime + usage.ru_stime
