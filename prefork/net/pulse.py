"""The worker's pulse: its beat in shared memory, its coarse clock, and the deadlines of its connections.

Deadlines are looked at in a sweep over the open connections, so that they cost nothing per byte. It takes about a
microsecond for each, and is spread over turns of the loop.

Knows: the worksite, its transports. Does not know: who reads the beat.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any

from prefork.net.entrance import HeaderArrival
from prefork.net.handshake import Handshake
from prefork.net.linger import Linger
from prefork.net.service import Worksite
from prefork.net.transport import StreamTransport
from prefork.scoreboard import Cell

SWEEP_SECONDS = 0.49  # with the coarse clock, and a sweep of many, a deadline is held within a second
WATCHERS_AT_ONCE = 4  # between two looks at the time: 5 µs, or half a millisecond if all of them are to end
SLICE_SECONDS = 0.00025  # of a sweep, in a turn of the loop
PAUSE_SECONDS = 0.002  # between two slices: for clients of ours, and of workers that share our CPU
PACED_SECONDS = 0.2  # a sweep that takes longer, since many are to end, makes no more pauses
PASSING = (Linger, Handshake, HeaderArrival)
LATE_SECONDS = 2.0  # a sweep that is later than this says that the loop has stood still
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Pulse:
    """Beats from the worker's own loop, so that a loop that stands still looks like one."""

    def __init__(self, site: Worksite, period: float, on_beat: Callable[[], None]) -> None:
        """Begin to beat.

        Args:
            period: seconds between two beats.
            on_beat: called with each beat, after the clock is set.
        """
        self._site = site
        self._period = period
        self._on_beat = on_beat
        self._next_sweep = 0.0
        self._rest: list[tuple[int, Any]] = []  # descriptors and watchers still to be looked at in this sweep
        self._swept_at = 0.0  # when it began
        self._was_busy = (0.0, site.now)  # the loop, and when
        self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)  # later there may be none to spare
        self._timer: asyncio.TimerHandle | None = None
        self.beat()

    def close(self) -> None:
        """Beat no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._rest.clear()
        os.close(self._statm)

    def beat(self) -> None:
        site = self._site
        now = time.monotonic_ns()
        site.now = now / 1e9
        self._on_beat()
        site.tally.write(Cell.BEAT, now)
        if site.now >= self._next_sweep:
            if site.now > self._next_sweep + LATE_SECONDS:
                site.pressure.awoke_at = site.now
            self._next_sweep = site.now + (0 if site.draining.begun else SWEEP_SECONDS)
            site.tally.write(Cell.RSS, self._read_rss())
            self._tell_of_turns()
            site.pressure.look_at_memory()
            self.sweep()
            site.journal.flush(site.now)
        self._timer = site.loop.call_later(self._period, self.beat)

    def _tell_of_turns(self) -> None:
        """Write down how busy the loop is."""
        site, selector = self._site, self._site.selector
        busy, (before, since) = selector.busy, self._was_busy
        self._was_busy = (busy, site.now)
        site.tally.write(Cell.LAG, int(selector.take_longest_turn() * 1e9))
        site.tally.write(Cell.BUSY, int(busy * 1e9))
        site.tally.write(Cell.CPU, time.process_time_ns())
        if site.now > since:
            site.tally.write(Cell.LOAD, min(1_000_000, int((busy - before) / (site.now - since) * 1e6)))
        page = site.tally.page
        for place, count in enumerate(selector.turns):
            page[Cell.TURNS + place] = count

    def _read_rss(self) -> int:
        """Return the resident bytes of this process, from statm of proc(5)."""
        return int(os.pread(self._statm, 100, 0).split()[1]) * PAGE_BYTES

    def sweep(self) -> None:
        """Look at all deadlines, some in each turn of the loop: nobody is to wait for all."""
        if not self._rest:
            self._rest = list(self._site.selector.watchers.items())
            self._swept_at = time.monotonic()
            self._sweep_some()

    def _sweep_some(self) -> None:
        begun, rest = time.monotonic(), self._rest
        try:
            while rest and time.monotonic() < begun + SLICE_SECONDS:
                some = rest[-WATCHERS_AT_ONCE:]
                del rest[-WATCHERS_AT_ONCE:]
                self._look_at(some)
        finally:
            if rest and begun < self._swept_at + PACED_SECONDS:
                self._site.loop.call_later(PAUSE_SECONDS, self._sweep_some)
            elif rest:
                self._site.loop.call_soon(self._sweep_some)

    def _look_at(self, some: list[tuple[int, Any]]) -> None:
        now, watchers = self._site.now, self._site.selector.watchers
        for fd, watcher in some:
            if watchers.get(fd) is not watcher:
                continue  # it has ended meanwhile, and the number may be another's
            if isinstance(watcher, StreamTransport):
                watcher.sweep(now)
            elif isinstance(watcher, PASSING) and watcher.deadline <= now:
                watcher.expire()


def transports(site: Worksite) -> list[StreamTransport]:
    """Return the open transports of a worker."""
    return [w for w in site.selector.watchers.values() if isinstance(w, StreamTransport)]
