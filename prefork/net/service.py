"""What one listener serves in one worker: all that its connections share.

Knows: the protocol factory, the limits, the open transports, whether a drain has begun.
Does not know: descriptors, bytes, other workers.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from prefork.config.limits import Limits
from prefork.errors import FrameLimitError, RemoteProtocolError
from prefork.framing import Complaint, Decoder, Framing
from prefork.net.guard import Guard
from prefork.net.journal import Journal
from prefork.net.ledger import Ledger
from prefork.net.loop import Selector
from prefork.net.peer import name_peer
from prefork.net.pressure import Pressure, shed
from prefork.net.tally import Tally
from prefork.scoreboard import Count, Rule
from prefork.tls import Security

BLOCKING_THREADS = 16  # per worker, started on demand; each waiting call holds one connection's handler
QUIET_SECONDS = 1.0  # a request that is under way after this much silence is rarer than a lost packet
# What user code may raise at the price of one connection.
USER_ERRORS = (Exception, SystemExit, asyncio.CancelledError)
MOST_TRACEBACKS = 20  # of one place in the app in 10 s
EVERYDAY = frozenset({Rule.IDLE, Rule.LIFE})  # no sign of anything wrong
REASONS = {
    Rule.DENY: "its network may not connect (allow, deny)",
    Rule.BAN: "its network is banned",
    Rule.CONNECTIONS: "limits.connections is reached",
    Rule.PER_IP: "its source has limits.per_ip connections",
    Rule.PER_IP_RATE: "its source connects faster than limits.per_ip_rate",
    Rule.RATE: "connections come faster than limits.rate",
    Rule.DESCRIPTORS: "the worker has as many connections as leave the app a fifth of its descriptors",
    Rule.MEMORY: "the server is short of memory",
    Rule.PROXY: "its PROXY header is missing, wrong, or not expected",
    Rule.HANDSHAKE: "limits.handshake has passed",
    Rule.IDLE: "no byte went in or out for limits.idle",
    Rule.MESSAGE: "a frame did not end within limits.message",
    Rule.MIN_RATE: "it takes or sends less than limits.min_rate",
    Rule.LIFE: "it is older than limits.life",
    Rule.BUFFER: "it does not read: limits.buffer is full",
    Rule.BUFFERS: "limits.buffers is full, and it is the slowest reader",
    Rule.HANDSHAKES: "limits.handshakes is reached, and it is the oldest",
    Rule.FRAME: "a frame is over limits.frame",
    Rule.AMPLIFICATION: "the answer is larger than limits.amplification allows",
}
ProtocolFactory = Callable[[], asyncio.BaseProtocol]


class Draining:
    """A flag that can be awaited: true once the worker has been asked to finish what is open."""

    def __init__(self) -> None:
        self.begun = False
        self._event = asyncio.Event()

    def begin(self) -> None:
        self.begun = True
        self._event.set()

    def __bool__(self) -> bool:
        return self.begun

    def __await__(self) -> Generator[Any, Any, None]:
        yield from self._event.wait().__await__()


@dataclass(slots=True)
class Worksite:
    """What all services of a worker share: its loop, its counters, its drain, its coarse clock."""

    loop: asyncio.AbstractEventLoop
    selector: Selector
    tally: Tally
    draining: Draining
    label: str = "worker"
    now: float = field(default_factory=time.monotonic)  # of the last pulse
    nothing: asyncio.Future[None] = field(init=False)  # what an awaitable that need not wait returns
    pool: ThreadPoolExecutor = field(init=False)
    handlers: int = 0  # coroutine handlers at work
    journal: Journal = field(default_factory=Journal)
    pressure: Pressure = field(default_factory=Pressure)
    on_empty: Callable[[], None] | None = None  # called when a draining worker has nothing open

    def __post_init__(self) -> None:
        self.nothing = self.loop.create_future()
        self.nothing.set_result(None)
        self.pool = ThreadPoolExecutor(BLOCKING_THREADS, thread_name_prefix="prefork-blocking")

    def check_empty(self) -> None:
        """Tell the one who waits for it that nothing is open any more."""
        if self.on_empty is not None and not self.tally.open and not self.handlers:
            self.on_empty()


class Departures:
    """When the connections of a draining worker may end."""

    def __init__(self) -> None:
        self._times: dict[object, float] = {}
        self.window: tuple[float, float] | None = None  # CLOCK_MONOTONIC; None: nobody may end yet

    def pick(self) -> float:
        """Return a random time within the window."""
        assert self.window is not None
        return random.uniform(*self.window)

    def allow(self, transport: object, at: float) -> None:
        """Let a connection end between two exchanges from a time on, CLOCK_MONOTONIC."""
        self._times[transport] = at

    def forget(self, transport: object) -> None:
        """Take note that a connection was told to end, or has ended."""
        self._times.pop(transport, None)

    def is_due(self, transport: Any) -> bool:
        """Whether a connection that has just answered may say that this was its last answer."""
        at = self._times.get(transport)
        is_due = at is not None and transport.has_answered and time.monotonic() >= at
        return is_due and not transport.is_mid_frame

    def is_quiet_due(self, transport: Any, quiet: float, now: float) -> bool:
        """Whether a connection has been idle for so long that a request is hardly on its way."""
        at = self._times.get(transport)
        is_due = at is not None and transport.owes is not True and quiet >= QUIET_SECONDS and now >= at
        return is_due and not transport.is_mid_frame and not transport.get_write_buffer_size()


class Service:
    """One listener's app and limits in one worker."""

    def __init__(self, name: str, limits: Limits, framing: Framing | None, site: Worksite, place: int = 0) -> None:
        """Serve nobody yet.

        Args:
            place: of the listener in the config.
        """
        self.name = name
        self.limits = limits
        self.framing = framing
        self.site = site
        self.make_protocol: ProtocolFactory = asyncio.Protocol
        self.now = site.now  # of the last pulse, CLOCK_MONOTONIC: touching a connection costs no clock call
        self.nothing = site.nothing
        self.security: Security | None = None  # with it TLS is spoken, at once or when the app asks for it
        self.departures: Departures | None = None  # while the worker drains
        self.waiting: Callable[[], None] | None = None  # called when there is room again
        self.ledger = Ledger(site.tally, place)
        self.guard: Guard | None = None  # None: whoever connects has no address

    @property
    def is_full(self) -> bool:
        return self.ledger.open >= self.limits.connections

    @property
    def has_to_wait(self) -> bool:
        """Whether those who come while it is full stay in the kernel's queue."""
        return self.limits.when_full == "wait" and "connections" not in self.limits.dry_run

    @property
    def log(self) -> logging.Logger:
        return logging.getLogger(f"prefork.{self.name}")

    def count_closed(self, serial: int, reason: str = "", transport: object = None) -> None:
        """Take note that a connection has ended, and why, see `prefork.scoreboard.End`."""
        guard = self.guard
        self.ledger.count_closed(reason)
        if guard is not None and (guard.claims or guard.headers):
            guard.release(serial)
        if self.ledger.tried:
            self.ledger.forget(serial)
        if self.waiting is not None and not self.is_full:
            resume, self.waiting = self.waiting, None
            resume()
        if self.departures is not None:
            self.departures.forget(transport)
            self.site.check_empty()

    def count_kept(self, size: int) -> None:
        """Take note of bytes that a peer was too slow for."""
        ledger = self.ledger
        ledger.kept += size
        if ledger.kept > self.limits.buffers:
            ledger.kept, gone = shed(self.transports(), self.limits.buffers)
            for transport in gone:
                if self.enforces_once(Rule.BUFFERS, transport.serial, transport.peer):
                    transport.evict_soon(Rule.BUFFERS.key)
                else:
                    ledger.kept = 0  # they stay: they are looked at again when as much more has come

    def transports(self) -> list[Any]:
        """Return the open connections."""
        return [w for w in self.site.selector.watchers.values() if getattr(w, "service", None) is self]

    def note_end(self, transport: Any) -> None:
        """Write down what there is to say of a connection whose protocol is through with it."""
        now = time.monotonic()
        transport.tell_bytes()
        self.ledger.note_end(now - transport.born)
        journal = self.site.journal
        if journal.share:
            journal.note_end(transport, now)

    def enforces(self, rule: Rule, peer: object, is_told: bool = False) -> bool:
        """Count what runs against a rule, and tell it, folded; return False if the rule is only tried.

        Args:
            is_told: the caller tells it, if it is held.
        """
        is_dry = rule.key in self.limits.dry_run
        self.ledger.count_rule(rule, is_dry)
        kind = f"{rule.key} (dry run)" if is_dry else rule.key
        if (is_dry or not is_told) and self.site.journal.admits(self.name, kind, self.site.now):
            level = logging.DEBUG if rule in EVERYDAY else logging.INFO
            verdict = "would be refused" if is_dry else "refused"
            words = "connection from %s %s: %s"
            self.log.log(level, words, name_peer(peer), verdict, REASONS[rule], extra=self.about(peer))
        return not is_dry

    def enforces_once(self, rule: Rule, serial: int, peer: object, is_told: bool = False) -> bool:
        """Do the same for a connection that is looked at again and again: a dry run counts it once."""
        is_dry = rule.key in self.limits.dry_run
        is_known = is_dry and not self.ledger.is_first_try(serial, rule)
        return not is_known and self.enforces(rule, peer, is_told)

    def about(self, peer: object, serial: int | None = None) -> dict[str, str]:
        """Return the fields of a log record: of which listener, and of whom, it is."""
        conn = {} if serial is None else {"conn": self.name_connection(serial)}
        return conn | {"peer": name_peer(peer), "listener": self.name}

    def name_connection(self, serial: int) -> str:
        """Return the id of a connection, unique over workers and generations: `echo-0.g3.4711-12`."""
        return f"{self.name}-{self.site.label}-{serial}"

    def report_timeout(self, reason: str, serial: int, peer: object) -> None:
        """Count a connection that a deadline ends."""
        self.ledger.count(Count.TIMED_OUT)
        if not self.log.isEnabledFor(logging.DEBUG):  # thousands may be too late at once
            return
        fields = self.about(peer, serial)
        words = "connection %s from %s timed out: %s"
        self.log.debug(words, fields["conn"], fields["peer"], reason, extra=fields)

    def report_error(self, error: BaseException, serial: int, peer: object) -> None:
        """Log an exception of user code, which costs one connection."""
        self.ledger.count(Count.ERRORS)
        if not self._is_told(error):
            return
        fields = self.about(peer, serial)
        words, kind = "the app failed on connection %s from %s: %s: %s", type(error).__name__
        self.log.error(words, fields["conn"], fields["peer"], kind, error, exc_info=error, extra=fields)

    def _is_told(self, error: BaseException | None) -> bool:
        """Whether an exception is logged: a client that provokes one again and again does not fill a disk."""
        trace = None if error is None else error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        place = "" if trace is None else f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        kind = f"{type(error).__name__}{place}"
        return self.site.journal.admits(self.name, kind, self.site.now, MOST_TRACEBACKS)

    def tell_peer(self, what: str, serial: int, peer: object) -> None:
        """Log why a peer is refused, in one line; many refusals for one reason are folded."""
        if self.site.journal.admits(self.name, re.sub("[0-9]+", "#", what), self.site.now):
            fields = self.about(peer, serial)
            words = "connection %s from %s refused: %s"
            self.log.info(words, fields["conn"], fields["peer"], what, extra=fields)

    def when_begun(self, before: float | None, decoder: Decoder) -> float | None:
        """Return when the frame that is not whole yet began to arrive; None: there is none.

        Args:
            before: what this said the last time.
        """
        if not decoder.pending:
            return None
        return self.now if decoder.has_begun or before is None else before

    def check_end(self, decoder: Decoder, transport: Any) -> None:
        """Count an input that ended within a frame."""
        if decoder.pending:
            error = RemoteProtocolError("the input ended within a frame")
            self.report_peer(error, transport.serial, transport.peer)

    def answer_complaint(self, complaint: Complaint, transport: Any) -> None:
        """Count a frame that was passed over, and tell its sender if the config wants that."""
        self.ledger.count(Count.SKIPPED)
        if complaint.is_over:
            self.ledger.count_rule(Rule.FRAME, is_dry=False)
        if complaint.error is not None:
            self.ledger.count(Count.ERRORS)
        if self.site.journal.admits(self.name, complaint.reason, self.site.now):
            level = logging.INFO if complaint.error is None else logging.ERROR
            fields = self.about(transport.peer, transport.serial)
            told = (fields["conn"], fields["peer"], complaint.reason)
            words = "a frame of %s from %s was passed over: %s"
            self.log.log(level, words, *told, exc_info=complaint.error, extra=fields)
        if complaint.answer:
            transport.write(complaint.answer)

    def report_datagram(self, error: BaseException | None, peer: object) -> None:
        """Log an exception of user code, which costs one datagram."""
        self.ledger.count(Count.ERRORS)
        if not self._is_told(error):
            return
        fields = self.about(peer)
        words, kind = "the app failed on a datagram from %s: %s: %s", type(error).__name__
        self.log.error(words, fields["peer"], kind, error, exc_info=error, extra=fields)

    def report_peer(self, error: BaseException, serial: int, peer: object) -> None:
        """Log a fault of the peer in one line: it is no news for a traceback."""
        self.ledger.count(Count.BROKEN)
        if isinstance(error, FrameLimitError):
            self.ledger.count_rule(Rule.FRAME, is_dry=False)
        if isinstance(error, RemoteProtocolError):
            self.tell_peer(str(error), serial, peer)
            return
        if self.log.isEnabledFor(logging.DEBUG):
            fields = self.about(peer, serial)
            words = "connection %s from %s ended: %s: %s"
            self.log.debug(words, fields["conn"], fields["peer"], type(error).__name__, error, extra=fields)
