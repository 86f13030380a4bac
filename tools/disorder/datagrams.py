"""Scenarios of UDP: flows that stay with their slot, and lose nothing while workers are replaced.

Knows: SIGHUP, SIGKILL, SIGSTOP, `scale`; which of the lost datagrams a killed worker can have had in hand.
Does not know: how a flow is given its slot.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tools.disorder import apps, tree
from tools.disorder.flows import CHANGED, LATE
from tools.disorder.load import Load
from tools.disorder.plan import Kind, Plan
from tools.disorder.queues import waiting_at
from tools.disorder.scene import Scene, paced
from tools.disorder.server import Server, Settings
from tools.disorder.tally import Ending, Loss, Tally

_WORKERS = 4
_FLOWS = 400
_SCALED_FLOWS = 1000  # of 400 more than a quarter would move by chance alone in one run of 200
_THINK = 0.1
_MAX_BYTES = 160  # so that all that a slot is asked at once fits into its socket, even with an rmem_max of 208 KiB
_TIMEOUT = 8.0
_HUP_EVERY_SHORT, _HUP_EVERY = 0.6, 2.0
_KILL_EVERY_SHORT, _KILL_EVERY = 0.6, 1.0
_STANDSTILL = 0.15  # of a worker before its death: the time in which each of its flows has asked
_WORK_SECONDS = 0.002  # that a worker needs for what has come meanwhile


def _serve(scene: Scene) -> Server:
    options = {"socket": {"receive_buffer": "4MiB"}}
    settings = Settings(_WORKERS, {"echo": "where"}, scheme="udp", options=options, module=apps.DATAGRAM)
    return scene.server(settings)


def _load(scene: Scene, server: Server, flows: int = _FLOWS, think: float = _THINK) -> Load:
    plan = Plan(server.port(), Kind.FLOW, flows, think=think, spread=think, max_bytes=_MAX_BYTES, timeout=_TIMEOUT)
    return scene.load(plan)


def _record(scene: Scene, server: Server, load: Load) -> Tally:
    tally = scene.record("flows", load.finish())
    drops = sum(queue.drops for queue in waiting_at(server.port()))
    scene.outcome.expect_at_most("too much for a socket", drops, 0)
    scene.outcome.expect_at_most("failed otherwise", tally.failed - tally.count(Ending.VANISHED), 0)
    scene.outcome.expect_at_most("late", tally.counts[LATE], 0)
    return tally


def reload(scene: Scene) -> None:
    """SIGHUP again and again."""
    server = _serve(scene)
    load = _load(scene, server)
    home = load.survey()
    before = server.status().generation
    every = _HUP_EVERY_SHORT if scene.short else _HUP_EVERY
    times = max(1, round(scene.duration(3, 60) / every))
    for _ in paced(every, times):
        server.signal(signal.SIGHUP)
    scene.settle(server)
    generations = server.status().generation - before
    moved = _moved(home, load.survey())
    tally = _record(scene, server, load)
    scene.outcome.expect_at_least("generations", generations, max(1, times // 2))
    scene.outcome.expect_at_most("lost", len(tally.losses), 0)
    scene.outcome.expect_at_most("flows moved", moved + tally.counts[CHANGED], 0)
    scene.leave(server)


def _moved(before: Sequence[int], after: Sequence[int]) -> int:
    return sum(a != b for a, b in zip(before, after, strict=True))


# --- death ---


@dataclass(frozen=True, slots=True)
class Kill:
    """The death of a worker: its slot, when it was over, CLOCK_MONOTONIC, and what waited at the port then."""

    slot: int
    at: float
    waiting_bytes: int


def kill(scene: Scene) -> None:
    """kill -9 of a random worker, in three ways in turn: at work, before its full queue, and within it."""
    server = _serve(scene)
    load = _load(scene, server)
    home = load.survey()
    chance = random.Random(4)
    every = _KILL_EVERY_SHORT if scene.short else _KILL_EVERY
    times = max(3, round(scene.duration(3.6, 60) / every))
    kills = [done for i in paced(every, times) if (done := _kill(server, chance, i % 3))]
    scene.settle(server)
    moved = _moved(home, load.survey())
    tally = _record(scene, server, load)
    amid = sorted(each.waiting_bytes for each in kills if each.waiting_bytes)
    scene.note(f"{len(amid)} of {len(kills)} kills before a queue, of {amid[:1]} to {amid[-1:]} bytes of memory")
    scene.outcome.expect_at_least("kills", len(kills), times * 0.8)
    scene.outcome.expect_at_least("kills before a queue", len(amid), times // 2)
    scene.outcome.expect_at_most("lost", len(tally.losses), len(kills))
    scene.outcome.expect_at_most("lost from a queue", queued(tally.losses, kills), 0)
    scene.outcome.expect_at_most("flows moved", moved + tally.counts[CHANGED], 0)
    scene.leave(server)


def queued(losses: Iterable[Loss], kills: Iterable[Kill]) -> int:
    """Return how many of the lost datagrams nobody had in hand.

    A worker that serves a function reads a datagram, answers it and reads the next: so each kill accounts for
    one, of its slot, that had been sent by then.
    """
    left = sorted(losses, key=lambda loss: loss.sent_at)
    for each in sorted(kills, key=lambda each: each.at):
        in_hand = (
            loss for loss in left if loss.slot == each.slot and loss.sent_at <= each.at <= loss.sent_at + _TIMEOUT
        )
        loss = next(in_hand, None)
        if loss is not None:
            left.remove(loss)
    return len(left)


def _kill(server: Server, chance: random.Random, way: int) -> Kill | None:
    """Kill a ready worker; None if there was none."""
    ready = server.status().ready
    if not ready:
        return None
    victim = chance.choice(ready)
    if victim.pid not in {process.pid for process in server.descendants()}:
        return None
    waiting_bytes = 0
    try:
        if way:
            os.kill(victim.pid, signal.SIGSTOP)
            time.sleep(_STANDSTILL)
            waiting_bytes = max((queue.waiting_bytes for queue in waiting_at(server.port())), default=0)
        if way > 1:
            os.kill(victim.pid, signal.SIGCONT)
            time.sleep(chance.uniform(0, _WORK_SECONDS))
        os.kill(victim.pid, signal.SIGKILL)
    except ProcessLookupError:
        return None
    tree.wait_state(victim.pid, "ZX", within=1)
    return Kill(victim.slot, time.monotonic(), waiting_bytes)


# --- number ---


def scale(scene: Scene) -> None:
    """Workers 4 → 5 → 4 → 1 → 4, by the command."""
    server = _serve(scene)
    load = _load(scene, server, _SCALED_FLOWS, think=0.25)
    home = load.survey()
    deadline = time.monotonic() + scene.duration(1, 60)
    shares, strays = [], 0
    while True:
        share, astray = _grow_and_shrink(server, load, home)
        shares.append(share)
        strays += astray
        if time.monotonic() > deadline:
            break
    tally = _record(scene, server, load)
    scene.note(f"{len(shares)} rounds; shares that moved: {', '.join(f'{share:.3f}' for share in shares[:10])}")
    scene.outcome.expect_at_most("share of flows moved by 4→5", max(shares), 0.25)
    scene.outcome.expect_at_most("flows elsewhere than expected", strays, 0)
    scene.outcome.expect_at_most("lost", len(tally.losses), 0)
    scene.leave(server)


def _grow_and_shrink(server: Server, load: Load, home: Sequence[int]) -> tuple[float, int]:
    """Return the share of the flows that a fifth worker takes, and how many are elsewhere than expected."""
    grown, back, alone, again = (
        _survey_of(server, load, count) for count in (_WORKERS + 1, _WORKERS, 1, _WORKERS)
    )
    strays = sum(there not in (here, _WORKERS) for here, there in zip(home, grown, strict=True))
    strays += _moved(home, back) + sum(slot != 0 for slot in alone) + _moved(home, again)
    return _moved(home, grown) / len(home), strays


def _survey_of(server: Server, load: Load, count: int) -> list[int]:
    with server.control() as control:
        control.ask("scale", count=str(count))
    server.wait_for(lambda status: status.target == count == len(status.ready), within=15)
    server.status()  # answered a turn of the master's loop later: what follows from all being ready is done
    return load.survey()
