"""Where an attack takes place: the server on one CPU, the attackers and the good client on another.

Knows: CPU affinity, the attackers' process, a good client's figures without and with an attack.
Does not know: any one attack.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import IO, Any, TypeVar

from tools.benchmark.accounting import cpu_ns
from tools.disorder import apps, tree
from tools.disorder.attack_plan import GO, READY, Raid, Report
from tools.disorder.load import ROOT, LoadError
from tools.disorder.plan import Plan
from tools.disorder.scene import Scene
from tools.disorder.server import Server, Settings
from tools.disorder.tally import Tally

_WORD_SECONDS = 30.0  # in which attackers answer
_LIMIT = 60.0  # of what runs beside an attack, beyond the attack's length
T = TypeVar("T")


class Raiding:
    """A running process of attackers."""

    def __init__(self, raid: Raid) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tools.disorder.attack_raiders", raid.to_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self._last: Report | None = None

        if self._read_line() != READY:
            raise LoadError("the attackers' process does not start")

    def begin(self) -> None:
        """Let them loose: until then their process only waits."""
        self._stdin.write(GO)
        self._stdin.flush()

    def look(self) -> Report:
        """Return what the attackers have met until now, without the lives."""
        self._stdin.write(b"look\n")
        self._stdin.flush()
        return self._read()

    def wait_report(self) -> Report:
        """Return the report that attackers give by themselves when they are through."""
        return self._read(_LIMIT * 4)

    def wait_for(self, condition: Callable[[Report], bool], within: float) -> Report:
        """Ask again and again until the condition holds or the time is over; return the last report."""
        deadline = time.monotonic() + within
        while True:
            report = self.look()
            if condition(report) or time.monotonic() > deadline:
                return report
            time.sleep(0.05)

    def finish(self) -> Report:
        """End all connections; return the last report."""
        if self._last is None:
            self._stdin.close()
            self._last = self._read()
            self.release()
        return self._last

    def release(self) -> None:
        """End the process, if it still runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self._last is not None:
                self._process.wait(_WORD_SECONDS)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._stdin.close()
        self._stdout.close()

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    def _read_line(self, within: float = _WORD_SECONDS) -> bytes:
        readable, _, _ = select.select([self._stdout], [], [], within)
        return self._stdout.readline() if readable else b""

    def _read(self, within: float = _WORD_SECONDS) -> Report:
        line = self._read_line(within)
        if not line.endswith(b"\n"):
            raise LoadError("the attackers' process failed, or says nothing")
        return Report.from_json(line.decode())


@dataclass(frozen=True, slots=True)
class Bounds:
    """What an attack may do to good clients: a p99 so many times as long, so many per cent left of their rate."""

    ratio: float | None = None
    percent: float | None = None


class Ground:
    """The two CPUs, and what is started on each of them."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        before = os.sched_getaffinity(0)
        cpus = sorted(before)
        self._load, self._server = {cpus[0]}, {cpus[-1]}
        os.sched_setaffinity(0, self._load)
        scene.after(lambda: os.sched_setaffinity(0, before))
        shared = " (shared: there is no other)" if len(cpus) < 2 else ""
        scene.note(
            f"server on CPU {cpus[-1]}, attackers (nice 10) and good client on CPU {cpus[0]}{shared}; "
            f"load average {os.getloadavg()[0]:.2f} at the beginning"
        )

    def server(self, settings: Settings, max_fds: int | None = None) -> Server:
        """Start a server on its CPU, with so many descriptors for each of its processes."""
        with self._limited(max_fds):
            os.sched_setaffinity(0, self._server)
            try:
                return self.scene.server(settings)
            finally:
                os.sched_setaffinity(0, self._load)

    @contextlib.contextmanager
    def _limited(self, max_fds: int | None) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max_fds or soft, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def raid(self, raid: Raid) -> Raiding:
        """Let attackers loose; they end with the scene."""
        raiding = self.muster(raid)
        raiding.begin()
        return raiding

    def muster(self, raid: Raid) -> Raiding:
        """Return attackers that wait for their `begin`: to start a process is not a part of the attack."""
        raiding = Raiding(raid)
        self.scene.after(raiding.release)
        return raiding

    def calm(self, plans: Mapping[str, Plan], seconds: float) -> dict[str, Figures]:
        """Measure good clients without an attack."""
        return self.beside(plans, lambda: time.sleep(seconds), "calm")[0]

    def beside(
        self, plans: Mapping[str, Plan], attack: Callable[[], T], when: str = "attacked"
    ) -> tuple[dict[str, Figures], T]:
        """Measure good clients while an attack takes place; return their figures, and what the attack returns."""
        limit = self.scene.duration(0, 60) + _LIMIT
        loads = {label: self.scene.load(replace(plan, limit=limit)) for label, plan in plans.items()}
        begun = time.monotonic()
        result = attack()
        seconds = time.monotonic() - begun
        tallies = {label: load.finish() for label, load in loads.items()}
        figures = {}
        for label, tally in tallies.items():
            self.scene.record(f"{label} {when}", tally)
            figures[label] = Figures.of(tally, seconds)
            self.scene.outcome.latencies[f"{label} {when}"]["per second"] = round(figures[label].rate)
        return figures, result

    def compare(self, calm: Mapping[str, Figures], attacked: Mapping[str, Figures], bounds: Bounds) -> None:
        """Check that good clients fared as well as the bounds say, and that none of them failed."""
        outcome = self.scene.outcome
        for label, before in calm.items():
            after = attacked[label]
            outcome.expect_at_most(f"{label}: failed", before.failed + after.failed, 0)
            ratio, percent = after.p99 / max(before.p99, 0.001), 100 * after.rate / max(before.rate, 0.001)
            if bounds.ratio is not None:
                outcome.expect_at_most(f"{label}: p99", ratio, bounds.ratio, "x")
            if bounds.percent is not None:
                outcome.expect_at_least(f"{label}: rate", percent, bounds.percent, "%")


@dataclass(frozen=True, slots=True)
class Figures:
    """How good clients fared: latencies in ms, answers per second."""

    p50: float
    p99: float
    rate: float
    failed: int

    @classmethod
    def of(cls, tally: Tally, seconds: float) -> Figures:
        times = tally.latency_ms()
        return cls(times["p50"], times["p99"], len(tally.latencies) / seconds, tally.failed)


# --- what is looked at in the server ---


def listener(name: str, app: str, scheme: str = "tcp", **options: Any) -> dict[str, Any]:
    """Return a listener of the config."""
    return {"name": name, "bind": f"{scheme}://127.0.0.1:0", "app": f"{apps.MODULE}:{app}", **options}


def settings(*listeners: dict[str, Any], module: str = apps.ECHO, workers: int = 4) -> Settings:
    """Return what a config with these listeners needs; its log is as an operator has it."""
    extra = {"listeners": list(listeners), "log": {"level": "info", "format": "text"}}
    return Settings(workers=workers, module=module, beat="10s", extra=extra)


def counters(server: Server) -> dict[str, Any]:
    """Return the counters of `status` by name, and under `rejected` those of the rules."""
    with server.control() as control:
        found = control.ask("status")
    return {**found["counters"], "rejected": found["rejected"]}


def worker_pids(server: Server) -> list[int]:
    return [worker.pid for worker in server.status().ready]


def family(server: Server) -> list[int]:
    """Return the pids of all processes of a server."""
    return [server.pid, *(process.pid for process in server.descendants())]


def count_fds(pids: Sequence[int]) -> int:
    return sum(len(tree.open_fds(pid)) for pid in pids)


def rss_kib(pids: Sequence[int]) -> int:
    return sum(tree.rss_kib(pid) for pid in pids)


class Meter:
    """The CPU of some processes from now on."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self._cpu, self._begun = cpu_ns(pids), time.monotonic_ns()

    def percent(self) -> float:
        """Return their share of one CPU."""
        return 100 * (cpu_ns(self._pids) - self._cpu) / (time.monotonic_ns() - self._begun)
