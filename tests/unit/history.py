"""Random histories of a server's workers: what the master would do, with dice for the operating system.

Knows: the roster and its reconcile, a clock of its own. Does not know: processes, signals, channels.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator

from prefork.process.roster import (
    LIVE,
    Action,
    Candidate,
    Event,
    Roster,
    State,
    Step,
    Target,
    WorkerRecord,
    reconcile,
)

ROUNDS = 10  # of reconcile, one after the other, until it must have nothing more to say
EVENTS = {Step.PAUSE: Event.PAUSE, Step.RESUME: Event.RESUME, Step.RETIRE: Event.RETIRE}


@dataclasses.dataclass(frozen=True, slots=True)
class Chances:
    """How likely each worker does something in one step, and the operator too."""

    ready: float = 0.5
    leave: float = 0.3  # drains to its end, or is reaped
    crash: float = 0.0
    hang: float = 0.0
    tire: float = 0.0
    command: float = 0.0  # a reload, a scale


CALM = Chances()
CHAOS = Chances(crash=0.02, hang=0.01, tire=0.02, command=0.05)


class History:
    """One server, from its boot on."""

    def __init__(self, seed: int, count: int | None = None) -> None:
        self.dice = random.Random(seed)
        self.roster = Roster()
        self.target = Target(count or self.dice.randint(1, 5), 1)
        self.now = 1000.0
        self.newest = 1

    def run(self, steps: int, chances: Chances, seconds: float = 0.2) -> None:
        for _ in self.steps(steps, chances, seconds):
            pass

    def steps(self, steps: int, chances: Chances, seconds: float = 0.2) -> Iterator[None]:
        """Let things happen; yield after each step, when the books are in order again."""
        for _ in range(steps):
            self.now += self.dice.uniform(0, 2 * seconds)
            if self.dice.random() < chances.command:
                self._command()
            for record in list(self.roster.records):
                self._live(record, chances)
            self._commit_if_full()
            self.settle()
            yield

    def settle(self) -> None:
        """Do what reconcile says until it has nothing more to say."""
        for _ in range(ROUNDS):
            actions = reconcile(self.roster, self.target, self.now)
            if not actions:
                return
            for action in actions:
                self._do(action)
        raise AssertionError(f"reconcile does not come to an end: {actions}")

    def _do(self, action: Action) -> None:
        if action.step is Step.SPAWN:
            self.roster.add(WorkerRecord(action.slot, action.generation, self.now))
            return
        assert action.record is not None
        if action.step is Step.KILL:
            action.record.state = State.DYING
            return
        before = action.record.state
        self.roster.apply(action.record, EVENTS[action.step])
        assert action.record.state is not before, f"{action.step} changed nothing for a worker that is {before}"

    def _live(self, record: WorkerRecord, chances: Chances) -> None:
        x = self.dice.random()
        if record.state in (State.DRAINING, State.DYING):
            if x < chances.leave:
                self.roster.remove(record)
            elif record.state is State.DRAINING and x < chances.leave + chances.hang:
                self.roster.apply(record, Event.OVERDUE)
        elif x < chances.crash:
            self.crash(record, was_killed=x < chances.crash / 2)
        elif x < chances.crash + chances.hang:
            self.roster.apply(record, Event.OVERDUE)
            self._roll_back_if_new(record)
        elif x < chances.crash + chances.hang + chances.tire:
            record.is_tired = True
        elif record.state is State.STARTING and self.dice.random() < chances.ready:
            self.roster.apply(record, Event.READY)
            record.ready_at = self.now

    def crash(self, record: WorkerRecord, was_killed: bool = False) -> float:
        """Let a worker die by itself; return for how many seconds its slot waits."""
        self.roster.remove(record)
        self._roll_back_if_new(record)
        return self.roster.note_death(record, self.now, was_killed, self.dice.uniform(0.5, 1.5))

    def _roll_back_if_new(self, record: WorkerRecord) -> None:
        candidate = self.target.candidate
        if candidate is not None and candidate.generation == record.generation:
            self.roll_back()

    # --- commands ---

    def _command(self) -> None:
        if self.dice.random() < 0.5 and self.target.candidate is None:
            self.reload(self.dice.randint(1, 5), self.dice.randint(1, 3))
        elif self.dice.random() < 0.1:
            self.roll_back()
        else:
            self.scale(self.dice.randint(1, 5))

    def reload(self, count: int, surge: int) -> None:
        self.newest += 1
        self.target = dataclasses.replace(self.target, candidate=Candidate(self.newest, count, surge))

    def roll_back(self) -> None:
        self.target = dataclasses.replace(self.target, candidate=None)

    def scale(self, count: int) -> None:
        self.target = dataclasses.replace(self.target, count=count)

    def stop(self, now: bool = False) -> None:
        self.target = Target(0, self.target.generation, None, now)

    def _commit_if_full(self) -> None:
        candidate = self.target.candidate
        if candidate is not None and self.roster.is_full(candidate.count, candidate.generation):
            self.target = Target(candidate.count, candidate.generation)

    # --- what there is ---

    def serving(self) -> list[tuple[int, int]]:
        """Return slot and generation of the workers that are ready, in order."""
        return sorted((r.slot, r.generation) for r in self.roster.in_state(State.READY))

    def is_as_wanted(self) -> bool:
        wanted = [(slot, self.target.generation) for slot in range(self.target.count)]
        return self.serving() == wanted and len(self.roster.records) == len(wanted)

    def starting(self, generation: int) -> int:
        return len(self.roster.of_generation(generation, State.STARTING))

    def twins(self) -> list[tuple[int, int]]:
        """Return slots that have two live workers of one generation, none of them tired."""
        live = [(r.slot, r.generation) for r in self.roster.in_state(*LIVE) if not r.is_tired]
        return [place for place in set(live) if live.count(place) > 1]
