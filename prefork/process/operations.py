"""What an operator has of the server: its commands, bans, the level of its log, the admin process.

Knows: those four. Does not know: signals, workers' lives, what is wanted.
"""

from __future__ import annotations

import logging
import os
import selectors
from collections.abc import Iterator

from prefork.firewall import OPEN_TO_ALL
from prefork.process.attendant import Attendant
from prefork.process.bans import BanList
from prefork.process.captures import Captures
from prefork.process.commands import Commands
from prefork.process.course import Course
from prefork.process.holds import Holds
from prefork.process.kernel import Kernel
from prefork.process.reload import Generation, Staff
from prefork.process.reloads import Reloads
from prefork.process.roster import State
from prefork.process.verbosity import Verbosity
from prefork.scoreboard import Notice

log = logging.getLogger("prefork")

log = logging.getLogger("prefork")


def note_denied(counts: list[int], _missing: list[int]) -> None:
    """Tell how many connections have ended by a change of the lists."""
    if sum(counts):
        log.info("%d connections ended: their networks may not connect any more", sum(counts))


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
        self._end_denied(before)

    def _end_denied(self, before: Generation) -> None:
        """Have the workers of the generation before end the connections that the lists deny from now on."""
        walls = self._staff.current().plan.firewalls
        records = self._staff.crew.roster.of_generation(before.number, *State)
        for listener in before.config.listeners:
            name = listener.name
            wall = walls.get(name, OPEN_TO_ALL).clients
            if wall.is_open or wall == before.plan.firewalls.get(name, OPEN_TO_ALL).clients:
                continue
            with open(os.memfd_create(name), "wb") as file:
                file.write(wall.pack())
                file.flush()
                self._staff.crew.surveys.ask(records, "deny", {"listener": name}, note_denied, [file.fileno()])

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
