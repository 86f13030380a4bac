"""Scenarios of signals to the master: a graceful stop under load, a second one, and very many of all kinds.

Knows: which signals the master takes, and what must be as before once they are over.
Does not know: the death of workers.
"""

from __future__ import annotations

import random
import signal
import time

from tools.disorder import tree
from tools.disorder.plan import Kind, Plan
from tools.disorder.scene import Scene, paced
from tools.disorder.server import Server, Settings
from tools.disorder.tally import Ending

_DRAIN = 10.0
_HALF = 500
_SIGNALS = (signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR1, signal.SIGCHLD)
# The sockets of a slot stay once it was wanted, so those that TTIN may ask for are made beforehand.
_MOST_WORKERS = 12
# A reload leaves a few hundred KiB of arenas behind or takes them back; 1,000 leaks of 2 KiB would show.
_RSS_SLACK_KIB = 2048


def term(scene: Scene) -> None:
    """SIGTERM amid idle connections and requests that take two seconds."""
    settings = Settings(handlers={"echo": "echo", "slow": "slow"}, drain=f"{_DRAIN:g}s")
    server = scene.server(settings)
    slow_port = server.port("slow")
    idle = scene.load(Plan(server.port(), Kind.IDLE, _HALF, spread=0.5, limit=60))
    if server.wait_for(lambda status: status.connections >= _HALF, within=10) is None:
        scene.note(f"status shows {server.status().connections} of {_HALF} idle connections")
    busy = scene.load(Plan(slow_port, Kind.BURST, _HALF, spread=0.3, timeout=20, limit=60))
    server.wait_for(lambda status: status.connections >= 2 * _HALF, within=1.5)
    time.sleep(0.2)
    begun = time.monotonic()
    server.terminate()
    status = server.wait_exit(within=_DRAIN + 5)
    taken = time.monotonic() - begun
    answered = scene.record("busy", busy.wait())
    ended = scene.record("idle", idle.finish())
    scene.outcome.expect_equal("whole answers", answered.ok, _HALF)
    scene.outcome.expect_equal("exit status", status, 0)
    scene.outcome.expect_at_most("exit after", taken, _DRAIN + 1, "s")
    scene.outcome.expect_equal("idle ended by FIN", ended.count(Ending.CLOSED_IDLE), _HALF)
    _expect_nothing_left(scene, server)


def term_twice(scene: Scene) -> None:
    """A second SIGTERM ends what the first waits for."""
    server = scene.server(Settings(handlers={"echo": "echo", "endless": "endless"}))
    load = scene.load(Plan(server.port("endless"), Kind.BURST, 50, timeout=30, limit=60))
    server.wait_for(lambda status: status.connections >= 50, within=5)
    server.terminate()
    early = server.wait_exit(within=1.0)
    scene.outcome.expect_equal("exit status after the first", early, None)
    begun = time.monotonic()
    server.terminate()
    status = server.wait_exit(within=10)
    scene.outcome.expect_at_most("exit after the second", time.monotonic() - begun, 1.0, "s")
    scene.note(f"exit status {status}")
    scene.record("busy", load.finish())
    _expect_nothing_left(scene, server)


def _expect_nothing_left(scene: Scene, server: Server) -> None:
    found = [f"process {p.pid} ({p.state})" for p in server.survivors(within=2)]
    found += [f"file {name}" for name in server.files_left()]
    found += scene.complain_of_traceback(server)
    scene.outcome.expect_nothing("left behind", found)


def signals(scene: Scene) -> None:
    """1,000 SIGHUPs, then 10,000 mixed signals in 10 s: the master is as before."""
    server = scene.server()
    for count in (_MOST_WORKERS, server.settings.workers):
        server.command("scale", str(count))
        scene.settle(server)
        server.command("reload")
        scene.settle(server)
    fds, threads, rss = server.fds(), tree.threads(server.pid), tree.rss_kib(server.pid)
    load = scene.load(Plan(server.port(), Kind.PACED, rate=50.0, limit=200))
    hups = scene.duration(2, 60)
    for _ in paced(0.06, round(hups / 0.06)):
        server.signal(signal.SIGHUP)
    scene.settle(server, within=40)
    scene.note(f"{round(hups / 0.06)} SIGHUPs, generation {server.status().generation}")
    _mixed(server, scene.times(1000, 10_000))
    with server.control(timeout=30) as control:
        control.ask("scale", count=str(server.settings.workers))
    scene.settle(server, within=60)
    scene.record("new", load.finish())
    scene.expect_no_more_fds(server, fds)
    scene.outcome.expect_equal("threads of the master", tree.threads(server.pid), threads)
    grown = tree.rss_kib(server.pid) - rss
    scene.outcome.expect_at_most("growth of the master's RSS", grown, _RSS_SLACK_KIB, "KiB")
    scene.leave(server)


def _mixed(server: Server, number: int) -> None:
    """Send 1,000 signals a second of all kinds, with as many TTIN as TTOU."""
    chance = random.Random(3)
    grow = True
    for _ in paced(0.001, number):
        chosen = chance.choice(_SIGNALS)
        if chosen in (signal.SIGTTIN, signal.SIGTTOU):
            chosen = signal.SIGTTIN if grow else signal.SIGTTOU
            grow = not grow
        server.signal(chosen)
