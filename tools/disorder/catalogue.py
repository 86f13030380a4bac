"""All scenarios by name, each with its goal in words, and the way to run one.

Knows: the order in which they run.
Does not know: what they do, or how their outcomes are printed.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tools.disorder import (
    attack_crowding,
    attack_noise,
    attack_slowness,
    costs,
    datagrams,
    deaths,
    endings,
    handshakes,
    reloads,
    sharing,
    sight,
)
from tools.disorder.certificate import CertificateError
from tools.disorder.control import ControlError
from tools.disorder.load import LoadError
from tools.disorder.outcome import Outcome
from tools.disorder.scene import Scene
from tools.disorder.server import ServerError

_FAULTS = (
    ServerError,
    ControlError,
    LoadError,
    CertificateError,
    OSError,
    subprocess.TimeoutExpired,
    LookupError,
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A named scenario with its goal."""

    name: str
    goal: str
    play: Callable[[Scene], None]


_ALL = (
    Scenario("reload", "100 SIGHUPs in 60 s, 800 new connections/s: 0 failed", reloads.reload),
    Scenario("reload-long", "the same with long connections: 0 unanswered", reloads.reload_long),
    Scenario("reload-time", "SIGHUP → all 4 workers new ≤ 1 s", reloads.reload_time),
    Scenario("broken-reload", "refused with exit 3 and the reason; same pids, 0 failed", reloads.broken_reload),
    Scenario("scale", "workers 4→1→4→1 by SIGHUP and by `scale`: 0 failed", reloads.scale),
    Scenario("tls-reload", "SIGHUP every 2 s under TLS: 0 failed, ≥ 95 % of sessions resumed", handshakes.reload),
    Scenario(
        "datagram-reload", "SIGHUP every 2 s, 400 flows of UDP: 0 lost, each keeps its slot", datagrams.reload
    ),
    Scenario("datagram-kill", "kill -9 every second: 0 queued datagrams lost, 0 flows moved", datagrams.kill),
    Scenario("datagram-scale", "workers 4→5: ≤ 1/4 of the flows moved; 4→1→4: 0 lost", datagrams.scale),
    Scenario("kill", "kill -9 every 200 ms: 0 refused, 0 timed out, lost ≤ in hand", deaths.kill),
    Scenario("stopped", "a worker stopped, later killed: 400 of 400 answered", deaths.stopped),
    Scenario("hung", "a worker stopped for good: all answered within beat + 0.5 s", deaths.hung),
    Scenario("replacement", "kill -9 → replacement ready: p99 ≤ 200 ms", deaths.replacement),
    Scenario("stampede", "kill -9 of all but the master: serves on, nothing left", deaths.stampede),
    Scenario("master-kill", "children gone ≤ 5 s, a restart answers ≤ 1 s", deaths.master_kill),
    Scenario("term", "SIGTERM: 500 whole answers, exit 0 within drain + 1 s", endings.term),
    Scenario("term-twice", "a second SIGTERM: gone ≤ 1 s", endings.term_twice),
    Scenario("signals", "1,000 SIGHUPs, 10,000 signals: fds, threads, RSS as before", endings.signals),
    Scenario("stall", "one worker stalls 300 ms each second: p99 ≤ 20 ms", sharing.stall),
    Scenario("balance", "600 long connections over 4 workers: most / least ≤ 1.3", sharing.balance),
    Scenario("heap", "200 MB heap, preload: ≤ 15 MB private per worker", costs.heap),
    Scenario("health", "`prefork health` ≤ 60 ms of CPU", costs.health),
)
_ATTACKS = (
    Scenario(
        "slowloris-header", "10,000 lines without an end: good p99 ≤ 2 x, ended in time", attack_slowness.header
    ),
    Scenario(
        "slowloris-body", "10,000 frames without an end: good p99 ≤ 2 x, ended in time", attack_slowness.body
    ),
    Scenario("slow-read", "readers of 10 B/s: ended ≤ 15 s, their memory bounded", attack_slowness.slow_read),
    Scenario(
        "stuck-handshakes", "1,000 half hellos: ended ≤ 10 s, others' p99 ≤ 2 x", attack_slowness.stuck_handshakes
    ),
    Scenario("reset-storm", "connect + RST for 60 s: fds as before, nothing spins", attack_crowding.reset_storm),
    Scenario(
        "descriptors", "256 fds, 2,000 clients: CPU < 10 %, excess told ≤ 100 ms", attack_crowding.descriptors
    ),
    Scenario("one-source", "5,000 of one source: 256 open; others' p99 ± 10 %", attack_crowding.one_source),
    Scenario("idle-flood", "idle ones from 5,000 sources: the good ones are served", attack_crowding.idle_flood),
    Scenario(
        "random-datagrams", "1 M random datagrams: answers ≤ 1 x, all counted", attack_noise.random_datagrams
    ),
    Scenario("garbage", "to every framing: no worker dies, each refusal counted", attack_noise.garbage),
)
_SIGHT = (
    Scenario("log-lines", "8 workers x 5,000 lines/s into one log: 0 lost, 0 torn", sight.log_lines),
    Scenario("busy-ready", "all workers at 100 % CPU: ready is told ≤ 100 ms", sight.ready_when_busy),
    Scenario("scrape", "metrics of 16 slots ≤ 5 ms, and after 1,000 respawns", sight.scrape),
)
_EVERY = (*_ALL, *_ATTACKS, *_SIGHT)
GROUPS = {name: tuple(one.name for one in group) for name, group in (("attack", _ATTACKS), ("sight", _SIGHT))}
SCENARIOS = {scenario.name: scenario for scenario in _EVERY}


def run_scenario(
    name: str, *, short: bool = True, seconds: float | None = None, keep: Path | None = None
) -> Outcome:
    """Run one scenario against a server of its own.

    Args:
        name: a key of SCENARIOS.
        short: a few seconds in place of the minute of the long form.
        seconds: the length of the harm, in place of the form's.
        keep: a directory that is left there with the server's files, for reading.

    Returns:
        The outcome; what went wrong with the server itself is a failed check in it.
    """
    scenario = SCENARIOS[name]
    outcome = Outcome(name, scenario.goal)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        directory = Path(temporary)
        if keep is not None:
            directory = keep / name
            directory.mkdir(parents=True)
        with Scene(outcome, directory, short=short, seconds=seconds) as scene:
            _play(scenario, scene)
    outcome.seconds = time.monotonic() - begun
    return outcome


def _play(scenario: Scenario, scene: Scene) -> None:
    outcome = scene.outcome
    try:
        scenario.play(scene)
    except _FAULTS as error:
        outcome.expect_nothing("fault", [f"{type(error).__name__}: {error}"])
    if not outcome.passed:
        outcome.notes.extend(f"log: {line}" for tail in scene.log_tails() for line in tail.splitlines())
