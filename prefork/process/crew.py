"""The worker processes: orders them, listens to them, watches their beats, buries them.

Knows: the roster, the links to the processes, shared memory. Does not know: how many are wanted, why one is to
go, listeners.
"""

from __future__ import annotations

import logging
import os
import random
import selectors
import signal
from collections.abc import Callable
from dataclasses import dataclass

from prefork.config import Config, LogConfig
from prefork.errors import ChannelError
from prefork.process.channel import Channel, open_pair
from prefork.process.kernel import Kernel
from prefork.process.link import Link
from prefork.process.messages import (
    Drain,
    Fact,
    Failed,
    Found,
    Left,
    Order,
    Ready,
    ReopenLogs,
    Spawn,
    Spawned,
    Tired,
)
from prefork.process.roster import Event, Roster, State, WorkerRecord
from prefork.process.surveys import Surveys
from prefork.process.tolls import Tolls
from prefork.process.yields import Yields
from prefork.scoreboard import ENDS, Cell, Count, End, Scoreboard, block, sum_blocks

STACK_SECONDS = 0.2  # for a worker that stands still to write down where
EXIT_SECONDS = 1.0  # between the end of a channel and the end of its process
DRAIN_GRACE_SECONDS = 0.5  # beyond timeouts.drain, for the worker's own cut
LAG_SECONDS = 1.0  # without a beat: gets no new connections, long before it is given up
UNCLAIMED = 64  # exits of pids that no worker has claimed yet

log = logging.getLogger("prefork")


@dataclass(frozen=True, slots=True)
class Death:
    """A worker that is gone: who, why, and whether anybody had ordered it."""

    record: WorkerRecord
    reason: str
    was_ordered: bool
    was_killed: bool  # by a SIGKILL that was not ours


class Crew:
    """All workers of all generations."""

    def __init__(
        self,
        kernel: Kernel,
        clock: Callable[[], float],
        selector: selectors.BaseSelector,
        scoreboard: Scoreboard,
    ) -> None:
        self.roster = Roster()
        self._scoreboard = scoreboard
        self.totals: dict[tuple[int, str], list[int]] = {}  # by slot and listener, of workers that are gone
        self.tolls = Tolls()
        self.surveys = Surveys(clock)
        self.yields = Yields()
        self._kernel = kernel
        self._clock = clock
        self._selector = selector
        self._unclaimed: dict[int, int] = {}
        self._deaths: list[Death] = []
        self._was_ever_ready = False

    @property
    def was_ever_ready(self) -> bool:
        return self._was_ever_ready

    def take_deaths(self) -> list[Death]:
        """Return the deaths since the last call."""
        deaths, self._deaths = self._deaths, []
        return deaths

    # --- orders ---

    def spawn(self, slot: int, generation: int, config: Config, mold: Channel) -> None:
        """Order a worker from its generation's mold.

        Raises:
            ChannelError: no descriptors are left for it.
        """
        channel, theirs = open_pair()
        stack_fd, their_stack = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        seat = self._scoreboard.borrow()
        spread = config.recycle.jitter
        jitter = random.uniform(1 - spread, 1 + spread)
        link = Link(channel, stack_fd, seat, self._scoreboard.page(seat), config, jitter)
        now = self._clock()
        record = WorkerRecord(slot, generation, now, deadline=now + config.timeouts.boot, link=link)
        self.roster.add(record)
        self.tolls.note_spawn(slot)
        self._selector.register(channel, selectors.EVENT_READ, lambda: self._on_message(record))
        mold.send(Spawn(slot, seat), (theirs.fileno(), their_stack))
        theirs.close()
        os.close(their_stack)

    def pause(self, record: WorkerRecord) -> None:
        self.roster.apply(record, Event.PAUSE)

    def resume(self, record: WorkerRecord) -> None:
        self.roster.apply(record, Event.RESUME)

    def retire(self, record: WorkerRecord, order: Drain) -> None:
        """Ask a worker to finish what is open; one that has not begun to serve is killed.

        One that drains already is asked again when the server stops: that leaves it less time.
        """
        if self.roster.apply(record, Event.RETIRE) is State.DYING:
            self.kill(record)
            return
        deadline = self._clock() + order.seconds + DRAIN_GRACE_SECONDS
        is_first = record.link.drained_at is None
        record.deadline = deadline if is_first or record.deadline is None else min(deadline, record.deadline)
        record.link.drained_at = self._clock()
        record.link.leave(tuple(record.link.watched), order)

    def kill(self, record: WorkerRecord) -> None:
        """End a worker at once; one that has not been born yet, when it says its pid."""
        record.state = State.DYING
        record.deadline = None
        if record.pid is not None:
            self._kernel.kill(record.pid, signal.SIGKILL)

    def postpone(self, slot: int, reason: str) -> None:
        """Try a slot again later: the machine has no room for a worker now."""
        wait = self.roster.back_off(slot, self._clock())
        log.error("slot %d: %s; tried again in %.1f s", slot, reason, wait)

    def tire_one(self, now: float) -> None:
        """Mark one worker that has reached a limit of `recycle`."""
        for record in self.roster.in_state(State.READY):
            limits, page, factor = record.link.config.recycle, record.link.page, record.link.jitter
            reasons = {
                "connections": 0 < limits.connections * factor <= page[Cell.ACCEPTED],
                "age": 0 < limits.age * factor <= now - record.started_at,
                "rss": 0 < limits.rss * factor <= page[Cell.RSS],
            }
            reached = [name for name, is_reached in reasons.items() if is_reached]
            if reached:
                record.is_tired = True
                log.info("worker %d g%d has reached recycle.%s", record.slot, record.generation, reached[0])
                return

    def reopen_logs(self, chosen: LogConfig, fd: int) -> None:
        """Have those who log as chosen write to a file that was opened again."""
        for record in self.roster.records:
            if record.link.config.log == chosen:
                record.link.send(ReopenLogs(), [fd])

    # --- facts ---

    def _on_message(self, record: WorkerRecord) -> None:
        try:
            messages = record.link.channel.receive()
        except ChannelError as error:
            log.error("worker %d g%d: %s", record.slot, record.generation, error)
            self.kill(record)
            return
        if messages is None:
            self._on_hang_up(record)
            return
        for fact, _ in messages:
            self._on_fact(record, fact)

    def _on_fact(self, record: WorkerRecord, fact: Fact | Order) -> None:
        if isinstance(fact, Spawned):
            record.pid = fact.pid
            status = self._unclaimed.pop(fact.pid, None)
            if not any(r.pid is None for r in self.roster.records):
                self._unclaimed.clear()  # strangers: their numbers may soon be those of others
            if status is not None:
                self._note_exit(record, status)
            elif record.state is State.DYING:
                self._kernel.kill(fact.pid, signal.SIGKILL)
        elif isinstance(fact, Ready):
            record.link.metrics = fact.metrics
            self._on_ready(record)
        elif isinstance(fact, Failed):
            record.link.failure = fact
        elif isinstance(fact, Left):
            record.link.leaving.popleft()
        elif isinstance(fact, Found):
            self.surveys.take(record, fact)
        elif isinstance(fact, Tired):
            record.is_tired = True
            log.info("worker %d g%d was asked to go by %s", record.slot, record.generation, fact.reason)

    def _on_ready(self, record: WorkerRecord) -> None:
        now = self._clock()
        if self.roster.apply(record, Event.READY) is State.READY:
            self.tolls.note_start(now - record.started_at)
            self._was_ever_ready = True
            record.ready_at = now
            record.deadline = now + record.link.config.timeouts.beat
            log.info(
                "worker %d g%d (pid %d) is ready after %.0f ms",
                record.slot,
                record.generation,
                record.pid,
                (now - record.started_at) * 1e3,
            )

    def _on_hang_up(self, record: WorkerRecord) -> None:
        self._selector.unregister(record.link.channel)
        if record.pid is None:
            self._bury(record, "could not be forked", was_killed=False)
        elif record.deadline is None or record.deadline > self._clock() + EXIT_SECONDS:
            record.deadline = self._clock() + EXIT_SECONDS

    # --- time ---

    def look_at_beats(self) -> None:
        """Move the deadlines of those that serve, by the beats that they wrote."""
        for record in self.roster.in_state(State.READY, State.PAUSED):
            beat = max(record.link.page[Cell.BEAT] / 1e9, record.ready_at or 0.0)
            deadline = beat + record.link.config.timeouts.beat
            if record.deadline is None or deadline > record.deadline:
                record.deadline = deadline

    def flush_orders(self) -> None:
        """Send the orders that wait for workers which did not read for a while."""
        for record in self.roster.records:
            if record.link.channel.is_blocked:
                record.link.channel.flush()

    def is_lagging(self, record: WorkerRecord) -> bool:
        """Whether a worker has not been round its loop for a while."""
        link: Link = record.link
        return self._clock() - link.page[Cell.BEAT] / 1e9 > LAG_SECONDS

    def is_laden(self, record: WorkerRecord) -> bool:
        """Whether a worker is to get no new connections: it is full, or slow."""
        link: Link = record.link
        limits = [listener.limits.lag for listener in link.config.listeners if listener.limits.lag]
        is_slow = bool(limits) and link.page[Cell.LAG] / 1e9 > min(limits)
        return bool(link.page[Cell.FULL]) or is_slow or self.is_lagging(record)

    def end_overdue(self) -> None:
        """Give up those whose deadline has passed: first their stack, then SIGKILL."""
        now = self._clock()
        for record in [r for r in self.roster.records if r.deadline is not None and r.deadline <= now]:
            if record.state is State.DYING:
                self._end(record)
                continue
            reason = _OVERDUE[record.state]
            log.error("worker %d g%d (pid %s) %s", record.slot, record.generation, record.pid, reason)
            self.roster.apply(record, Event.OVERDUE)
            record.link.failure = record.link.failure or Failed(reason)
            record.deadline = now + STACK_SECONDS
            if record.pid is not None:
                self._kernel.kill(record.pid, signal.SIGUSR2)

    def _end(self, record: WorkerRecord) -> None:
        stack = record.link.read_stack()
        if stack:
            who = f"worker {record.slot} g{record.generation} (pid {record.pid})"
            log.error("the stack of %s:", who, extra={"detail": stack})
        self.kill(record)

    # --- the end ---

    def on_exit(self, pid: int, status: int) -> bool:
        """Take note of an exit; return False if no worker has that pid, yet or at all."""
        record = self.roster.by_pid(pid)
        if record is None:
            if not any(r.pid is None for r in self.roster.records):
                return False  # no spawn is unreported: it was a stranger
            self._unclaimed[pid] = status
            while len(self._unclaimed) > UNCLAIMED:
                self._unclaimed.pop(next(iter(self._unclaimed)))
            return False
        self._drain_channel(record)
        self._note_exit(record, status)
        return True

    def _drain_channel(self, record: WorkerRecord) -> None:
        """Read the last words: the exit may be known before they were read."""
        try:
            for fact, _ in record.link.channel.receive() or ():
                if isinstance(fact, Failed):
                    record.link.failure = fact
        except ChannelError:  # it was killed while it wrote
            pass

    def _note_exit(self, record: WorkerRecord, status: int) -> None:
        code = os.waitstatus_to_exitcode(status)
        reason = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        self._bury(record, reason, was_killed=code == -signal.SIGKILL and record.link.failure is None)

    def _bury(self, record: WorkerRecord, reason: str, was_killed: bool) -> None:
        link, now = record.link, self._clock()
        was_ordered = record.state in (State.DRAINING, State.DYING) and link.failure is None
        self.roster.remove(record)
        self.surveys.forget(record)
        self.tolls.note_exit(record.slot, link.page, how="ordered" if was_ordered else "crashed", code=reason)
        self.yields.note_end(record.slot, link.page, link.metrics)
        for place, listener in enumerate(link.config.listeners):
            cells = block(link.page, place).tolist()
            cells[Count.CLOSED] += cells[Count.OPEN]
            cells[ENDS + End.LOST] += cells[Count.OPEN]
            cells[Count.OPEN] = 0
            key = (record.slot, listener.name)
            self.totals[key] = sum_blocks([self.totals[key], cells]) if key in self.totals else cells
        if not was_ordered:
            if link.failure is not None and record.ready_at is None:
                reason = link.failure.reason
            self._tell_of_crash(record, reason, was_killed, now)
        else:
            log.info("worker %d g%d (pid %s) left", record.slot, record.generation, record.pid)
        self._deaths.append(Death(record, reason, was_ordered, was_killed))
        self._close(link)

    def _tell_of_crash(self, record: WorkerRecord, reason: str, was_killed: bool, now: float) -> None:
        jitter = random.uniform(0.5, 1.5)
        wait = self.roster.note_death(record, now, was_killed, jitter)
        detail = record.link.failure.detail if record.link.failure else record.link.read_stack()
        log.error(
            "worker %d g%d (pid %s) %s; the slot is filled again %s",
            record.slot,
            record.generation,
            record.pid,
            reason,
            f"in {wait:.1f} s" if wait else "at once",
            extra={"detail": detail} if detail else None,
        )

    def _close(self, link: Link) -> None:
        try:
            self._selector.unregister(link.channel)
        except KeyError:  # at its end already
            pass
        link.channel.close()
        os.close(link.stack_fd)
        link.page.release()
        self._scoreboard.give_back(link.seat)


_OVERDUE = {
    State.STARTING: "did not become ready within timeouts.boot",
    State.READY: "has not been round its loop for timeouts.beat",
    State.PAUSED: "has not been round its loop for timeouts.beat",
    State.DRAINING: "did not leave within timeouts.drain",
    State.DYING: "does not die",
}
