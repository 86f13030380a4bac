"""The commands of the control socket: what they change, and what they tell.

Knows: the course, the books, reloads. Does not know: sockets, the loop, how a change is brought about.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

from prefork.errors import LocalProtocolError
from prefork.process.bans import BanList
from prefork.process.course import Course, Ending
from prefork.process.reload import Staff
from prefork.process.reloads import Reloads
from prefork.process.report import describe_workers, explain_unready, sum_counters

Reply = Callable[[Any], None]


class Commands:
    """Answers requests; what it raises is an answer too."""

    def __init__(self, course: Course, reloads: Reloads, staff: Staff, bans: BanList) -> None:
        self._bans = bans
        self._course = course
        self._reloads = reloads
        self._staff = staff
        self._known: dict[str, Callable[[dict[str, Any], Reply], None]] = {
            "status": self._status,
            "health": self._health,
            "reload": self._reload,
            "scale": self._scale,
            "stop": self._stop,
            "ban": self._ban,
            "unban": self._unban,
            "bans": self._list_bans,
        }

    def answer(self, command: str, arguments: dict[str, Any], reply: Reply) -> None:
        """Do what a command says; the answer goes to `reply`, now or later.

        Raises:
            LocalProtocolError: there is no such command, or it cannot be done.
        """
        if command not in self._known:
            raise LocalProtocolError(f"there is no command {command!r}; there are {', '.join(self._known)}")
        self._known[command](arguments, reply)

    def _reload(self, _: dict[str, Any], reply: Reply) -> None:
        if self._course.ending:
            raise LocalProtocolError("cannot reload: the server stops")
        self._reloads.wish(lambda verdict: reply(dataclasses.asdict(verdict)))

    def _scale(self, arguments: dict[str, Any], reply: Reply) -> None:
        text = str(arguments.get("count", "")).strip()
        try:
            number = int(text)
        except ValueError as error:
            raise LocalProtocolError(f"cannot scale to {text!r}; write N, +N or -N") from error
        is_relative = text.startswith(("+", "-"))
        reply({"change": self._course.scale(self._course.target.count + number if is_relative else number)})

    def _stop(self, arguments: dict[str, Any], reply: Reply) -> None:
        delay = self._staff.delay()
        self._course.end(Ending.IMMEDIATE if arguments.get("now") else Ending.DELAYED, delay)
        reply({"stopping": True})

    def _ban(self, arguments: dict[str, Any], reply: Reply) -> None:
        duration = arguments.get("duration")
        self._bans.ban(str(arguments.get("network", "")), None if duration is None else str(duration))
        reply(self._bans.describe())

    def _unban(self, arguments: dict[str, Any], reply: Reply) -> None:
        self._bans.lift(str(arguments.get("network", "")))
        reply(self._bans.describe())

    def _list_bans(self, _: dict[str, Any], reply: Reply) -> None:
        reply(self._bans.describe())

    def _status(self, _: dict[str, Any], reply: Reply) -> None:
        last, target = self._reloads.last, self._course.target
        counted = sum_counters(self._staff.crew)
        counted["counters"]["dropped"] = self._staff.ports.dropped
        reply(
            {
                "pid": os.getpid(),
                "generation": target.generation,
                "target": target.count,
                "state": "stopping" if self._course.ending else "running",
                "workers": describe_workers(self._staff.crew, self._staff.clock()),
                "listeners": self._staff.ports.bound(),
                **counted,
                "last_reload": {
                    "verdict": last.verdict if last else None,
                    "reason": last.reason if last else None,
                    "changes": list(last.changes) if last else [],
                },
            }
        )

    def _health(self, _: dict[str, Any], reply: Reply) -> None:
        why = ["the server stops"] if self._course.ending else []
        crew = self._staff.crew
        why += explain_unready(crew.roster, self._course.target, crew.is_lagging, self._staff.clock())
        reply({"ready": not why, "why": why})
