"""What an operator has of the server: its commands, bans, the level of its log, the admin process.

Knows: those four. Does not know: signals, workers' lives, what is wanted.
"""

from __future__ import annotations

import logging
import selectors
from collections.abc import Iterator

from prefork.process.attendant import Attendant
from prefork.process.bans import BanList
from prefork.process.captures import Captures
from prefork.process.commands import Commands
from prefork.process.course import Course
from prefork.process.holds import Holds
from prefork.process.kernel import Kernel
from prefork.process.reload import Generation, Staff
from prefork.process.reloads import Reloads
from prefork.process.verbosity import Verbosity
from prefork.scoreboard import Notice

log = logging.getLogger("prefork")


class Operations:
    """Runs beside the supervision, and is looked after in each turn of the master's loop."""

    def __init__(
        self, staff: Staff, course: Course, reloads: Reloads, kernel: Kernel, selector: selectors.BaseSelector
    ) -> None:
        self._staff = staff
        notice: Notice = staff.current().plan.scoreboard.notice
        self._bans = BanList(notice, staff.clock)
        self._verbosity = Verbosity(staff.crew, staff.clock, lambda: staff.current().config.log.level)
        self.holds = Holds()
        self._captures = Captures(staff.crew, staff.clock)
        rules = (self._bans, self._verbosity, self._captures)
        self.commands = Commands(course, reloads, staff, self.holds, rules)
        self._attendant = Attendant(kernel, staff.clock, selector, self.commands.answer)

    def open(self) -> None:
        """Have the admin process that the config wants."""
        self._attendant.configure(self._staff.current().plan, self._staff.ports.admin)

    def change(self, before: Generation) -> None:
        """Do what a reload has changed: the new generation is the current one."""
        self._verbosity.on_reload()
        old, new = before.config, self._staff.current().config
        if (old.admin, old.log, old.user) != (new.admin, new.log, new.user):
            self.open()

    def tend(self) -> None:
        """Do what is due."""
        self._bans.expire()
        self._verbosity.tend()
        self._attendant.tend()
        self._captures.tend()
        self._staff.crew.surveys.tend()

    def deadlines(self) -> Iterator[float]:
        yield from self._attendant.deadlines()
        yield from self._captures.deadlines()
        yield from self._staff.crew.surveys.deadlines()

    def on_exit(self, pid: int, status: int) -> bool:
        """Take note of an exit; return False if it was not the admin process."""
        return self._attendant.on_exit(pid, status)

    def close(self) -> None:
        self._attendant.close()
