"""The one book of workers, and the one answer to the question what is to be done next.

A worker's life is a table with every cell filled. Signals and config change the target; `reconcile` compares
it with the book and names the next steps. Boot, crash, hang, reload, scale and stop are all this one path.

Knows: records, states, the target. Does not know: processes, signals, sockets, time (it is told).
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


class State(enum.Enum):
    STARTING = "starting"  # ordered; has not said that it is ready
    READY = "ready"  # serves
    PAUSED = "paused"  # keeps its clients, accepts none: its successor is ready, the reload not committed
    DRAINING = "draining"  # finishes what is open
    DYING = "dying"  # killed, or about to be; waits for its waitpid


class Event(enum.Enum):
    READY = "ready"
    PAUSE = "pause"
    RESUME = "resume"
    RETIRE = "retire"
    OVERDUE = "overdue"  # its deadline has passed, or its channel has ended


NEXT: dict[State, dict[Event, State]] = {
    State.STARTING: {
        Event.READY: State.READY,
        Event.PAUSE: State.STARTING,
        Event.RESUME: State.STARTING,
        Event.RETIRE: State.DYING,  # it has no client yet: nothing to finish
        Event.OVERDUE: State.DYING,
    },
    State.READY: {
        Event.READY: State.READY,
        Event.PAUSE: State.PAUSED,
        Event.RESUME: State.READY,
        Event.RETIRE: State.DRAINING,
        Event.OVERDUE: State.DYING,
    },
    State.PAUSED: {
        Event.READY: State.PAUSED,
        Event.PAUSE: State.PAUSED,
        Event.RESUME: State.READY,
        Event.RETIRE: State.DRAINING,
        Event.OVERDUE: State.DYING,
    },
    State.DRAINING: {
        Event.READY: State.DRAINING,
        Event.PAUSE: State.DRAINING,
        Event.RESUME: State.DRAINING,
        Event.RETIRE: State.DRAINING,
        Event.OVERDUE: State.DYING,
    },
    State.DYING: dict.fromkeys(Event, State.DYING),
}
LIVE = frozenset({State.STARTING, State.READY, State.PAUSED})

FIRST_BACKOFF_SECONDS = 0.1
LAST_BACKOFF_SECONDS = 30.0
STABLE_SECONDS = 5.0  # a worker that crashed after serving this long is replaced at once
STABLE_IF_KILLED_SECONDS = 0.1  # SIGKILL comes from outside: an operator or the OOM killer, not a bug in the app


@dataclass(slots=True, eq=False)
class WorkerRecord:
    """What the master knows of one worker process.

    Attributes:
        pid: None until the worker has said it.
        deadline: when the state must have changed, CLOCK_MONOTONIC; None: no limit.
        is_tired: it is to be replaced, and serves until then.
        link: the master's ends of what it shares with the process; this book does not look inside.
    """

    slot: int
    generation: int
    started_at: float
    state: State = State.STARTING
    pid: int | None = None
    deadline: float | None = None
    ready_at: float | None = None
    is_tired: bool = False
    link: Any = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """The generation that a reload brings up beside the current one."""

    generation: int
    count: int
    surge: int = 1


@dataclass(frozen=True, slots=True)
class Target:
    """What is wanted: `count` workers of `generation`, with a candidate beside them, or nobody."""

    count: int
    generation: int
    candidate: Candidate | None = None
    is_immediate: bool = False  # with count 0: kill instead of drain


class Step(enum.Enum):
    SPAWN = "spawn"
    PAUSE = "pause"
    RESUME = "resume"
    RETIRE = "retire"
    KILL = "kill"


@dataclass(frozen=True, slots=True)
class Action:
    """A step that moves the book towards the target; SPAWN names slot and generation, others a record."""

    step: Step
    slot: int = -1
    generation: int = -1
    record: WorkerRecord | None = None


@dataclass(slots=True)
class Backoff:
    failures: int = 0
    not_before: float = 0.0


@dataclass(slots=True)
class Roster:
    """The records of all workers that were ordered and not yet reaped."""

    records: list[WorkerRecord] = field(default_factory=list)
    backoffs: dict[int, Backoff] = field(default_factory=dict)

    def add(self, record: WorkerRecord) -> None:
        self.records.append(record)

    def remove(self, record: WorkerRecord) -> None:
        self.records.remove(record)

    def by_pid(self, pid: int) -> WorkerRecord | None:
        return next((r for r in self.records if r.pid == pid), None)

    def on_slot(self, slot: int, generation: int, *states: State) -> list[WorkerRecord]:
        """Return a slot's workers of a generation in any of some states."""
        return [r for r in self.records if r.slot == slot and r.generation == generation and r.state in states]

    def of_generation(self, generation: int, *states: State) -> list[WorkerRecord]:
        return [r for r in self.records if r.generation == generation and r.state in states]

    def in_state(self, *states: State) -> list[WorkerRecord]:
        return [r for r in self.records if r.state in states]

    def is_full(self, count: int, generation: int) -> bool:
        """Whether each of `count` slots has a ready worker of a generation."""
        ready = {r.slot for r in self.of_generation(generation, State.READY)}
        return ready.issuperset(range(count))

    def apply(self, record: WorkerRecord, event: Event) -> State:
        """Move a record along the table; return its new state."""
        record.state = NEXT[record.state][event]
        return record.state

    def note_death(self, record: WorkerRecord, now: float, was_killed: bool, jitter: float) -> float:
        """Decide when its slot may be spawned again, after a death that nobody ordered.

        Args:
            was_killed: by a SIGKILL that was not ours.
            jitter: 0.5 to 1.5, from the caller's dice.

        Returns:
            Seconds to wait.
        """
        stable = STABLE_IF_KILLED_SECONDS if was_killed else STABLE_SECONDS
        if record.ready_at is not None and now - record.ready_at >= stable:
            self.backoffs.pop(record.slot, None)
            return 0.0
        return self.back_off(record.slot, now, jitter)

    def back_off(self, slot: int, now: float, jitter: float = 1.0) -> float:
        """Let a slot wait, each time in a row twice as long; return for how many seconds."""
        backoff = self.backoffs.setdefault(slot, Backoff())
        wait = min(FIRST_BACKOFF_SECONDS * 2.0**backoff.failures, LAST_BACKOFF_SECONDS) * jitter
        backoff.failures = min(backoff.failures + 1, 16)
        backoff.not_before = now + wait
        return wait

    def may_spawn(self, slot: int, now: float) -> bool:
        return slot not in self.backoffs or now >= self.backoffs[slot].not_before

    def deadlines(self, now: float) -> Iterator[float]:
        """Return the times at which the book must be looked at again."""
        yield from (r.deadline for r in self.records if r.deadline is not None)
        yield from (b.not_before for b in self.backoffs.values() if b.not_before > now)


def reconcile(roster: Roster, target: Target, now: float) -> list[Action]:
    """Return the next steps towards the target; none, when the book says what is wanted.

    Args:
        now: CLOCK_MONOTONIC, for back-off.
    """
    if target.is_immediate:
        return [Action(Step.KILL, record=r) for r in roster.records if r.state is not State.DYING]
    return [*_spawns(roster, target, now), *_pauses(roster, target), *_retirements(roster, target)]


def _spawns(roster: Roster, target: Target, now: float) -> Iterator[Action]:
    candidate = target.candidate
    for slot in range(target.count):
        fresh = [r for r in roster.on_slot(slot, target.generation, *LIVE) if not r.is_tired]
        has_successor = candidate and roster.on_slot(slot, candidate.generation, State.READY)
        if not fresh and not has_successor and roster.may_spawn(slot, now):
            yield Action(Step.SPAWN, slot, target.generation)
    if candidate:
        starting = len(roster.of_generation(candidate.generation, State.STARTING))
        missing = [s for s in range(candidate.count) if not roster.on_slot(s, candidate.generation, *LIVE)]
        for slot in missing[: max(0, candidate.surge - starting)]:
            yield Action(Step.SPAWN, slot, candidate.generation)


def _pauses(roster: Roster, target: Target) -> Iterator[Action]:
    """A candidate that is ready pauses its predecessor; when it is gone, the predecessor resumes."""
    candidate = target.candidate
    for record in roster.of_generation(target.generation, State.READY, State.PAUSED):
        has_successor = candidate and roster.on_slot(record.slot, candidate.generation, State.READY)
        if has_successor and record.state is State.READY:
            yield Action(Step.PAUSE, record=record)
        elif not has_successor and record.state is State.PAUSED:
            yield Action(Step.RESUME, record=record)


def _retirements(roster: Roster, target: Target) -> Iterator[Action]:
    """Workers that nobody wants go, those on a wanted slot only when another is ready there."""
    candidate = target.candidate
    for record in roster.in_state(*LIVE):
        if candidate and record.generation == candidate.generation and record.slot < candidate.count:
            continue
        is_current = record.generation == target.generation
        if is_current and record.slot < target.count and not record.is_tired:
            continue
        if candidate and is_current:
            continue  # until the commit the current generation stays as it is
        ready = [r for r in roster.on_slot(record.slot, target.generation, State.READY) if r is not record]
        if record.slot >= target.count or any(not r.is_tired for r in ready):
            yield Action(Step.RETIRE, record=record)
