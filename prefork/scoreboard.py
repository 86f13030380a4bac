"""Shared memory in which each process tells what it does: one page per process, one writer per page.

A *seat* is a page that a worker borrows for its life. Its counters are folded into the master's books when
it is gone, so that sums never go backwards and no two processes ever write the same cell. No lock is shared:
a process that is killed in the middle of a write leaves the others as they were.

Knows: pages and cells. Does not know: who sits where, or what the numbers are for.
"""

from __future__ import annotations

import mmap
import os
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from enum import IntEnum
from operator import add

PAGE_BYTES = 131_072  # the kernel gives memory to those 4 KiB of it that are touched
CELL_BYTES = 8  # an aligned store of 8 bytes is one instruction on every 64-bit machine: no torn reads
FIRST_LISTENER, LISTENER_CELLS = 64, 128  # where the blocks of the listeners begin, and how large each is
MAX_LISTENERS = 100
FIRST_USER = (
    FIRST_LISTENER + MAX_LISTENERS * LISTENER_CELLS
)  # cells of the app's own metrics, up to the page's end
USER_CELLS = PAGE_BYTES // CELL_BYTES - FIRST_USER
MAP_NORESERVE = 0x4000  # linux/mman.h: what is not touched is not accounted for, mmap(2)
HEADER_BYTES = 4096
ROW_BYTES = 524_288  # of a worker's sources
SALT_BYTES = 16
NOTICE_BYTES = 1 << 18


class Cell(IntEnum):
    """The cells of a process; all are unsigned integers."""

    BEAT = 0  # CLOCK_MONOTONIC in ns, written by the worker's own loop
    OPEN = 1  # connections now, over all listeners
    ACCEPTED = 2  # connections ever, over all listeners
    RSS = 3  # resident bytes
    LAG = 4  # longest turn of the loop in the last second or so, in ns
    FULL = 5  # 1 while it takes no new connections: a limit is reached
    LOAD = 6  # share of the last second or so in which the loop was at work, in millionths
    BUSY = 7  # time that the loop was at work, in ns, ever
    CPU = 8  # time of the process on a CPU, in ns
    TURNS = 16  # histogram of the loop's turns


class Count(IntEnum):
    """The cells of one listener in a process: counters, but for OPEN."""

    OPEN = 0  # connections now
    ACCEPTED = 1
    CLOSED = 2
    ERRORS = 3  # connections that a handler's exception ended
    CUT = 4  # connections that were cut at the end of a drain
    REFUSED = 5  # connections that were told to go: no file descriptor was left
    TIMED_OUT = 6  # connections that a deadline ended
    BROKEN = 7  # connections that a fault of the peer ended: a reset, a frame over the limit
    HANDSHAKES = 8  # TLS handshakes that were agreed upon
    RESUMED = 9  # those of them that took up an earlier session
    UNSECURED = 10  # TLS handshakes that failed or were too late
    DATAGRAMS = 11  # datagrams that were read
    UNSENT = 12  # datagrams that could not be sent
    SKIPPED = 13  # frames over the limit, or not good, that cost their sender the frame alone
    RECEIVED_BYTES = 14
    SENT_BYTES = 15


class Rule(IntEnum):
    """What a connection can run against; each has two cells of a listener, one for dry runs."""

    DENY = 0  # allow and deny
    BAN = 1
    CONNECTIONS = 2
    PER_IP = 3
    PER_IP_RATE = 4
    RATE = 5
    DESCRIPTORS = 6  # a fifth of the descriptors is left to the app
    MEMORY = 7
    PROXY = 8  # a PROXY header that is missing, wrong, or not expected
    HANDSHAKE = 9
    IDLE = 10
    MESSAGE = 11
    MIN_RATE = 12
    LIFE = 13
    BUFFER = 14
    BUFFERS = 15
    AMPLIFICATION = 16
    HANDSHAKES = 17
    FRAME = 18

    @property
    def key(self) -> str:
        """Its name in counters, and, if it has one, of its key in `limits`."""
        return self.name.lower()


class End(IntEnum):
    """Why connections have ended; each has a cell of a listener, and CLOSED is the sum of these."""

    DONE = 0
    ERROR = 1  # of the app
    CUT = 2  # at the end of a drain
    BROKEN = 3  # by the peer: a reset, a frame over the limit, no TLS
    STALLED = 4  # the last answer was not taken
    HANDSHAKE = 5  # these are of the rules by their names
    IDLE = 6
    MESSAGE = 7
    MIN_RATE = 8
    LIFE = 9
    BUFFER = 10  # or BUFFERS
    CONNECTIONS = 11
    BAN = 12
    DENY = 13  # by a reload
    KICKED = 14
    LOST = 15  # with the worker

    @property
    def word(self) -> str:
        """What it is called in metrics and in access records."""
        return self.name.lower()


COUNTERS = tuple(count for count in Count if count is not Count.OPEN)
TURN_CELLS = 13  # of prefork.net.loop.TURN_BOUNDS, and one for the rest
DURATION_BOUNDS = (0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 86_400.0)
HANDSHAKE_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0)
FRAME_BOUNDS = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0)
# First cells of histograms: a count for each bound, one for the rest, the sum in ns.
FRAMES, DURATION, HANDSHAKE = 51, 96, 108
REJECTED, TRIED = 32, 64  # first cells of the rules in a listener's block: enforced, and dry runs
ENDS = 16  # first cell of the reasons in a listener's block

Page = memoryview


class Scoreboard:
    """Anonymous shared memory: made by the master, inherited by every process that it forks."""

    def __init__(self, seats: int) -> None:
        self._memory = _share(seats * PAGE_BYTES)
        self._free = list(range(seats - 1, -1, -1))
        self.notice = Notice()
        self.rows = Rows(seats)

    def borrow(self) -> int:
        """Return a free seat, its cells zero.

        Raises:
            IndexError: every seat is taken.
        """
        seat = self._free.pop()
        self.rows.seat_limit = max(self.rows.seat_limit, seat + 1)
        return seat

    def give_back(self, seat: int) -> None:
        clear(self._memory, seat * PAGE_BYTES, PAGE_BYTES)
        clear(self.rows.memory, seat * ROW_BYTES, ROW_BYTES)
        self._free.append(seat)

    def page(self, seat: int) -> Page:
        """Return the cells of a seat: those of the process by `Cell`, then the blocks of its listeners."""
        start = seat * PAGE_BYTES
        return memoryview(self._memory)[start : start + PAGE_BYTES].cast("Q")


def block(page: Page, listener: int) -> Page:
    """Return the cells of a listener, by its place in the config; they are indexed by `Count`."""
    start = FIRST_LISTENER + listener * LISTENER_CELLS
    return page[start : start + LISTENER_CELLS]


class Rows:
    """A row for each seat, in which its worker counts its sources, and others read.

    Attributes:
        memory: the rows one behind the other.
        salt: what makes the keys of this server its own.
    """

    def __init__(self, seats: int) -> None:
        self.memory = _share(seats * ROW_BYTES)
        self.salt = os.urandom(SALT_BYTES)
        self._cells = memoryview(_share(HEADER_BYTES)).cast("Q")

    @property
    def seat_limit(self) -> int:
        """All seats that are in use are below this."""
        return self._cells[0]

    @seat_limit.setter
    def seat_limit(self, limit: int) -> None:
        self._cells[0] = limit


class Notice:
    """What the master tells all workers: a text with a version."""

    def __init__(self) -> None:
        self._memory = _share(HEADER_BYTES + NOTICE_BYTES)
        self._cells = memoryview(self._memory)[:HEADER_BYTES].cast("Q")

    @property
    def version(self) -> int:
        """Odd while the text is being written."""
        return self._cells[0]

    def post(self, text: bytes) -> None:
        """Tell a text, for the master alone.

        Raises:
            ValueError: it is too long.
        """
        if len(text) > NOTICE_BYTES:
            raise ValueError(f"a notice of {len(text)} bytes is too long")
        self._cells[0] += 1
        self._memory[HEADER_BYTES : HEADER_BYTES + len(text)] = text
        self._cells[1] = len(text)
        self._cells[0] += 1

    def read(self) -> tuple[int, bytes] | None:
        """Return the version and its text; None: it is being written, and can be read a moment later."""
        before = self.version
        text = self._memory[HEADER_BYTES : HEADER_BYTES + self._cells[1]]
        return None if before % 2 or self.version != before else (before, text)


def _share(size: int) -> mmap.mmap:
    return mmap.mmap(-1, size, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | MAP_NORESERVE)


def clear(memory: mmap.mmap, start: int, size: int) -> None:
    """Make shared memory zero, and give it back to the kernel where that can be done."""
    try:
        memory.madvise(mmap.MADV_REMOVE, start, size)
    except OSError:  # gVisor
        memory[start : start + size] = bytes(size)


def observe(cells: Page, first: int, bounds: Sequence[float], seconds: float) -> None:
    """Add a time to a histogram."""
    cells[first + bisect_left(bounds, seconds)] += 1
    cells[first + len(bounds) + 1] += int(seconds * 1e9)


def sum_blocks(blocks: Iterable[Sequence[int]]) -> list[int]:
    """Return the sum of each cell over the blocks of a listener."""
    first, *rest = blocks
    sums = list(first)
    for block in rest:
        sums = list(map(add, sums, block))
    return sums
