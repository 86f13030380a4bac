"""The mold processes, one per generation: starts them, knows which can be ordered from, starts them again.

Knows: plans, the channels to the molds. Does not know: workers, reloads.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass

from prefork.config import LogConfig
from prefork.errors import BootError, ChannelError
from prefork.process.channel import Channel, open_pair
from prefork.process.kernel import Kernel
from prefork.process.messages import Failed, Ready, ReopenLogs
from prefork.process.mold import Mold
from prefork.process.plan import Plan
from prefork.process.roster import FIRST_BACKOFF_SECONDS, LAST_BACKOFF_SECONDS

log = logging.getLogger("prefork")


@dataclass(slots=True, eq=False)
class MoldRecord:
    """What the master knows of one generation's mold.

    Attributes:
        deadline: for its import, or, when it is gone, for the next try.
        failure: why it could not import the app, the last time.
    """

    plan: Plan
    channel: Channel | None = None
    pid: int | None = None
    is_ready: bool = False
    deadline: float | None = None
    failure: Failed | None = None
    failures: int = 0


class Foundry:
    """The molds of the generations that may still need workers."""

    def __init__(self, kernel: Kernel, clock: Callable[[], float], selector: selectors.BaseSelector) -> None:
        self._kernel = kernel
        self._clock = clock
        self._selector = selector
        self._molds: dict[int, MoldRecord] = {}
        self._leaving: set[int] = set()  # pids of molds that were dismissed and not yet reaped

    def start(self, plan: Plan) -> None:
        """Fork the mold of a generation.

        Raises:
            BootError: there is no room for another process.
        """
        self._molds[plan.generation] = record = MoldRecord(plan)
        self._fork(record)

    def _fork(self, record: MoldRecord) -> None:
        try:
            channel, theirs = open_pair()
        except ChannelError as error:
            raise BootError(f"cannot start the mold: {error}") from error
        try:
            record.pid = self._kernel.fork(lambda: _live(record.plan, theirs))
        except OSError as error:
            channel.close()
            raise BootError(f"cannot start the mold: {error.strerror}") from error
        finally:
            theirs.close()
        record.channel = channel
        record.is_ready, record.failure = False, None
        record.deadline = self._clock() + record.plan.config.timeouts.boot
        self._selector.register(channel, selectors.EVENT_READ, lambda: self._on_message(record))

    def channel(self, generation: int) -> Channel | None:
        """Return where workers of a generation are ordered; None while its mold is not ready."""
        record = self._molds.get(generation)
        return record.channel if record is not None and record.is_ready else None

    def is_ready(self, generation: int) -> bool:
        return self.channel(generation) is not None

    def failure(self, generation: int) -> Failed | None:
        """Return why the last try of a generation's mold failed, if it did."""
        record = self._molds.get(generation)
        return record.failure if record is not None else None

    def reopen_logs(self, chosen: LogConfig, fd: int) -> None:
        """Have the molds that log as chosen write to a file that was opened again."""
        for record in self._molds.values():
            if record.channel is not None and record.plan.config.log == chosen:
                record.channel.send(ReopenLogs(), [fd])

    def _on_message(self, record: MoldRecord) -> None:
        try:
            messages = record.channel.receive() if record.channel else None
        except ChannelError as error:
            log.error("mold g%d: %s", record.plan.generation, error)
            messages = None
        if messages is None:
            self._hang_up(record)
            return
        for fact, _ in messages:
            if isinstance(fact, Ready):
                record.is_ready, record.failures, record.deadline = True, 0, None
            elif isinstance(fact, Failed):
                record.failure = fact

    def _hang_up(self, record: MoldRecord) -> None:
        """Its channel has ended, and so has it, or it soon will have."""
        if record.channel is None:
            return
        self._selector.unregister(record.channel)
        record.channel.close()
        record.channel = None
        if record.pid is not None:
            self._kernel.kill(record.pid, signal.SIGKILL)
            self._leaving.add(record.pid)
            record.pid = None
        record.is_ready = False
        record.failure = record.failure or Failed("the mold was ended from outside")
        wait = min(FIRST_BACKOFF_SECONDS * 2.0**record.failures, LAST_BACKOFF_SECONDS) if record.failures else 0
        record.failures = min(record.failures + 1, 16)
        record.deadline = self._clock() + wait

    def on_exit(self, pid: int, status: int) -> bool:
        """Take note of an exit; return False if it was no mold."""
        for record in self._molds.values():
            if record.pid == pid:
                record.pid = None  # it is reaped: the number may soon be another's
                self._on_message(record)  # its last words, if there are any
                self._hang_up(record)
                log.debug("mold g%d ended: %d", record.plan.generation, os.waitstatus_to_exitcode(status))
                return True
        was_leaving = pid in self._leaving
        self._leaving.discard(pid)
        return was_leaving

    def tend(self, current: int) -> None:
        """End an import that takes too long; start the current generation's mold again if it is gone."""
        now = self._clock()
        for record in list(self._molds.values()):
            if record.deadline is None or record.deadline > now:
                continue
            if record.pid is not None:
                record.failure = Failed("the import of the app took longer than timeouts.boot")
                self._hang_up(record)
            elif record.plan.generation == current:
                self._start_again(record)
            else:
                record.deadline = None

    def _start_again(self, record: MoldRecord) -> None:
        reason = record.failure.reason if record.failure else "it ended"
        log.error(
            "mold g%d is started again, with the code as it is now: %s",
            record.plan.generation,
            reason,
            extra={"detail": record.failure.detail} if record.failure and record.failure.detail else None,
        )
        try:
            self._fork(record)
        except BootError as error:
            log.error("%s", error)
            record.deadline = self._clock() + LAST_BACKOFF_SECONDS

    def deadlines(self) -> list[float]:
        return [record.deadline for record in self._molds.values() if record.deadline is not None]

    def dismiss(self, generation: int) -> None:
        """Let a mold go: its generation needs no more workers."""
        record = self._molds.pop(generation, None)
        if record is None or record.channel is None:
            return
        self._selector.unregister(record.channel)
        record.channel.close()
        if record.pid is not None:
            if not record.is_ready:  # in an import it would not see the end of its channel
                self._kernel.kill(record.pid, signal.SIGKILL)
            self._leaving.add(record.pid)

    def dismiss_all(self) -> None:
        for generation in list(self._molds):
            self.dismiss(generation)

    @property
    def is_empty(self) -> bool:
        """Whether no mold is left, not even one that is about to go."""
        return not self._molds and not self._leaving

    def kill_leaving(self) -> None:
        for pid in self._leaving:
            self._kernel.kill(pid, signal.SIGKILL)


def _live(plan: Plan, theirs: socket.socket) -> int:
    return Mold(plan, theirs).run()
