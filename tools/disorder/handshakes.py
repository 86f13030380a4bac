"""Scenarios of TLS: what new and long connections meet while the server is reloaded.

Knows: a certificate, SIGHUP, the number of workers in the config.
Does not know: how sessions are kept, on either side.
"""

from __future__ import annotations

import signal
from dataclasses import replace

from tools.disorder.certificate import FILES, certify
from tools.disorder.plan import Kind, Plan
from tools.disorder.scene import Scene, paced
from tools.disorder.server import Settings
from tools.disorder.tally import Ending, total

# At most 100 new connections per second, for a full handshake takes both sides 2 ms of CPU; they wait for each
# other, so that a busy machine gets fewer, and not a queue.
_NEW_CLIENTS, _NEW_THINK = 8, 0.08
_EAGER_CLIENTS, _CALM_CLIENTS = 5, 20  # long ones, without a pause and with one
_TIMEOUT = 20.0
_MOST_WORKERS, _LEAST_WORKERS = 4, 2
_RESUMED_PERCENT = 95
_HUP_EVERY_SHORT, _HUP_EVERY = 0.6, 2.0


def reload(scene: Scene) -> None:
    """SIGHUP again and again, each with another number of workers, under new connections and long ones."""
    authority = str(certify(scene.directory))
    pair = dict(zip(("cert", "key"), FILES, strict=True))
    drain = "5s" if scene.short else "10s"
    settings = Settings(scheme="tls", options={"tls": pair}, drain=drain)
    server = scene.server(settings)
    new = Plan(server.port(), Kind.CYCLE, _NEW_CLIENTS, think=_NEW_THINK, timeout=_TIMEOUT, authority=authority)
    long = replace(new, kind=Kind.LONG, think=0.02, spread=0.02)
    plans = {
        "new": new,
        "long 0 ms": replace(long, clients=_EAGER_CLIENTS, think=0.0, seed=2),
        "long 20 ms": replace(long, clients=_CALM_CLIENTS, seed=3),
    }
    loads = {label: scene.load(plan) for label, plan in plans.items()}
    before = server.status().generation
    every = _HUP_EVERY_SHORT if scene.short else _HUP_EVERY
    times = max(1, round(scene.duration(3, 60) / every))
    for i in paced(every, times):
        workers = _LEAST_WORKERS + i % (_MOST_WORKERS - _LEAST_WORKERS + 1)
        server.write_config(replace(settings, workers=workers))
        server.signal(signal.SIGHUP)
    scene.settle(server)
    status = server.status()
    generations = status.generation - before
    met = total(scene.record(label, load.finish()) for label, load in loads.items())
    offered, resumed = met.counts["offered"], met.counts["resumed"]
    scene.note(f"{times} SIGHUPs made {generations} generations; {resumed} of {offered} sessions were resumed")
    scene.outcome.expect_at_least("generations", generations, max(1, times // 2))
    scene.outcome.expect_at_most("failed handshakes", met.count(Ending.HANDSHAKE, Ending.REFUSED), 0)
    scene.outcome.expect_at_most("unanswered", met.unanswered, 0)
    scene.outcome.expect_at_most("failed otherwise", met.failed - met.unanswered - met.counts["handshake"], 0)
    rude = met.count(Ending.RUDE, Ending.RESET_IDLE)
    scene.outcome.expect_at_most("ended without goodbye, though not cut", max(0, rude - status.cut), 0)
    scene.outcome.expect_at_least("sessions offered", offered, 20)
    scene.outcome.expect_at_least("resumed, %", 100 * resumed / max(1, offered), _RESUMED_PERCENT)
    scene.leave(server)
