"""The commands of the control socket: what they change, and what they tell.

Knows: the course, the books, reloads. Does not know: sockets, the loop, how a change is brought about.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable
from typing import Any

from prefork import __version__
from prefork.errors import CommandError, LocalProtocolError, PreforkError
from prefork.firewall import build_network
from prefork.process.bans import BanList
from prefork.process.captures import Captures
from prefork.process.census import sum_cells, take_census
from prefork.process.course import Course, Ending
from prefork.process.holds import Holds
from prefork.process.recent import Recent
from prefork.process.reload import Staff
from prefork.process.reloads import Reloads
from prefork.process.report import describe_listeners, describe_workers, explain_unready, sum_counters
from prefork.process.securing import describe_certificates
from prefork.process.verbosity import Verbosity

Reply = Callable[[Any], None]


def check_filters(wanted: dict[str, Any], names: list[str]) -> None:
    """Check which connections an operator wants to see.

    Raises:
        CommandError: there can be none such.
    """
    listener, peer = wanted.get("listener"), wanted.get("peer")
    if listener not in (None, *names):
        raise CommandError(f"there is no listener {listener!r}; there are {', '.join(names)}")
    try:
        if peer is not None:
            build_network(str(peer))
        for name in ("older", "idle"):
            if float(wanted.get(name) or 0) < 0:
                raise ValueError(f"--{name} is not a time")
    except (PreforkError, TypeError, ValueError) as error:
        raise CommandError(f"cannot look for connections: {error}") from error


class Commands:
    """Answers requests; what it raises is an answer too."""

    def __init__(
        self,
        course: Course,
        reloads: Reloads,
        staff: Staff,
        holds: Holds,
        rules: tuple[BanList, Verbosity, Captures],
    ) -> None:
        self._holds = holds
        self._bans, self._verbosity, self._captures = rules
        self._recent = Recent()
        logging.getLogger("prefork").addHandler(self._recent)
        self._started_at = staff.clock()
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
            "conns": self._list_connections,
            "kick": self._kick,
            "logs": self._logs,
            "drain": lambda arguments, reply: self._hold(arguments, reply, True),
            "resume": lambda arguments, reply: self._hold(arguments, reply, False),
            "capture": self._capture,
            "captures": lambda _, reply: self._captures.describe(reply),
            "census": self._census,
            "config": self._config,
            "events": self._events,
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
            raise CommandError(f"cannot scale to {text!r}; write N, +N or -N") from error
        is_relative = text.startswith(("+", "-"))
        reply({"change": self._course.scale(self._course.target.count + number if is_relative else number)})

    def _stop(self, arguments: dict[str, Any], reply: Reply) -> None:
        delay = self._staff.current().config.timeouts.delay
        self._course.end(Ending.IMMEDIATE if arguments.get("now") else Ending.DELAYED, delay)
        reply({"stopping": True})

    def _ban(self, arguments: dict[str, Any], reply: Reply) -> None:
        duration = arguments.get("duration")
        network = str(arguments.get("network", ""))
        self._bans.ban(network, None if duration is None else str(duration))
        reply({"banned": network})

    def _unban(self, arguments: dict[str, Any], reply: Reply) -> None:
        network = str(arguments.get("network", ""))
        self._bans.lift(network)
        reply({"lifted": network})

    def _list_bans(self, _: dict[str, Any], reply: Reply) -> None:
        reply(self._bans.describe())

    def _status(self, _: dict[str, Any], reply: Reply) -> None:
        last, target = self._reloads.last, self._course.target
        cells = sum_cells(self._staff.crew)
        counted = sum_counters(cells)
        why = self._explain()
        counted["counters"]["dropped"] = self._staff.ports.dropped
        reply(
            {
                "pid": os.getpid(),
                "version": __version__,
                "generation": target.generation,
                "target": target.count,
                "state": "stopping" if self._course.ending else "running",
                "workers": describe_workers(self._staff.crew, self._staff.clock()),
                "listeners": describe_listeners(cells, self._staff.ports.bound()),
                "uptime": round(self._staff.clock() - self._started_at, 3),
                "ready": not why,
                "why": why,
                "certificates": describe_certificates(self._staff.current().plan.securities),
                "bans": self._bans.describe(),
                "held": self._holds.describe(),
                **counted,
                "last_reload": {
                    "verdict": last.verdict if last else None,
                    "reason": last.reason if last else None,
                    "changes": list(last.changes) if last else [],
                },
            }
        )

    def _health(self, _: dict[str, Any], reply: Reply) -> None:
        why = self._explain()
        reply({"ready": not why, "why": why})

    def _explain(self) -> list[str]:
        crew = self._staff.crew
        why = ["the server stops"] if self._course.ending else []
        return why + explain_unready(crew.roster, self._course.target, crew.is_lagging, self._staff.clock())

    def _census(self, _: dict[str, Any], reply: Reply) -> None:
        last = self._reloads.last
        reply(
            take_census(self._staff.crew, self._staff.ports)
            | {
                "certificates": describe_certificates(self._staff.current().plan.securities),
                "is_reload_good": last is None or last.verdict == "committed",
                "generation": self._course.target.generation,
                "target": self._course.target.count,
                "held": self._holds.describe(),
                "pids": [[r.slot, r.pid] for r in self._staff.crew.roster.records if r.pid is not None],
            }
        )

    def _list_connections(self, arguments: dict[str, Any], reply: Reply) -> None:
        """The largest movers first, or the oldest."""
        limit, order = arguments.get("limit"), arguments.get("order", "age")
        slot = arguments.get("slot")
        check_filters(arguments, [listener["name"] for listener in self._staff.ports.bound()])
        records = [r for r in self._staff.crew.roster.records if slot is None or r.slot == slot]
        if slot is not None and not records:
            raise CommandError(f"there is no worker of slot {slot!r}")

        def conclude(rows: list[Any], missing: list[int]) -> None:
            rows.sort(
                key=lambda row: row["age"] if order == "age" else row["received"] + row["sent"], reverse=True
            )
            del rows[limit if isinstance(limit, int) else len(rows) :]
            reply({"rows": rows, "silent": missing} if arguments.get("is_whole") else rows)

        self._staff.crew.surveys.ask(records, "conns", arguments, conclude)

    def _kick(self, arguments: dict[str, Any], reply: Reply) -> None:
        name = str(arguments.get("id", ""))
        records = self._staff.crew.roster.records
        self._staff.crew.surveys.ask(
            records, "kick", {"id": name}, lambda rows, missing: reply({"kicked": rows, "silent": missing})
        )

    def _logs(self, arguments: dict[str, Any], reply: Reply) -> None:
        duration = arguments.get("duration")
        self._verbosity.change(str(arguments.get("level", "")), None if duration is None else str(duration))
        reply({"level": arguments.get("level")})

    def _capture(self, arguments: dict[str, Any], reply: Reply) -> None:
        """Have workers write what they read and write to a file; without a file: end that."""
        fd = arguments.pop("fd", None)
        if fd is None:
            self._captures.end(reply)
        else:
            self._captures.begin(arguments, fd, reply)

    def _hold(self, arguments: dict[str, Any], reply: Reply, is_held: bool) -> None:
        names = [listener["name"] for listener in self._staff.ports.bound()]
        self._holds.change(arguments, names, self._course.target.count, is_held)
        reply(self._holds.describe())

    def _config(self, _: dict[str, Any], reply: Reply) -> None:
        reply(list(self._staff.current().effective))

    def _events(self, arguments: dict[str, Any], reply: Reply) -> None:
        since = arguments.get("since", 0)
        reply(self._recent.since(since if isinstance(since, int) else 0))
