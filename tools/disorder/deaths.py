"""Scenarios in which processes of the server are killed or stand still.

Knows: SIGKILL and SIGSTOP for workers, molds and the master; how much a worker has in hand.
Does not know: reloads.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from dataclasses import replace

from tools.disorder import tree
from tools.disorder.control import ControlError, WorkerStatus
from tools.disorder.plan import Kind, Plan
from tools.disorder.scene import Scene, paced
from tools.disorder.server import Server, Settings
from tools.disorder.tally import Ending, percentile

_BURST = 400
_BEAT = 2.0


def kill(scene: Scene) -> None:
    """kill -9 of a random worker every 200 ms under clients with a connection per request."""
    server = scene.server()
    private = max(_private_sockets(server, worker.pid) for worker in server.status().ready)
    fds = server.fds()
    load = scene.load(Plan(server.port(), Kind.CYCLE, 200, think=0.05, spread=0.1))
    chance = random.Random(1)
    in_hand = [_kill_counting(server, chance, private) for _ in paced(0.2, round(scene.duration(3, 60) / 0.2))]
    tally = scene.record("new", load.finish())
    kills = sum(held is not None for held in in_hand)
    held = sum(filter(None, in_hand))
    scene.note(f"{kills} kills, {tally.lost} lost ({tally.lost / max(1, kills):.2f} per kill), {held} in hand")
    scene.outcome.expect_at_least("kills", kills, len(in_hand) * 0.8)
    scene.outcome.expect_at_most("refused", tally.count(Ending.REFUSED, Ending.LOCAL), 0)
    scene.outcome.expect_at_most("timed out", tally.count(Ending.TIMEOUT), 0)
    scene.outcome.expect_at_most("lost", tally.lost, held)
    scene.settle(server, within=40)
    scene.expect_no_more_fds(server, fds)
    scene.leave(server)


def _private_sockets(server: Server, pid: int) -> int:
    return len(tree.sockets(pid) - tree.sockets(server.pid))


def _kill_counting(server: Server, chance: random.Random, private: int) -> int | None:
    """Kill a ready worker; return how many connections it had in hand, None if there was no worker to kill.

    Stopped first, it can take no more: what it holds beside its own and the master's sockets are clients.
    """
    ready = server.status().ready
    if not ready:
        return None
    pid = chance.choice(ready).pid
    server.descendants()
    try:
        os.kill(pid, signal.SIGSTOP)
    except ProcessLookupError:
        return None
    tree.wait_state(pid, "T", within=0.1)
    held = max(0, _private_sockets(server, pid) - private)
    return held if server.kill(pid) else None


def stopped(scene: Scene) -> None:
    """A worker is stopped, connections come, then it is killed."""
    server = scene.server(replace(Settings(), beat="60s"))
    victim = _stop_one(server)
    load = scene.load(Plan(server.port(), Kind.BURST, _BURST, spread=0.5, timeout=20))
    time.sleep(1.2)
    server.kill(victim.pid)
    tally = scene.record("new", load.wait())
    scene.outcome.expect_equal("answered", tally.ok, _BURST)
    scene.settle(server)
    scene.leave(server)


def hung(scene: Scene) -> None:
    """A worker is stopped and left alone."""
    server = scene.server(Settings(beat=f"{_BEAT:g}s"))
    victim = _stop_one(server)
    begun = time.monotonic()
    load = scene.load(Plan(server.port(), Kind.BURST, _BURST, spread=1.0, timeout=20))
    tally = scene.record("new", load.wait())
    slowest = tally.latency_ms()["max"] / 1000
    scene.outcome.expect_equal("answered", tally.ok, _BURST)
    scene.outcome.expect_at_most("slowest answer", slowest, _BEAT + 0.5, "s")
    server.wait_for(lambda status: victim.pid not in {w.pid for w in status.workers}, within=_BEAT + 10)
    replaced = time.monotonic() - begun
    scene.settle(server)
    scene.outcome.expect_at_most("hung worker gone after", replaced, _BEAT + 2, "s")
    scene.leave(server, tracebacks=True)


def _stop_one(server: Server) -> WorkerStatus:
    victim = server.status().ready[0]
    server.descendants()
    os.kill(victim.pid, signal.SIGSTOP)
    tree.wait_state(victim.pid, "T", within=1)
    return victim


def stampede(scene: Scene) -> None:
    """kill -9 of any process but the master every 100 ms."""
    server = scene.server()
    fds = server.fds()
    load = scene.load(Plan(server.port(), Kind.PACED, rate=200.0))
    chance = random.Random(2)
    kills = 0
    for _ in paced(0.1, round(scene.duration(3, 60) / 0.1)):
        alive = [process for process in server.descendants() if not process.is_zombie]
        kills += bool(alive) and server.kill(chance.choice(alive).pid)
    ended = time.monotonic()
    scene.settle(server, within=40)
    tally = scene.record("new", load.finish())
    scene.note(f"{kills} kills; all workers ready {time.monotonic() - ended:.1f} s after the last")
    scene.note(f"longest time without an answer: {tally.longest_silence()} s")
    scene.outcome.expect_at_most("refused", tally.count(Ending.REFUSED), 0)
    after = scene.record("after", scene.load(Plan(server.port(), Kind.BURST, 100)).wait())
    scene.outcome.expect_equal("answered afterwards", after.ok, 100)
    scene.expect_no_more_fds(server, fds)
    scene.leave(server)


def master_kill(scene: Scene) -> None:
    """kill -9 of the master, then a new start on the same port."""
    server = scene.server()
    port = server.port()
    load = scene.load(Plan(port, Kind.LONG, 20, think=0.02))
    children = server.descendants()
    os.kill(server.pid, signal.SIGKILL)
    begun = time.monotonic()
    server.wait_exit(within=5)
    left = server.survivors(within=10)
    scene.outcome.expect_at_most("children gone after", time.monotonic() - begun, 5.0, "s")
    scene.outcome.expect_nothing("children left", [f"{p.pid} {p.name}" for p in left])
    scene.note(f"{len(children)} children")
    scene.record("long", load.finish())
    server.write_config(replace(server.settings, ports={"echo": port}))
    server.restart()
    scene.outcome.expect_at_most("answers after its start", time_to_answer(port, within=10), 1.0, "s")
    scene.settle(server)
    scene.leave(server)


def time_to_answer(port: int, within: float) -> float:
    """Return after how many seconds a new client is answered; infinite: it is not, within so many."""
    begun = time.monotonic()
    while time.monotonic() - begun < within:
        if _answers(port):
            return time.monotonic() - begun
        time.sleep(0.005)
    return float("inf")


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
            sock.sendall(b"there?")
            return sock.recv(100) == b"there?"
    except OSError:
        return False


def replacement(scene: Scene) -> None:
    """From kill -9 of a worker until another is ready on its slot."""
    server = scene.server()
    taken = []
    for i in range(scene.times(10, 50)):
        scene.settle(server)
        workers = sorted(server.status().ready, key=lambda worker: worker.slot)
        taken.append(_time_to_replace(server, workers[i % len(workers)]))
        time.sleep(0.05)
    ordered = sorted(taken)
    scene.note("ms: " + ", ".join(f"{seconds * 1000:.0f}" for seconds in taken))
    scene.note(f"p50 {percentile(ordered, 0.5) * 1000:.0f} ms, max {ordered[-1] * 1000:.0f} ms")
    scene.outcome.expect_at_most("p99", percentile(ordered, 0.99) * 1000, 200, "ms")
    scene.settle(server)
    scene.leave(server)


def _time_to_replace(server: Server, victim: WorkerStatus) -> float:
    with server.control() as control:
        begun = time.monotonic()
        server.kill(victim.pid)
        while time.monotonic() - begun < 35:
            try:
                ready = control.status().ready
            except ControlError:
                break
            if any(worker.slot == victim.slot and worker.pid != victim.pid for worker in ready):
                return time.monotonic() - begun
            time.sleep(0.0015)
    return float("inf")
