"""The lookout: a thread beside the loop that says where the loop stands still, while it does.

It only looks. It answers for nobody's liveness: the beat is the loop's own. It wakes once in `log.slow_turn`;
with 0 there is no such thread. A call of C code that keeps the interpreter's lock keeps the lookout from looking:
that is told when it ends, if the turn has not ended with it. Its price is that of any second thread: a table of
descriptors that is shared has each call count references (fdget() of the kernel's fs/file.c), 60 ns or so. And
from Python 3.12 on os.fork() warns in a process with threads. Who minds either sets `log.slow_turn: 0`.

Knows: the loop's turns, its thread's stack, connections. Does not know: what is done about it.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
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
LEAST_WAIT_SECONDS = 0.005
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
        self._watched = threading.get_ident()
        self._told = 0.0  # when the turn began that was told last
        self._fold = Fold()  # of this thread: the worker's own is the loop's
        self._is_over = threading.Event()

    def start(self) -> None:
        if self._limit:
            threading.Thread(target=self._look_out, name="prefork-lookout", daemon=True).start()

    def stop(self) -> None:
        self._is_over.set()

    def _look_out(self) -> None:
        wait = self._limit
        while not self._is_over.wait(wait):
            wait = max(self._look(time.monotonic()), LEAST_WAIT_SECONDS)

    def _look(self, now: float) -> float:
        """Tell of the turn that is under way, if it is time; return when to look again, in seconds."""
        self._fold.flush(now)
        began = self._site.selector.turn_since
        if began is None or began == self._told:
            return self._limit
        rest = began + self._limit - now
        if rest > 0:
            return rest
        frames = list(walk(sys._current_frames().get(self._watched)))
        transport = find_connection(frames, self._site)
        if frames and self._site.selector.turn_since == began:  # else the frames may be of another turn
            self._told = began
            self._tell(frames, transport, now)
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
            name = transport.service.name_connection(transport.serial)
            fields |= {"conn": name, "peer": str(transport.peer), "listener": transport.service.name}
            where = f", on connection {name} from {transport.peer}"
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
