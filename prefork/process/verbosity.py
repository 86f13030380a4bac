"""How much is logged, changed for a while by an operator.

Knows: levels, time, who is to be told. Does not know: records.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from prefork.config.units import parse_duration
from prefork.errors import CommandError
from prefork.process.crew import Crew
from prefork.process.messages import SetLevel
from prefork.process.roster import State, WorkerRecord

LEVELS = ("debug", "info", "warning", "error")

log = logging.getLogger("prefork")


class Verbosity:
    """The level of all processes, which goes back to the config's by itself."""

    def __init__(self, crew: Crew, clock: Callable[[], float], chosen: Callable[[], str]) -> None:
        """Change nothing yet.

        Args:
            chosen: returns the level that the config wants.
        """
        self._crew = crew
        self._clock = clock
        self._chosen = chosen
        self._until: float | None = None
        self._level = ""  # that an operator wants for the time being
        self._told: set[int | None] = set()  # pids of workers

    def change(self, level: str, duration: str | None) -> None:
        """Log from another level on, everywhere.

        Args:
            duration: after which it is as before, over reloads too; None: with the next reload.

        Raises:
            CommandError: there is no such level or duration.
        """
        if level not in LEVELS:
            raise CommandError(f"cannot log from level {level[:20]!r} on; known are {', '.join(LEVELS)}")
        try:
            seconds = None if duration is None else parse_duration(duration)
            if seconds is not None and seconds <= 0:
                raise ValueError(f"{duration!r} is not above 0; write such as 5m")
        except ValueError as error:
            raise CommandError(f"cannot log from level {level}: {error}") from error
        self._level = level
        self._set(level)
        self._until = None if seconds is None else self._clock() + seconds
        log.info("level %s%s", level, "" if duration is None else f" for {duration}")

    def tend(self) -> None:
        """Go back when the time is over."""
        if self._until is not None and self._clock() >= self._until:
            self._until, self._level = None, ""
            self._set(self._chosen())
            log.info("level %s again", self._chosen())
        elif self._level:
            self._tell([r for r in self._crew.roster.in_state(State.READY) if r.pid not in self._told])

    def on_reload(self) -> None:
        """Go back to what the config says, if that was not put off for a time."""
        if self._until is None:
            self._level = ""
        logging.root.setLevel((self._level or self._chosen()).upper())

    def _set(self, level: str) -> None:
        logging.root.setLevel(level.upper())
        self._tell(self._crew.roster.records, level)

    def _tell(self, records: Iterable[WorkerRecord], level: str = "") -> None:
        for record in records:
            self._told.add(record.pid)
            record.link.send(SetLevel(level or self._level))
