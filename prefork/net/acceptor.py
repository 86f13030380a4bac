"""Takes new connections from a listening socket, in batches, and survives the want of descriptors.

A worker is first at its own sockets and second at a neighbour's: as second it leaves a connection to the
first for a moment, and takes what is still there then. So no connection waits for a worker that is dead,
stopped or busy, and a healthy one is not raced for its own. A first that has many more connections than its
partner leaves the next ones to it: so long-lived connections even out, after a crash too.

Knows: one listening socket, the service behind it. Does not know: slots, which worker is whose neighbour.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prefork.net.entrance import enter, evicts
from prefork.net.loop import EDGE, EXCLUSIVE, READABLE
from prefork.net.peer import read_credentials
from prefork.net.service import Service
from prefork.scoreboard import Cell, Count, Page
from prefork.watch import Watch

ACCEPTS_PER_EVENT = 64  # then others have their turn; epoll reports the rest again
BATCH_SECONDS = 0.001  # of one event, where an accept takes long
BATCHES = {Watch.FIRST: ACCEPTS_PER_EVENT, Watch.SECOND: ACCEPTS_PER_EVENT, Watch.SHARED: 1}
MASKS = {Watch.FIRST: READABLE, Watch.SECOND: READABLE | EDGE, Watch.SHARED: READABLE | EXCLUSIVE}
HEAD_START_SECONDS = 0.010  # of the first worker; a fifth of what a person notices, ten turns of a busy loop
YIELD_SECONDS = 0.005  # of a first worker that has many more connections than its partner, to the partner
FULL_SECONDS = 3 * HEAD_START_SECONDS  # of a full worker, to the partner: as second it waits for one of these
MAX_FULL_SECONDS = 1.0  # of a full worker, to a partner that has not been round its loop since
MARGIN, MARGIN_SHARE = 4, 32  # how many more: this number, and this part of its own
EXHAUSTED_SECONDS = 0.1  # until accept is tried again without a descriptor to spare
SHORT_SECONDS = 0.25  # until it is tried again without memory to spare
EPISODE_SECONDS = 5.0  # of one want of descriptors, from its last sign
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Reserve:
    """A descriptor kept for the case that there is no other: it lets a client be told to go."""

    def __init__(self) -> None:
        self._fd = self._open()
        self._told_at = -EPISODE_SECONDS

    def tell(self, log: logging.Logger, error: OSError, now: float) -> None:
        """Say once per episode that there is no descriptor or memory for new connections."""
        if now - self._told_at > EPISODE_SECONDS:
            log.error("cannot accept new connections: %s; they are told to go. Raise `ulimit -n`", error)
        self._told_at = now

    @staticmethod
    def _open() -> int:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def turn_away(self, listening: socket.socket) -> bool:
        """Accept and close one connection in place of the spare descriptor; return whether there was one."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        try:
            listening.accept()[0].close()
            was_there = True
        except OSError:
            was_there = False
        try:
            self._fd = self._open()
        except OSError:  # somebody else was faster; the next time it is tried again
            pass
        return was_there

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class ListeningSocket(socket.socket):
    """A listening socket that knows its family and type.

    `socket.accept` asks for both at each call, and `socket.socket` makes an enum of each every time: that is
    more than the rest of accept() costs. It is made of `_accept`, as here, from Python 3.2 to 3.14.
    """

    __slots__ = ("family", "type")

    def __init__(self, fd: int) -> None:
        super().__init__(fileno=fd)
        family, kind = int(socket.socket.family.fget(self)), int(socket.socket.type.fget(self))  # type: ignore[attr-defined]
        self.family, self.type = family, kind  # type: ignore[misc, assignment]

    def accept(self) -> tuple[socket.socket, Any]:
        """Return a new connection, which does not block, and its peer's address."""
        fd, peer = self._accept()  # type: ignore[attr-defined]
        sock = socket.socket(self.family, self.type, self.proto, fd)
        sock.setblocking(False)
        return sock, peer


def is_readable(sock: socket.socket) -> bool:
    """Whether somebody waits to be accepted."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


@dataclass(frozen=True, slots=True)
class Shift:
    """How a socket is watched, and the page of the other worker that watches it too."""

    watch: Watch
    partner: Page | None = None


@dataclass(slots=True)
class Patience:
    """How long a full worker waits for its partner: a laden machine may not let that one run for a while.

    Attributes:
        until: no longer than that, CLOCK_MONOTONIC.
        since: when the partner took somebody last, as far as is known.
        taken: how many the partner has ever taken.
        has_run: the partner has been round its loop since; it may still need its head start.
    """

    until: float
    since: float
    taken: int
    has_run: bool = False

    def is_over(self, partner: Page) -> bool:
        """Whether the partner has had its time, and took nobody."""
        now, taken = time.monotonic(), partner[Cell.ACCEPTED]
        if now >= self.until:
            return True
        if taken != self.taken:
            self.taken, self.since, self.has_run = taken, now, False
            return False
        had_run, self.has_run = self.has_run, partner[Cell.BEAT] > self.since * 1e9
        return had_run


class Acceptor:
    """Watches one listening socket for one service."""

    def __init__(self, listening: socket.socket, service: Service, reserve: Reserve, shift: Shift) -> None:
        self._socket = listening
        self._service = service
        self._reserve = reserve
        self._watch = shift.watch
        self._batch = BATCHES[shift.watch]
        self._partner = shift.partner
        self._is_paused = False
        self._refuses = False  # the partner has had its time
        self._timer: asyncio.TimerHandle | None = None
        self._begin()

    def on_event(self, mask: int) -> None:  # noqa: ARG002  # whatever the event, accept() tells
        if self._is_turn():
            self._accept(self._is_turn)
        elif self._watch is Watch.FIRST:
            self.pause()
            self._take_after(YIELD_SECONDS)
        elif self._timer is None:
            self._take_after(HEAD_START_SECONDS)

    def _is_turn(self) -> bool:
        """Whether the next connection is rather for this worker than for its partner."""
        if self._partner is None:
            return self._watch is not Watch.SECOND
        mine, theirs = self._service.site.tally.open, self._partner[Cell.OPEN]
        return mine < theirs if self._watch is Watch.SECOND else mine <= theirs + MARGIN + mine // MARGIN_SHARE

    def _take_after(self, seconds: float) -> None:
        self._timer = self._service.site.loop.call_later(seconds, self._take_left)

    def _take_left(self) -> None:
        """Take what the partner has left, whosever turn it is."""
        self._timer = None
        self.resume()
        self._accept(lambda: True)

    def _accept(self, may_go_on: Callable[[], bool]) -> None:
        service = self._service
        most, pressure = service.limits.connections, service.site.pressure
        until = time.monotonic() + BATCH_SECONDS
        for _ in range(self._batch):
            if (service.ledger.open >= most or pressure.is_short) and self._leaves_them(service):
                return
            try:
                sock, peer = self._socket.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in EXHAUSTED:
                    self._on_exhausted(error)
                    return
                continue  # this one connection failed on its way, accept(2) lists how: take the next
            if self._socket.family == socket.AF_UNIX:
                peer = read_credentials(sock)
            enter(sock, peer, service)
            if not may_go_on() or time.monotonic() > until:
                break
        if self._watch is Watch.SECOND and self._timer is None:  # an edge is reported once: come back
            self._take_after(HEAD_START_SECONDS)

    def _leaves_them(self, service: Service) -> bool:
        """Whether those who come stay in the kernel's queue for now, since there is no room."""
        if service.is_full and service.has_to_wait:
            self._wait_for_room()
        elif service.is_full and not evicts(service) and self._is_partner_free() and not self._refuses:
            if self._partner is not None and is_readable(self._socket):
                self._leave_to_partner(self._partner)
        elif service.site.pressure.is_short:
            self._look_away(SHORT_SECONDS)
        else:
            return False
        return True

    def _on_exhausted(self, error: OSError) -> None:
        """Tell those who wait that they cannot be served, then look away for a moment."""
        service = self._service
        self._reserve.tell(service.log, error, service.site.loop.time())
        for _ in range(ACCEPTS_PER_EVENT):
            if not self._reserve.turn_away(self._socket):
                break
            service.ledger.count(Count.REFUSED)
        self._look_away(EXHAUSTED_SECONDS)

    def _is_partner_free(self) -> bool:
        return self._partner is not None and not self._partner[Cell.FULL]

    def _leave_to_partner(self, partner: Page) -> None:
        """Refuse nobody before the partner has had the time to take those who wait."""
        self.pause()
        now = time.monotonic()
        patience = Patience(now + MAX_FULL_SECONDS, now, partner[Cell.ACCEPTED])
        self._service.site.loop.call_later(FULL_SECONDS, self._look_at_partner, patience)

    def _look_at_partner(self, patience: Patience) -> None:
        if self._socket.fileno() < 0:
            return
        if not self._service.is_full or not is_readable(self._socket):
            self.resume()
        elif self._partner is None or self._partner[Cell.FULL] or patience.is_over(self._partner):
            self._refuse_left()
        else:
            self._service.site.loop.call_later(FULL_SECONDS, self._look_at_partner, patience)

    def _refuse_left(self) -> None:
        """Refuse those whom the partner has had no room for, if there is still none here."""
        self.resume()
        self._refuses = True
        self._accept(lambda: True)
        self._refuses = False

    def _look_away(self, seconds: float) -> None:
        self.pause()
        self._service.site.loop.call_later(seconds, self.resume)

    def _wait_for_room(self) -> None:
        """Accept again when a connection of this service has ended."""
        before, service = self._service.waiting, self._service

        def resume() -> None:
            self.resume()
            if before is not None:
                before()

        if not self._is_paused:
            self.pause()
            service.waiting = resume

    def pause(self) -> None:
        """Leave new connections in the kernel's queue, for others or for later."""
        if not self._is_paused:
            self._is_paused = True
            self._service.site.selector.unwatch(self._socket.fileno())

    def resume(self) -> None:
        if self._is_paused and self._socket.fileno() >= 0:
            self._is_paused = False
            self._begin()

    def _begin(self) -> None:
        self._service.site.selector.watch(self._socket.fileno(), self, MASKS[self._watch])

    def close(self) -> None:
        self.pause()
        if self._timer is not None:
            self._timer.cancel()
        self._socket.close()
