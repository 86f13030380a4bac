"""Tells the one who started the server how it is: sd_notify(3), without a library.

Readiness, reloads, the stop, one line for people, and signs of life for a watchdog, as systemd wants them of
`Type=notify-reload`. Nobody is waited for: what finds no room now is said again with the next tick.

Knows: the words of sd_notify(3), one datagram socket, the books. Does not know: units, who listens.
"""

from __future__ import annotations

import enum
import errno
import logging
import math
import os
import socket
import time
from collections.abc import Callable, Iterator, MutableMapping
from typing import Protocol

from prefork.process.course import Course
from prefork.process.crew import Crew
from prefork.process.reloads import Reloads
from prefork.process.roster import State
from prefork.scoreboard import Cell

STATUS_SECONDS = 1.0  # between two lines, those apart that come with a change of the server's life
MAX_STATUS = 500  # characters: systemd reads datagrams of up to PIPE_BUF bytes
MAX_UNSENT = 16
LEAST_BEAT_SECONDS = 0.01
BEAT = "WATCHDOG=1"

log = logging.getLogger("prefork")


class Ear(Protocol):
    """Who is told; a test brings its own."""

    def hear(self, message: str) -> bool:
        """Return False if there is no room for a message now; it must not raise."""

    def close(self) -> None: ...


class NotifySocket:
    """Where the service manager listens."""

    def __init__(self, name: str) -> None:
        """Open a way there; whether anybody listens shows when something is said.

        Args:
            name: a path, or `@` and an abstract name, as unix(7) and sd_notify(3) have it.

        Raises:
            OSError: no descriptor is left.
        """
        self._address = "\0" + name[1:] if name.startswith("@") else name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._has_complained = False

    def hear(self, message: str) -> bool:
        try:
            self._socket.sendto(message.encode("utf-8", "backslashreplace"), self._address)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.ENOBUFS):
                return False
            if not self._has_complained:
                log.warning("cannot notify the service manager at NOTIFY_SOCKET: %s", error.strerror or error)
            self._has_complained = True
        return True

    def close(self) -> None:
        self._socket.close()


class Told(enum.Enum):
    """What was said last of the server's life."""

    NOTHING = "nothing"
    READY = "READY=1"
    RELOADING = "RELOADING=1"
    STOPPING = "STOPPING=1"


class Notifier:
    """Follows the server and says what has changed."""

    def __init__(
        self, ear: Ear | None = None, watchdog: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Say nothing yet.

        Args:
            ear: None: nobody wants to know.
            watchdog: seconds without a sign of life after which the server is taken for dead; 0: none is wanted.
            clock: CLOCK_MONOTONIC.
        """
        self._ear = ear
        self._clock = clock
        self._period = max(watchdog / 2, LEAST_BEAT_SECONDS) if watchdog else 0.0
        self._beat_at = clock()
        self._told = Told.NOTHING
        self._begun = 0  # reloads that were spoken of
        self._status = ""
        self._status_at = -math.inf
        self._unsent: list[str] = []

    def deadlines(self) -> Iterator[float]:
        """Return when a sign of life is due."""
        if self._ear is not None and self._period:
            yield self._beat_at

    def follow(self, course: Course, reloads: Reloads, crew: Crew) -> None:
        """Say what has changed since the last call."""
        if self._ear is None:
            return
        now = self._clock()
        for told in self._changes(course, reloads, crew):
            self._told = told
            self._status, self._status_at = describe(course, reloads, crew), now
            stamp = f"\nMONOTONIC_USEC={int(now * 1e6)}" if told is Told.RELOADING else ""
            self._say(f"{told.value}{stamp}\nSTATUS={self._status}")
        if self._period and now >= self._beat_at:
            self._beat_at = now + self._period
            self._say(BEAT)
            self._flush()
        if now >= self._status_at + STATUS_SECONDS and not self._unsent:
            status = describe(course, reloads, crew)
            if status != self._status:
                self._status, self._status_at = status, now
                self._say(f"STATUS={status}")
        self._flush()

    def _changes(self, course: Course, reloads: Reloads, crew: Crew) -> list[Told]:
        """Return what is to be said; a reload may have begun and ended within one step of the master."""
        target, is_reloading = course.target, reloads.running is not None
        if course.ending:
            return [] if self._told is Told.STOPPING else [Told.STOPPING]
        if self._told is Told.NOTHING:
            self._begun = reloads.begun - is_reloading
            return [Told.READY] if crew.roster.is_full(target.count, target.generation) else []
        changes = []
        if reloads.begun != self._begun:
            self._begun = reloads.begun
            changes.append(Told.RELOADING)
        if not is_reloading and (changes or self._told is Told.RELOADING):
            changes.append(Told.READY)
        return changes

    def _say(self, message: str) -> None:
        if message != BEAT or message not in self._unsent:
            self._unsent = [*self._unsent, message][-MAX_UNSENT:]

    def _flush(self) -> None:
        while self._ear is not None and self._unsent and self._ear.hear(self._unsent[0]):
            del self._unsent[0]

    def close(self) -> None:
        if self._ear is not None:
            self._ear.close()


def describe(course: Course, reloads: Reloads, crew: Crew) -> str:
    """Return one line for people."""
    roster, target = crew.roster, course.target
    connections = _count(sum(record.link.page[Cell.OPEN] for record in roster.records), "connection")
    if course.ending:
        return f"stopping: {_count(len(roster.records), 'worker')}, {connections}"
    serving = len(roster.of_generation(target.generation, State.READY, State.PAUSED))
    missing = f"{serving} of " if serving < target.count else ""
    line = f"{missing}{_count(target.count, 'worker')} of generation {target.generation}, {connections}"
    if reloads.running is not None:
        line = f"reloading, {reloads.running.status()['phase']}: {line}"
    elif reloads.last is not None and reloads.last.verdict == "refused":
        line = f"{line}; the last reload was refused: {reloads.last.reason}"
    return " ".join(line.split())[:MAX_STATUS]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def take_notifier(environ: MutableMapping[str, str]) -> Notifier:
    """Find out who wants to know, and keep it from the programs that apps start.

    Args:
        environ: NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID are taken out of it, sd_watchdog_enabled(3).

    Raises:
        OSError: no descriptor is left.
    """
    name, usec, pid = (environ.pop(key, "") for key in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"))
    if not name:
        return Notifier()
    if name[0] not in "/@" or len(name) < 2:
        log.warning("cannot notify the service manager at NOTIFY_SOCKET=%s: it is no path and no @name", name)
        return Notifier()
    is_watched = usec.isdecimal() and pid in ("", str(os.getpid()))
    return Notifier(NotifySocket(name), int(usec) / 1e6 if is_watched else 0.0)
