"""The capture under way: every worker that serves takes part, those too that come while it goes on.

Knows: what is wanted, who was told, time. Does not know: what workers write, packets, the file that comes of it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

from prefork.errors import CommandError, LocalProtocolError, PreforkError
from prefork.firewall import build_network
from prefork.process.crew import Crew
from prefork.process.roster import State, WorkerRecord

MAX_SECONDS = 3600.0
ABANDONED_SECONDS = 10.0  # without a look from the command: it is gone
Reply = Callable[[Any], None]

log = logging.getLogger("prefork")


def check_capture(wanted: dict[str, Any]) -> None:
    """Check what an operator wants to capture.

    Raises:
        CommandError: something of it cannot be.
    """
    try:
        names, limit, seconds = wanted["listeners"], int(wanted["limit"]), float(wanted["seconds"])
        if wanted.get("peer") is not None:
            build_network(str(wanted["peer"]))
    except (KeyError, TypeError, ValueError, PreforkError) as error:
        raise CommandError(f"cannot capture: {error}") from error
    if wanted.get("listener") not in (None, *names):
        raise CommandError(f"there is no listener {wanted['listener']!r}; there are {', '.join(names)}")
    if limit <= 0 or not 0 < seconds <= MAX_SECONDS:
        raise CommandError("cannot capture: limit and time are above 0, and an hour is the most")


class Captures:
    """At most one capture at a time."""

    def __init__(self, crew: Crew, clock: Callable[[], float]) -> None:
        self._crew = crew
        self._clock = clock
        self._wanted: dict[str, Any] = {}
        self._fd = -1  # of the spool; -1: there is no capture
        self._until = self._looked_at = 0.0
        self._told: set[int | None] = set()  # pids

    def begin(self, wanted: dict[str, Any], fd: int, reply: Reply) -> None:
        """Have all workers write what they read and write to a spool.

        Args:
            fd: of the spool; who calls closes it.

        Raises:
            CommandError: it is asked for wrongly.
            LocalProtocolError: there is one already.
        """
        check_capture(wanted)
        if self._fd >= 0:
            raise LocalProtocolError("another capture is under way; end it, or wait for its end")
        self._fd, self._wanted = os.dup(fd), wanted
        self._looked_at = self._clock()
        self._until = self._looked_at + float(wanted["seconds"])
        self._told = set()
        self._tell(self._newcomers(), lambda _, missing: reply({"silent": missing}))

    def _newcomers(self) -> list[WorkerRecord]:
        serving = self._crew.roster.in_state(State.READY, State.PAUSED, State.DRAINING)
        return [record for record in serving if record.pid not in self._told]

    def _tell(self, records: list[WorkerRecord], conclude: Callable[[list[Any], list[int]], None]) -> None:
        self._told.update(record.pid for record in records)
        arguments = self._wanted | {"seconds": max(0.0, self._until - self._clock())}
        self._crew.surveys.ask(records, "capture", arguments, conclude, [self._fd])

    def end(self, reply: Reply) -> None:
        """Have it end, if there is one."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        records = self._crew.roster.records
        self._crew.surveys.ask(records, "capture", {}, lambda _, missing: reply({"silent": missing}))

    def describe(self, reply: Reply) -> None:
        """Tell whether it goes on, and why workers have ended it, if they have."""
        self._looked_at, is_running = self._clock(), self._fd >= 0

        def conclude(rows: list[Any], _missing: list[int]) -> None:
            reasons = sorted({reason for _, reason in rows if reason})
            reply({"is_running": is_running, "slots": sorted(slot for slot, _ in rows), "reasons": reasons})

        self._crew.surveys.ask(self._crew.roster.records, "captures", {}, conclude)

    def tend(self) -> None:
        """Let newcomers take part; end it when its time is over, or nobody waits for it."""
        if self._fd < 0:
            return
        now = self._clock()
        if now >= min(self._until, self._looked_at + ABANDONED_SECONDS):
            log.info("the capture ends: %s", "its time is over" if now >= self._until else "its command is gone")
            self.end(lambda _: None)
        elif newcomers := self._newcomers():
            self._tell(newcomers, lambda *_: None)

    def deadlines(self) -> list[float]:
        """Return when it has to be looked at again."""
        return [min(self._until, self._looked_at + ABANDONED_SECONDS)] if self._fd >= 0 else []
