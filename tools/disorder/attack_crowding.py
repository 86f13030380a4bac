"""Attacks by number: resets, more clients than descriptors, one source for many, idle ones from everywhere.

Knows: how many a limit lets in, what must be as before afterwards.
Does not know: how the attackers do it.
"""

from __future__ import annotations

import statistics
import time

from tools.disorder.attack_ground import (
    Bounds,
    Ground,
    Meter,
    Raiding,
    count_fds,
    counters,
    family,
    listener,
    settings,
    worker_pids,
)
from tools.disorder.attack_plan import Manner, Raid, Report
from tools.disorder.deaths import time_to_answer
from tools.disorder.plan import Kind, Plan
from tools.disorder.scene import Scene
from tools.disorder.server import Server
from tools.disorder.tally import percentile

_QUIET_SECONDS = 1.5  # after a storm: how long it is watched that nothing spins
_DRAINED_SECONDS = 15.0  # for what a storm has left in the kernel's queues
_PER_IP, _OPENED = 256, 5000
_MAX_FDS, _CLIENTS = 256, 2000
_TOLD_MS = 100.0
_PUSHING = 64  # connections that one turn of a worker takes before those that give way for them are gone


def reset_storm(scene: Scene) -> None:
    """Connect and reset, as fast as the machine can."""
    ground = Ground(scene)
    server = ground.server(settings(listener("echo", "echo")))
    good = {"good": Plan(server.port(), Kind.LONG, 10, think=0.002, max_bytes=512)}
    calm = ground.calm(good, scene.duration(1, 8))
    _settle_empty(server)
    fds = count_fds(family(server))
    seconds = scene.duration(5, 60)
    raid = Raid(server.port(), Manner.STORM, sources=2000, limit=seconds + 30)
    busy: list[float] = []

    def attack() -> Report:
        master, workers = Meter([server.pid]), Meter(worker_pids(server))
        raiding = ground.raid(raid)
        time.sleep(seconds)
        busy.extend((master.percent(), workers.percent()))
        return raiding.finish()

    attacked, report = ground.beside(good, attack)
    sent = report.counts["sent"]
    scene.note(f"{sent} in {seconds:g} s, {sent / seconds:.0f} per second; workers' CPU {busy[1]:.0f} %")
    ground.compare(calm, attacked, Bounds())
    scene.outcome.expect_at_most("master's CPU meanwhile", busy[0], 1, "%")
    scene.note(f"what was left in the queues took {_settle_empty(server):.1f} s")
    quiet = Meter(worker_pids(server))
    time.sleep(_QUIET_SECONDS)
    scene.outcome.expect_at_most("workers' CPU afterwards", quiet.percent(), 2, "%")
    left = count_fds(family(server))
    scene.outcome.expect_at_most("fds of all processes", left, fds)
    found = counters(server)
    scene.note(f"accepted {found['accepted']}, closed {found['closed']}, broken {found['broken']}")
    scene.outcome.expect_equal("accepted and not closed", found["accepted"] - found["closed"], 0)
    scene.leave(server)


def _settle_empty(server: Server) -> float:
    """Wait until nothing is open, and nothing more comes from the kernel's queues; return the seconds."""
    begun, before = time.monotonic(), -1
    while time.monotonic() - begun < _DRAINED_SECONDS:
        accepted = counters(server)["accepted"]
        if accepted == before and server.status().connections == 0:
            break
        before = accepted
        time.sleep(0.3)
    return time.monotonic() - begun


def descriptors(scene: Scene) -> None:
    """More clients than descriptors."""
    ground = Ground(scene)
    server = ground.server(settings(listener("echo", "echo")), max_fds=_MAX_FDS)
    good = {"good": Plan(server.port(), Kind.LONG, 10, think=0.002, max_bytes=512)}
    calm = ground.calm(good, scene.duration(2, 8))
    raid = Raid(server.port(), Manner.HOLD, _CLIENTS, rate=_CLIENTS, sources=200)

    def attack() -> Raiding:
        raiding = ground.raid(raid)
        raiding.wait_for(lambda report: report.counts["connected"] >= _CLIENTS, within=10)
        time.sleep(scene.duration(1, 5))
        return raiding

    attacked, raiding = ground.beside(good, attack)
    ground.compare(calm, attacked, Bounds())
    held = raiding.look().counts["open"]
    report = _idle_cpu(scene, server, raiding)  # without the good client, whose questions need CPU themselves
    served = time_to_answer(server.port(), within=10)
    lives = sorted(report.lives)
    scene.note(f"{held} of {_CLIENTS} held, {len(lives)} told to go; p50 {percentile(lives, 0.5):.1f} ms")
    scene.note(f"the attackers: {dict(report.counts)}")
    scene.outcome.expect_equal("held and told", held + len(lives), _CLIENTS)
    scene.outcome.expect_at_most("the excess told after", percentile(lives, 1), _TOLD_MS, "ms")
    scene.outcome.expect_at_most("served again after", served, 1, "s")
    found = counters(server)
    refused = found["refused"] + sum(found["rejected"].values())
    scene.outcome.expect_equal("counted", refused, len(lives))
    scene.leave(server)


def _idle_cpu(scene: Scene, server: Server, raiding: Raiding) -> Report:
    """Watch the server's CPU while the attackers are held; then let them go."""
    pids = family(server)
    meter = Meter(pids)
    time.sleep(scene.duration(2, 10))
    scene.outcome.expect_at_most("server's CPU while they are held", meter.percent(), 10, "%")
    return raiding.finish()


def one_source(scene: Scene) -> None:
    """One source opens far more than it may, in rounds: a p99 alone differs by more than 10 %."""
    ground = Ground(scene)
    server = ground.server(settings(listener("echo", "echo", limits={"per_ip": _PER_IP})))
    good = {"good": Plan(server.port(), Kind.LONG, 10, think=0.002, max_bytes=512)}
    rounds = scene.times(1, 10)
    seconds, number = scene.duration(3, 20) / rounds, _OPENED // rounds
    raid = Raid(server.port(), Manner.HOLD, number, rate=number / seconds, sources=1, net=9)
    raidings: list[Raiding] = []

    def attack() -> None:
        raidings[-1].begin()
        raidings[-1].wait_for(lambda report: report.counts["connected"] >= number, within=seconds + 5)

    failed, ratios = 0, []
    for i in range(rounds):
        calm = ground.beside(good, lambda: time.sleep(seconds), f"calm {i + 1}")[0]["good"]
        raidings.append(ground.muster(raid))
        attacked = ground.beside(good, attack, f"attacked {i + 1}")[0]["good"]
        failed += calm.failed + attacked.failed
        ratios.append(attacked.p99 / calm.p99)
    scene.note(f"p99, attacked by calm: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    time.sleep(0.2)
    reports = [raiding.look().counts for raiding in raidings]
    scene.note(f"the attackers: {[dict(counts) for counts in reports]}")
    scene.outcome.expect_equal("open, as the source sees it", sum(counts["open"] for counts in reports), _PER_IP)
    scene.outcome.expect_equal("open, as the server sees it", server.status().connections, _PER_IP)
    refused = counters(server)["rejected"].get("per_ip", 0)
    scene.outcome.expect_equal("counted", refused, rounds * number - _PER_IP)
    scene.outcome.expect_at_most("good: failed", failed, 0)
    scene.outcome.expect_at_most("good: p99, median of the rounds", statistics.median(ratios), 1.1, "x")
    scene.leave(server)


def idle_flood(scene: Scene) -> None:
    """Idle connections from thousands of sources, more than there is room for."""
    ground = Ground(scene)
    room = scene.times(100, 250)
    limits = {"connections": room, "when_full": "oldest", "per_ip": _PER_IP}
    server = ground.server(settings(listener("echo", "echo", limits=limits)))
    good = {
        "long": Plan(server.port(), Kind.LONG, 10, think=0.005, max_bytes=512),
        "new": Plan(server.port(), Kind.CYCLE, 10, think=0.02, max_bytes=512),
    }
    seconds = scene.duration(2, 20)
    calm = ground.calm(good, seconds)
    raid = Raid(server.port(), Manner.HOLD, scene.times(3000, 20_000), rate=1000, sources=5000)
    most = [0]

    def attack() -> Report:
        meter = Meter(worker_pids(server))
        raiding = ground.raid(raid)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            most.append(max(worker.connections for worker in server.status().ready))
            time.sleep(0.2)
        scene.note(f"workers' CPU {meter.percent():.0f} %")
        return raiding.finish()

    attacked, report = ground.beside(good, attack)
    lives = sorted(report.lives)
    scene.note(f"the attackers: {dict(report.counts)}; kept for {percentile(lives, 0.5):.0f} ms")
    scene.outcome.expect_at_most("most connections of a worker", max(most), room + _PUSHING)
    scene.outcome.expect_at_least("attackers sent away", len(lives), 100)
    found = counters(server)["rejected"].get("connections", 0)
    scene.outcome.expect_at_least("counted", found, len(lives))
    ground.compare(calm, attacked, Bounds(ratio=2))
    scene.leave(server)
