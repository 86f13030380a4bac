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
from itertools import count
from typing import Any

from prefork.config.model import Limits
from prefork.errors import RemoteProtocolError
from prefork.framing import Complaint, Decoder, Framing
from prefork.net.fold import Fold
from prefork.net.loop import Selector
from prefork.net.tally import Tally
from prefork.scoreboard import Cell
from prefork.tls import Security

BLOCKING_THREADS = 16  # per worker, started on demand; each waiting call holds one connection's handler
QUIET_SECONDS = 1.0  # a request that is under way after this much silence is rarer than a lost packet
# What user code may raise at the price of one connection.
USER_ERRORS = (Exception, SystemExit, asyncio.CancelledError)
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
    fold: Fold = field(default_factory=Fold)
    handshakes: dict[str, dict[Any, None]] = field(default_factory=dict)  # under way by listener, the oldest first
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

    def __init__(self, name: str, limits: Limits, framing: Framing | None, site: Worksite) -> None:
        self.name = name
        self.limits = limits
        self.framing = framing
        self.site = site
        self.make_protocol: ProtocolFactory = asyncio.Protocol
        self.now = site.now  # of the last pulse, CLOCK_MONOTONIC: touching a connection costs no clock call
        self.nothing = site.nothing
        self.security: Security | None = None  # with it TLS is spoken, at once or when the app asks for it
        self.departures: Departures | None = None  # while the worker drains
        self.open = 0
        self.waiting: Callable[[], None] | None = None  # called when there is room again
        self._serial = count(1)

    @property
    def is_full(self) -> bool:
        return self.open >= self.limits.connections

    @property
    def log(self) -> logging.Logger:
        return logging.getLogger(f"prefork.{self.name}")

    def next_serial(self) -> int:
        """Count a new connection; return its number in this worker and listener."""
        self.open += 1
        self.site.tally.count_opened()
        return next(self._serial)

    def count_closed(self, transport: object = None) -> None:
        self.open -= 1
        self.site.tally.count_closed()
        if self.waiting is not None and not self.is_full:
            resume, self.waiting = self.waiting, None
            resume()
        if self.departures is not None:
            self.departures.forget(transport)
            self.site.check_empty()

    def name_connection(self, serial: int) -> str:
        """Return the id of a connection, unique over workers and generations: `echo-0.g3.4711-12`."""
        return f"{self.name}-{self.site.label}-{serial}"

    def report_timeout(self, reason: str, serial: int, peer: object) -> None:
        """Count a connection that a deadline ends."""
        self.site.tally.count(Cell.TIMED_OUT)
        self.log.debug("connection %s from %s timed out: %s", self.name_connection(serial), peer, reason)

    def report_error(self, error: BaseException, serial: int, peer: object) -> None:
        """Log an exception of user code, which costs one connection."""
        self.site.tally.count(Cell.ERRORS)
        self.log.error(
            "the app failed on connection %s from %s: %s: %s",
            self.name_connection(serial),
            peer,
            type(error).__name__,
            error,
            exc_info=error,
        )

    def tell_peer(self, what: str, serial: int, peer: object) -> None:
        """Log why a peer is refused, in one line; many refusals for one reason are folded."""
        if self.site.fold.admits(self.name, re.sub("[0-9]+", "#", what), self.site.now):
            self.log.info("connection %s from %s refused: %s", self.name_connection(serial), peer, what)

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
        self.site.tally.count(Cell.SKIPPED)
        if complaint.error is not None:
            self.site.tally.count(Cell.ERRORS)
        if self.site.fold.admits(self.name, complaint.reason, self.site.now):
            level = logging.INFO if complaint.error is None else logging.ERROR
            name = self.name_connection(transport.serial)
            message = "a frame of %s from %s was passed over: %s"
            self.log.log(level, message, name, transport.peer, complaint.reason, exc_info=complaint.error)
        if complaint.answer:
            transport.write(complaint.answer)

    def report_datagram(self, error: BaseException | None, peer: object) -> None:
        """Log an exception of user code, which costs one datagram."""
        self.site.tally.count(Cell.ERRORS)
        self.log.error(
            "the app failed on a datagram from %s: %s: %s", peer, type(error).__name__, error, exc_info=error
        )

    def report_peer(self, error: BaseException, serial: int, peer: object) -> None:
        """Log a fault of the peer in one line: it is no news for a traceback."""
        self.site.tally.count(Cell.BROKEN)
        if isinstance(error, RemoteProtocolError):
            self.tell_peer(str(error), serial, peer)
            return
        self.log.debug(
            "connection %s from %s ended: %s: %s",
            self.name_connection(serial),
            peer,
            type(error).__name__,
            error,
        )
