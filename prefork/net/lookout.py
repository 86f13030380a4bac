"""The lookout: says where the loop stands still, while it does.

It is called from within a signal handler of the loop's own thread, with the frame at which that is. It answers for
nobody's liveness: the beat is the loop's own.

Knows: the loop's turns, the frame that an alarm met, connections. Does not know: alarms, what is done about it.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any

from prefork.net.connection import Connection
from prefork.net.fold import Fold
from prefork.net.service import Worksite
from prefork.net.transport import StreamTransport

MAX_FRAMES = 40  # the innermost
MAX_STACK = 16_384  # characters
AGAIN_SECONDS = 0.05
LOGGING = frozenset(("prefork.log", "logging", "logging.handlers", "queue"))
LOOP = asyncio.BaseEventLoop.run_forever.__code__  # what lies below is of the process, not of the turn
OURS = "prefork.net"
CARRIERS = ("self", "transport")  # names under which frames of ours hold the connection that they serve

log = logging.getLogger("prefork.loop")


class Lookout:
    """Watches the loop of the thread that makes it."""

    def __init__(self, site: Worksite, limit: float) -> None:
        """Look at nothing yet.

        Args:
            limit: seconds; a turn that takes longer is told. 0: none is.
        """
        self._site = site
        self._limit = limit
        self._told = 0.0  # when the turn began that was told last
        self._fold = Fold()  # of the alarm: it may come while the loop uses the worker's own

    def look(self, frame: FrameType | None, now: float) -> float:
        """Tell of the turn that is under way, if it is time; return when to look again, in seconds.

        Args:
            frame: at which the loop's thread is.
            now: CLOCK_MONOTONIC.
        """
        began = self._site.selector.turn_since
        if began is None or began == self._told:
            self._fold.flush(now)
            return self._limit if began is None else max(self._limit, now - began)  # each alarm wakes the loop
        rest = began + self._limit - now
        if rest > 0:
            return rest
        frames = list(walk(frame))
        if any(one.f_globals.get("__name__") in LOGGING for one, _ in frames):
            return AGAIN_SECONDS  # the log is slow, would get a line within a line, or holds a lock of the app's
        if frames:
            self._told = began
            self._tell(frames, find_connection(frames, self._site), now)
        return self._limit

    def _tell(self, frames: list[tuple[FrameType, int]], transport: StreamTransport | None, now: float) -> None:
        code = frames[0][0].f_code
        place = f"a slow turn in {code.co_qualname} ({code.co_filename}:{code.co_firstlineno})"
        if not self._fold.admits("loop", place, now):
            return
        summary = traceback.StackSummary.extract(iter(frames[:MAX_FRAMES]))
        summary.reverse()
        fields = {"detail": "".join(summary.format())[-MAX_STACK:]}
        where = ""
        if transport is not None:
            fields |= transport.service.about(transport.peer, transport.serial)
            where = f", on connection {fields['conn']} from {fields['peer']}"
        milliseconds = f"{self._limit * 1e3:g}"
        log.warning(
            "a turn of the loop takes longer than %s ms (log.slow_turn)%s", milliseconds, where, extra=fields
        )


def walk(frame: FrameType | None) -> Iterator[tuple[FrameType, int]]:
    """Yield the frames of a turn, the innermost first, and the line at which each is."""
    while frame is not None and frame.f_code is not LOOP:
        yield frame, frame.f_lineno
        frame = frame.f_back


def find_connection(frames: list[tuple[FrameType, int]], site: Worksite) -> StreamTransport | None:
    """Return the connection that a turn serves, if it can be known.

    The locals of the app's own frames are left alone: up to Python 3.12 a look at them keeps what they hold
    for as long as the frame lives, which of a coroutine is long.
    """
    ours = [frame.f_locals for frame, _ in reversed(frames) if frame.f_globals.get("__package__") == OURS]
    found = (variables.get(name) for variables in ours for name in CARRIERS)
    served = next((carrier for carrier in found if isinstance(carrier, StreamTransport)), None)
    return served or find_by_task(asyncio.current_task(site.loop), site)


def find_by_task(task: asyncio.Task[Any] | None, site: Worksite) -> StreamTransport | None:
    """Return the connection whose handler a task is."""
    watchers = [w for w in list(site.selector.watchers.values()) if isinstance(w, StreamTransport)]
    for watcher in watchers if task is not None else ():
        protocol = watcher.get_protocol()
        if isinstance(protocol, Connection) and protocol.is_run_by(task):
            return watcher
    return None
