"""What a scenario is given: servers and crowds that end with it, and the outcome to write into.

Knows: how tallies become counts and notes, and what every scenario must find at its end.
Does not know: any one scenario.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from tools.disorder import tree
from tools.disorder.load import Load
from tools.disorder.outcome import Outcome
from tools.disorder.plan import Kind, Plan
from tools.disorder.server import Server, ServerError, Settings
from tools.disorder.tally import Tally

_FIRST_ANSWER = (Kind.PACED, Kind.CYCLE, Kind.LONG, Kind.FLOW)


class Scene:
    """One run of one scenario."""

    def __init__(self, outcome: Outcome, directory: Path, *, short: bool, seconds: float | None = None) -> None:
        self.outcome = outcome
        self.short = short
        self._directory = directory
        self._seconds = seconds
        self._stack = ExitStack()
        self._servers: list[Server] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def duration(self, short: float, long: float) -> float:
        """Return the length of the harm in seconds: as asked for, or that of the form."""
        return self._seconds or (short if self.short else long)

    def times(self, short: int, long: int) -> int:
        return short if self.short else long

    @property
    def directory(self) -> Path:
        """Where the servers of this run have their files."""
        return self._directory

    def server(self, settings: Settings | None = None) -> Server:
        """Start a server and wait until it is ready."""
        server = Server(self._directory, settings or Settings())
        self._servers.append(server)
        self._stack.callback(server.release)
        server.wait_settled()
        return server

    def settle(self, server: Server, within: float = 20.0) -> float:
        """Wait until all wanted workers are ready; that they are not is a failed check."""
        begun = time.monotonic()
        try:
            server.wait_settled(within)
        except ServerError as error:
            self.outcome.expect_nothing("unsettled", [str(error)])
        return time.monotonic() - begun

    def load(self, plan: Plan) -> Load:
        """Start a crowd; those that go on until they are told to stop have met their first answer."""
        load = Load(replace(plan, limit=plan.limit + (self._seconds or 0)))
        self._stack.callback(load.release)
        if plan.kind in _FIRST_ANSWER:
            load.wait_started()
        return load

    def record(self, label: str, tally: Tally) -> Tally:
        """Write a tally into the outcome."""
        for ending, number in sorted(tally.counts.items()):
            self.outcome.counts[f"{label}.{ending}"] = number
        if tally.latencies:
            rounded = {name: round(value, 2) for name, value in tally.latency_ms().items()}
            self.outcome.latencies[label] = rounded
        self.outcome.notes.extend(f"{label}: {sample}" for sample in tally.samples[:6])
        return tally

    def after(self, release: Callable[[], object]) -> None:
        """Let something be done at the end of the scene, whatever happens; what came last is done first."""
        self._stack.callback(release)

    def note(self, text: str) -> None:
        self.outcome.notes.append(text)

    def leave(self, server: Server, *, tracebacks: bool = False) -> None:
        """Stop the server by SIGTERM; check its exit, its log, and that no process and no file is left."""
        zombies = [f"zombie {p.pid}" for p in server.descendants() if p.is_zombie and not _reaped(p)]
        server.terminate()
        status = server.wait_exit(within=15)
        found = [] if status == 0 else [f"exit status {status}"]
        found += zombies
        found += [f"process {p.pid} ({p.state})" for p in server.survivors(within=2)]
        found += [f"file {name}" for name in server.files_left()]
        found += [] if tracebacks else self.complain_of_traceback(server)
        self.outcome.expect_nothing("left behind", found)

    def complain_of_traceback(self, server: Server) -> list[str]:
        """Return a complaint if the log holds a traceback, and note the first."""
        traceback = server.traceback()
        self.outcome.notes.extend(f"traceback: {line}" for line in traceback.splitlines())
        return ["Traceback in the log"] if traceback else []

    def expect_no_more_fds(self, server: Server, before: dict[int, str]) -> None:
        """Check that the master holds no more descriptors than before; what it closes may take it a moment."""
        deadline = time.monotonic() + 2
        while len(now := tree.open_fds(server.pid)) > len(before) and time.monotonic() < deadline:
            time.sleep(0.02)
        self.outcome.expect_at_most("fds of the master", len(now), len(before))
        if len(now) > len(before):
            added = [f"{fd} → {target}" for fd, target in now.items() if before.get(fd) != target]
            self.note(f"descriptors that were not there before: {added[:10]}")

    def log_tails(self) -> list[str]:
        return [server.log_tail() for server in self._servers]


def _reaped(zombie: tree.Process, within: float = 0.5) -> bool:
    """Wait for a zombie to go: each dead process is one until its parent has run."""
    deadline = time.monotonic() + within
    while tree.is_same(zombie):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def paced(interval: float, times: int) -> Iterator[int]:
    """Yield 0, 1, 2 … at a steady pace, the first at once; what comes late does not move what follows."""
    begun = time.monotonic()
    for i in range(times):
        time.sleep(max(0.0, begun + i * interval - time.monotonic()))
        yield i
