"""Runs one measurement over its servers, in turn, round by round.

Knows: the order of a run, and what becomes of a server that is absent or fails.
Does not know: what the servers are, or how the result is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tools.benchmark.accounting import NANOSECONDS, busy_ns, wait_idle
from tools.benchmark.figures import Row, Sample, Table
from tools.benchmark.load import Outcome, Work, open_load
from tools.benchmark.server import Server
from tools.benchmark.workshop import Failure, Unavailable, Workshop

WARM_UP = 0.2
RESUMED = "resumed %"
Say = Callable[[str], None]
Sampling = Callable[[Workshop, Server], Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Entry:
    """One row: a server under a load.

    Attributes:
        against: for each ratio, by its heading, the name of the row it is compared with.
        sample: measures a server once.
        suffix: what tells it from another row of the same server.
    """

    server: Server
    against: Mapping[str, str]
    sample: Sampling
    suffix: str = ""

    @property
    def name(self) -> str:
        return f"{self.server.name}{self.suffix}"


@dataclass(frozen=True, slots=True)
class Measurement:
    """What to measure on whom.

    Attributes:
        figures: headings of what samples hold, and how many decimals each shows.
        rounds: how often each entry has its turn.
    """

    name: str
    title: str
    figures: Mapping[str, int]
    entries: Sequence[Entry]
    rounds: int

    def table(self) -> Table:
        """Return an empty table for the results."""
        headings = dict.fromkeys(heading for entry in self.entries for heading in entry.against)
        rows = [Row(entry.name, entry.against) for entry in self.entries]
        return Table(self.name, self.title, self.figures, list(headings), rows)


@dataclass(frozen=True, slots=True)
class Spent:
    """What a run of the load has cost.

    Attributes:
        cpu_ns: time in which the server's CPU was not idle, for whomever; None if the load shares it.
        supervising_ns: None for a server that has no such processes.
    """

    outcome: Outcome
    serving_ns: int
    cpu_ns: int | None
    supervising_ns: int | None


@dataclass(frozen=True, slots=True)
class Throughput:
    """CPU per operation under saturation.

    Attributes:
        noun: what an operation is called.
        per_exchange: operations in one exchange of the load.
        has_handshakes: whether each operation is a connection with a handshake, of which some are resumed.
    """

    work: Work
    seconds: float
    noun: str
    per_exchange: int = 1
    has_handshakes: bool = False

    @property
    def figures(self) -> dict[str, int]:
        columns = {f"µs per {self.noun}": 2, f"{self.noun}s/s": 0, "CPU %": 0, "others' CPU %": 0}
        return columns | {"master + mold µs": 3} | ({RESUMED: 1} if self.has_handshakes else {})

    def sample(self, shop: Workshop, server: Server) -> Mapping[str, float]:
        """Measure one server between two moments at which nothing is in flight."""
        with server.serve(shop) as running, open_load(shop, self.work, running.port) as load:
            load.run(WARM_UP)
            beside_before = wait_idle(running.supervising)
            before = wait_idle(running.serving)
            busy_before = busy_ns(shop.server_cpu)
            outcome = load.run(self.seconds)
            busy = busy_ns(shop.server_cpu) - busy_before
            spent = wait_idle(running.serving) - before
            beside = wait_idle(running.supervising) - beside_before
        return self._costs(
            Spent(outcome, spent, busy if shop.has_own_cpu else None, beside if running.supervising else None)
        )

    def _costs(self, spent: Spent) -> dict[str, float]:
        operations = spent.outcome.operations * self.per_exchange
        to_percent = 100 / (spent.outcome.seconds * NANOSECONDS)
        per_operation, rate, own, others, supervision, *_ = self.figures
        costs = {
            per_operation: spent.serving_ns / operations / 1e3,
            rate: operations / spent.outcome.seconds,
            own: spent.serving_ns * to_percent,
        }
        if spent.cpu_ns is not None:
            costs[others] = max(0.0, (spent.cpu_ns - spent.serving_ns) * to_percent)
        if spent.supervising_ns is not None:
            costs[supervision] = spent.supervising_ns / operations / 1e3
        if self.has_handshakes:
            costs[RESUMED] = 100 * spent.outcome.resumed / operations
        return costs


def turn(shop: Workshop, table: Table, row: Row, entry: Entry, number: int) -> str:
    """Measure one server once, and return a word on the outcome."""
    try:
        costs = entry.sample(shop, entry.server)
    except Unavailable as reason:
        row.absence = str(reason)
    except (Failure, OSError) as failure:
        row.absence, row.is_failed = str(failure), True
    else:
        row.samples.append(Sample(number, costs))
        heading, decimals = next(iter(table.figures.items()))
        return f"{costs[heading]:,.{decimals}f} {heading}"
    return f"no figure, {row.absence}"


def run(measurement: Measurement, shop: Workshop, table: Table, say: Say) -> None:
    """Fill the table: every server has its turn in every round, A B C A B C."""
    for number in range(measurement.rounds):
        for entry, row in zip(measurement.entries, table.rows, strict=True):
            if row.absence is not None:
                continue
            word = turn(shop, table, row, entry, number)
            say(f"{measurement.name} {number + 1}/{measurement.rounds}  {row.name}: {word}")
