"""Shared memory in which each process tells what it does: one page per process, one writer per page.

A *seat* is a page that a worker borrows for its life. Its counters are folded into the master's books when
it is gone, so that sums never go backwards and no two processes ever write the same cell. No lock is shared:
a process that is killed in the middle of a write leaves the others as they were.

Knows: pages and cells. Does not know: who sits where, or what the numbers are for.
"""

from __future__ import annotations

import mmap
from enum import IntEnum

PAGE_BYTES = 4096
CELL_BYTES = 8  # an aligned store of 8 bytes is one instruction on every 64-bit machine: no torn reads


class Cell(IntEnum):
    """The cells of a page; all are unsigned integers."""

    BEAT = 0  # CLOCK_MONOTONIC in ns, written by the worker's own loop
    OPEN = 1  # connections now
    ACCEPTED = 2  # connections ever
    CLOSED = 3
    ERRORS = 4  # connections that a handler's exception ended
    CUT = 5  # connections that were cut at the end of a drain
    REFUSED = 6  # connections that were told to go: no file descriptor was left
    TIMED_OUT = 7  # connections that a deadline ended
    BROKEN = 8  # connections that a fault of the peer ended: a reset, a frame over the limit
    RSS = 9  # resident bytes
    HANDSHAKES = 10  # TLS handshakes that were agreed upon
    RESUMED = 11  # those of them that took up an earlier session
    UNSECURED = 12  # TLS handshakes that failed or were too late
    DATAGRAMS = 13  # datagrams that were read
    UNSENT = 14  # datagrams that could not be sent
    SKIPPED = 15  # frames over the limit, or not good, that cost their sender the frame alone


COUNTERS = tuple(cell for cell in Cell if cell not in (Cell.BEAT, Cell.OPEN, Cell.RSS))

Page = memoryview


class Scoreboard:
    """Anonymous shared memory: made by the master, inherited by every process that it forks."""

    def __init__(self, seats: int) -> None:
        self._memory = mmap.mmap(-1, seats * PAGE_BYTES)
        self._free = list(range(seats - 1, -1, -1))

    def borrow(self) -> int:
        """Return a free seat, its cells zero.

        Raises:
            IndexError: every seat is taken.
        """
        return self._free.pop()

    def give_back(self, seat: int) -> None:
        start = seat * PAGE_BYTES
        self._memory[start : start + PAGE_BYTES] = bytes(PAGE_BYTES)
        self._free.append(seat)

    def page(self, seat: int) -> Page:
        """Return the cells of a seat, indexed by `Cell`."""
        start = seat * PAGE_BYTES
        return memoryview(self._memory)[start : start + PAGE_BYTES].cast("Q")


def read_counters(page: Page) -> dict[Cell, int]:
    """Return the counters of a page, without its gauges."""
    return {cell: page[cell] for cell in COUNTERS}
