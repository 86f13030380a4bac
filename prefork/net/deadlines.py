"""The clocks of a connection: idle, message, rate, age; looked at once a second, they cost nothing per byte.

Knows: one connection's times, and how much of what it was sent was taken. Does not know: who calls, bytes.
"""

from __future__ import annotations

import socket
import sys
import time
from abc import abstractmethod
from typing import Any

from prefork.net.loop import READABLE
from prefork.net.outlet import CLOSING, OPEN, Outlet
from prefork.net.service import Service
from prefork.scoreboard import Rule

STALLED_SECONDS = 30.0  # for a closing connection whose peer takes nothing; TCP_USER_TIMEOUT's common choice
GRACE_SECONDS = 5.0  # before a rate is asked for; Kestrel's MinDataRate has the same
RATE_SECONDS = 13.0  # over which it is judged, grace included: a peer's kernel tells of its reading in large steps
COARSE_SECONDS = 0.25  # of the clock that bytes, and a frame's begin, are told by
SLOW_FRAME_BYTES = 1024  # of a frame; less may be somebody who types, and limits.message ends that
BYTES_ACKED = 120  # offset of tcpi_bytes_acked in struct tcp_info, linux/tcp.h
LIFE_JITTER = 0.1
LAST_ANSWER_SHARE = 0.1  # of its life, for a connection that is too old to say its last words,
LEAST_LAST_ANSWER_SECONDS, MOST_LAST_ANSWER_SECONDS = 1.0, 30.0  # and the bounds of that
GOLDEN = 0.618034  # spreads numbers that come in a row


class TimedOutlet(Outlet):
    """The part of a transport that grows old.

    Attributes:
        peer: the peer's address as accept(2) gave it, or as its PROXY header has it.
        serial: its number in this worker and listener.
        reason: why it ends, in a word; empty: it was done.
        born: when it was made, CLOCK_MONOTONIC.
    """

    __slots__ = ("_told_received", "_told_sent", "born", "peer", "reason", "serial")

    def __init__(self, sock: socket.socket, peer: Any, service: Service, serial: int) -> None:
        super().__init__(sock, service)
        self.peer = peer
        self.serial = serial
        self.born = time.monotonic()
        self.reason = ""
        self._told_received = self._told_sent = 0

    @abstractmethod
    def drain(self, leave_at: float) -> None:
        """Begin to look for the end of an exchange."""

    def sweep(self, now: float) -> None:
        """Look at the deadlines; called about once a second.

        Args:
            now: CLOCK_MONOTONIC.
        """
        departures, limits = self._service.departures, self._service.limits
        quiet = now - self.touched
        self.tell_bytes()
        if departures is not None and departures.is_quiet_due(self, quiet, now) and not self.has_arrived():
            self.leave()
        is_ended = (
            self._judge_silence(quiet)
            or (self._buffer is not None and self._is_slow_reader(now) and self._time_out(Rule.MIN_RATE))
            or (self._mask & READABLE and self._judge_frame(now))
        )
        if not is_ended and 0 < limits.life < now - self.born and self._phase < CLOSING:
            self._grow_old(now)

    def continue_from(self, before: TimedOutlet) -> None:
        """Take over age and bytes of the transport that this one takes the place of."""
        before.tell_bytes()
        self.born, self.received, self.sent = before.born, before.received, before.sent
        self._told_received, self._told_sent = before.received, before.sent

    def tell_bytes(self) -> None:
        """Have what has moved since the last time counted."""
        received, sent = self.received - self._told_received, self.sent - self._told_sent
        if received or sent:
            self._told_received, self._told_sent = self.received, self.sent
            self._service.ledger.count_bytes(received, sent)

    def _judge_silence(self, quiet: float) -> bool:
        """End a connection on which nothing has happened for too long; return whether it has ended."""
        if 0 < self._service.limits.idle < quiet - COARSE_SECONDS and not self.is_busy and not self.has_arrived():
            return self._time_out(Rule.IDLE)
        if self._phase == CLOSING and quiet > STALLED_SECONDS:
            self.reason = "stalled"
            words = f"the peer took nothing for {STALLED_SECONDS} s"
            self._service.report_timeout(words, self.serial, self.peer)
            self._lose(None)
            return True
        return False

    def _judge_frame(self, now: float) -> bool:
        """End a connection whose frame takes too long to come; return whether it has ended."""
        begun = getattr(self._protocol, "frame_begun", None)
        if begun is None:
            return False
        limits, age = self._service.limits, now - begun - COARSE_SECONDS
        if 0 < limits.message < age and self._time_out(Rule.MESSAGE):
            return True
        is_slow = age > RATE_SECONDS and SLOW_FRAME_BYTES <= self._protocol.pending_bytes < age * limits.min_rate
        return is_slow and self._time_out(Rule.MIN_RATE)

    def _is_slow_reader(self, now: float) -> bool:
        """Whether the peer has taken too little of what waits for it, for long enough to say so."""
        buffer, min_rate = self._buffer, self._service.limits.min_rate
        if buffer is None or not buffer.size:
            if buffer is not None:
                buffer.watched_at = None
            return False
        self._check_size(buffer)
        if not min_rate:
            return False
        taken = self._count_taken(buffer.taken)
        if buffer.watched_at is None or buffer.watched_at < self._service.site.pressure.awoke_at:
            buffer.watched_at, buffer.taken_before = now, None
            return False
        waited = now - buffer.watched_at
        if buffer.taken_before is None:  # what the peer's kernel has room for is no sign of its reading
            buffer.taken_before = taken if waited >= GRACE_SECONDS else None
        elif waited >= RATE_SECONDS:
            is_slow = taken - buffer.taken_before < min_rate * (RATE_SECONDS - GRACE_SECONDS)
            buffer.watched_at, buffer.taken_before = now - GRACE_SECONDS, taken
            return is_slow
        return False

    def _count_taken(self, given: int) -> int:
        """Return how many bytes the peer's kernel has taken, or, where that is not known, ours has."""
        if self._socket.family == socket.AF_UNIX:
            return given
        told = socket.socket.getsockopt(self._socket, socket.IPPROTO_TCP, socket.TCP_INFO, BYTES_ACKED + 8)
        return int.from_bytes(told[BYTES_ACKED:], sys.byteorder) if len(told) == BYTES_ACKED + 8 else given

    @property
    def is_busy(self) -> bool:
        """Whether a handler is at work for it, and not waiting for the peer."""
        return bool(getattr(self._protocol, "is_busy", False))

    def _life(self) -> float:
        """Return the age that it may have, up to a tenth over the limit: not all are to end at once."""
        return self._service.limits.life * (1 + LIFE_JITTER * (self.serial * GOLDEN % 1))

    def _grow_old(self, now: float) -> None:
        """Ask it to end behind its next answer, and, if it does not, end it."""
        over = now - self.born - self._life()
        if self.reason != Rule.LIFE.key:
            if over > 0 and self._phase == OPEN and self._service.enforces_once(Rule.LIFE, self.serial, self.peer):
                self.reason = Rule.LIFE.key
                self.drain(now)
            return
        share = self._service.limits.life * LAST_ANSWER_SHARE
        if over > min(MOST_LAST_ANSWER_SECONDS, max(LEAST_LAST_ANSWER_SECONDS, share)):
            self._service.report_timeout(Rule.LIFE.key, self.serial, self.peer)
            self._lose(None)

    def has_arrived(self) -> bool:
        """Whether bytes wait to be read: where the loop has stood still, the silence was only ours."""
        try:
            return self._mask & READABLE != 0 and len(socket.socket.recv(self._socket, 1, socket.MSG_PEEK)) > 0
        except OSError:
            return False

    def _time_out(self, rule: Rule) -> bool:
        """End it for a rule; return False if that is only tried."""
        if not self._service.enforces_once(rule, self.serial, self.peer):
            return False
        self.reason = rule.key
        self._service.report_timeout(rule.key, self.serial, self.peer)
        self._lose(None)
        return True

    def _has_to_read(self) -> bool:
        has_to = self._service.enforces_once(Rule.BUFFER, self.serial, self.peer)
        self.reason = Rule.BUFFER.key if has_to else self.reason
        return has_to

    def evict(self, reason: str) -> None:
        """End it now for the sake of others; not from within its own events."""
        self.reason = reason
        self._lose(None)

    def evict_soon(self, reason: str) -> None:
        """End it for the sake of others, or of an order; who calls has counted why."""
        self.reason = reason
        self._lose_soon(None)
