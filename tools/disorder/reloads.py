"""Scenarios in which the server is reloaded or scaled under load.

Knows: SIGHUP, `scale`, `prefork reload`, the ways in which an app or a config can be broken.
Does not know: how workers die.
"""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from tools.disorder import apps
from tools.disorder.plan import Kind, Plan
from tools.disorder.scene import Scene, paced
from tools.disorder.server import Server, Settings
from tools.disorder.tally import total

_RATE = 800.0  # new connections per second
_HUP_EVERY = 0.6  # 100 in 60 s
_LONG_CLIENTS = 50
_BLIND_CLIENTS = 10


def reload(scene: Scene) -> None:
    """SIGHUP again and again under new connections."""
    server = scene.server(Settings(workers=2))
    load = scene.load(Plan(server.port(), Kind.PACED, rate=_RATE))
    _send_hups(scene, server)
    tally = scene.record("new", load.finish())
    scene.outcome.expect_at_most("failed", tally.failed, 0)
    scene.leave(server)


def reload_long(scene: Scene) -> None:
    """The same with long connections, of which some never look whether they were ended."""
    handlers = {"echo": "echo", "protocol": "EchoProtocol"}
    server = scene.server(Settings(workers=2, handlers=handlers, drain="3s" if scene.short else "10s"))
    port = server.port()
    plans = {
        "long 0 ms": Plan(port, Kind.LONG, _LONG_CLIENTS, seed=2),
        "long 20 ms": Plan(port, Kind.LONG, _LONG_CLIENTS, think=0.02, spread=0.02, seed=3),
        "protocol 20 ms": Plan(server.port("protocol"), Kind.LONG, _BLIND_CLIENTS, think=0.02, seed=4),
        "blind 0 ms": Plan(port, Kind.LONG, _BLIND_CLIENTS, look=False, seed=5),
        "blind 20 ms": Plan(port, Kind.LONG, _BLIND_CLIENTS, look=False, think=0.02, seed=6),
        "new": Plan(port, Kind.PACED, rate=_RATE),
    }
    loads = {label: scene.load(plan) for label, plan in plans.items()}
    _send_hups(scene, server)
    tallies = {label: scene.record(label, load.finish()) for label, load in loads.items()}
    blind = total(tally for label, tally in tallies.items() if label.startswith("blind"))
    looking = total(tally for label, tally in tallies.items() if not label.startswith(("blind", "new")))
    scene.outcome.counts["unanswered_blind"] = blind.unanswered
    scene.outcome.expect_at_most("unanswered", looking.unanswered, 0)
    scene.outcome.expect_at_most("long clients refused", looking.failed - looking.lost, 0)
    scene.outcome.expect_at_most("new failed", tallies["new"].failed, 0)
    scene.leave(server)


def _send_hups(scene: Scene, server: Server) -> None:
    before = server.status().generation
    times = max(1, round(scene.duration(3, 60) / _HUP_EVERY))
    for _ in paced(_HUP_EVERY, times):
        server.signal(signal.SIGHUP)
    scene.settle(server)
    generations = server.status().generation - before
    scene.note(f"{times} SIGHUPs made {generations} generations")
    scene.outcome.expect_at_least("generations", generations, max(1, times // 2))


def reload_time(scene: Scene) -> None:
    """From SIGHUP until all workers are new."""
    server = scene.server()
    taken = []
    for _ in range(scene.times(3, 20)):
        old = {worker.pid for worker in server.status().workers}
        taken.append(_time_until_new(server, old))
        scene.settle(server)
    scene.note("seconds: " + ", ".join(f"{seconds:.2f}" for seconds in taken))
    scene.outcome.expect_at_most("slowest reload", max(taken), 1.0, "s")
    scene.leave(server)


def _time_until_new(server: Server, old: set[int]) -> float:
    with server.control() as control:
        begun = time.monotonic()
        server.signal(signal.SIGHUP)
        while time.monotonic() - begun < 10:
            status = control.status()
            new = {worker.pid for worker in status.ready} - old
            if len(new) == status.target:
                return time.monotonic() - begun
            time.sleep(0.002)
    return float("inf")


def scale(scene: Scene) -> None:
    """Workers 4 → 1 → 4 → 1, by an edited config and SIGHUP, then by the command."""
    settings = Settings(handlers={"echo": "echo", "protocol": "EchoProtocol"}, drain="3s")
    server = scene.server(settings)
    new = scene.load(Plan(server.port("protocol"), Kind.PACED, rate=_RATE))
    long = scene.load(Plan(server.port(), Kind.LONG, 20, think=0.02, spread=0.02))

    def by_config(count: int) -> None:
        server.write_config(replace(settings, workers=count))
        server.signal(signal.SIGHUP)

    def by_command(count: int) -> None:
        with server.control() as control:
            control.ask("scale", count=str(count))

    deadline = time.monotonic() + scene.duration(3, 60)
    slowest = 0.0
    while True:
        for change in (by_config, by_command):
            slowest = max(slowest, *(_scaled(server, change, count) for count in (1, 4, 1, 4)))
        if time.monotonic() > deadline:
            break
    scene.note(f"slowest change {slowest:.2f} s")
    scene.outcome.expect_at_most("new failed", scene.record("new", new.finish()).failed, 0)
    scene.outcome.expect_at_most("long failed", scene.record("long", long.finish()).failed, 0)
    scene.leave(server)


def _scaled(server: Server, change: Callable[[int], None], count: int) -> float:
    change(count)
    seconds = server.wait_for(lambda status: status.target == count == len(status.ready), within=15)
    time.sleep(0.1)
    return float("inf") if seconds is None else seconds


@dataclass(frozen=True, slots=True)
class Breakage:
    """One broken reload: what is written, and a word that the reason must hold."""

    name: str
    word: str
    module: str | None = apps.ECHO
    handler: str = "echo"
    config_text: str | None = None
    port_in_use: bool = False


BREAKAGES = (
    Breakage("syntax error", "invalid syntax", apps.ECHO + "\ndef broken(:\n"),
    Breakage("import error", "no_such_module", "import no_such_module\n" + apps.ECHO),
    Breakage("exception at import", "chaos at import", apps.ECHO + "\nraise RuntimeError('chaos at import')\n"),
    Breakage("missing module file", apps.MODULE, None),
    Breakage("missing attribute", "nowhere", handler="nowhere"),
    Breakage("not a handler", "number", handler="number"),
    Breakage("unknown key", "workers", config_text="wrokers: 4\n"),
    Breakage("YAML syntax", "chaos.yaml", config_text="workers: [4\n"),
    Breakage("port in use", "in use", port_in_use=True),
)


def broken_reload(scene: Scene) -> None:
    """Every broken reload is refused with its reason, and nobody notices."""
    server = scene.server()
    new = scene.load(Plan(server.port(), Kind.PACED, rate=200.0))
    long = scene.load(Plan(server.port(), Kind.LONG, 10, think=0.02))
    fds = server.fds()
    wrong = [complaint for breakage in BREAKAGES for complaint in _try_broken(server, breakage)]
    scene.outcome.expect_nothing("not refused as they should be", wrong)
    scene.expect_no_more_fds(server, fds)
    long_tally = scene.record("long", long.finish())
    scene.outcome.expect_at_most("failed", scene.record("new", new.finish()).failed + long_tally.failed, 0)
    scene.outcome.expect_at_most("long connections ended", long_tally.counts["moved"], 0)
    old = {worker.pid for worker in server.status().workers}
    scene.outcome.expect_equal("exit status of a good reload", server.command("reload").returncode, 0)
    scene.settle(server)
    same = old & {worker.pid for worker in server.status().workers}
    scene.outcome.expect_at_most("old workers after a good reload", len(same), 0)
    scene.leave(server, tracebacks=True)


def _try_broken(server: Server, breakage: Breakage) -> list[str]:
    before = {worker.pid for worker in server.status().workers}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        _break(server, breakage, taken.getsockname()[1])
        result = server.command("reload")
    server.write_app(apps.ECHO)
    server.write_config(server.settings)
    found = []
    if result.returncode != 3:
        found.append(f"exit status {result.returncode}")
    if breakage.word not in result.stderr:
        found.append(f"no “{breakage.word}” in {result.stderr.strip()!r}")
    if {worker.pid for worker in server.status().workers} != before:
        found.append("other workers than before")
    return [f"{breakage.name}: {complaint}" for complaint in found]


def _break(server: Server, breakage: Breakage, taken_port: int) -> None:
    if breakage.module is None:
        (server.directory / f"{apps.MODULE}.py").unlink()
    else:
        server.write_app(breakage.module)
    settings = replace(server.settings, handlers={"echo": breakage.handler})
    if breakage.port_in_use:
        settings = replace(settings, handlers={"echo": "echo", "second": "echo"}, ports={"second": taken_port})
    server.write_config(settings)
    if breakage.config_text is not None:
        with open(server.config_path, "a") as file:
            file.write(breakage.config_text)
