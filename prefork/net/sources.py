"""How many connections each source has over all workers, exactly, though nobody shares a lock.

Each worker has a row of shared memory that it alone writes, and reads those of the others. It counts a connection
before it looks at the sum: so two workers that take the last place at once both see it taken, and step back to
try again, and no moment has more than the limit. What a dead worker has counted is cleared with its row.

A row has 2,048 buckets of 8 sources. A source whose bucket is full is counted in its own worker alone: with
10,000 sources in one worker that are some in a hundred.

Knows: rows, keys, time in seconds. Does not know: addresses, limits' names, who is refused.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator

from prefork.scoreboard import ROW_BYTES, Rows

BUCKETS, WAYS = 2048, 8
KEY, OPEN, RATE, ENTRY_CELLS = 0, 1, 2, 4  # of an entry: cells of 8 bytes, the last is spare
ENTRY_BYTES = 8 * ENTRY_CELLS
BUCKET_BYTES = WAYS * ENTRY_BYTES
TRIES = 64  # of two workers that step back from each other; each goes its own pace
MAX_HOMELESS = 4096  # of those without a connection
KEY_BITS = (1 << 64) - 1
FIELD_BITS = 20  # of a rate: the window's second, the hits of the window before, those of this one
FIELD = (1 << FIELD_BITS) - 1
assert BUCKETS * BUCKET_BYTES == ROW_BYTES


class SourceTable:
    """One worker's row, and the sight of all others."""

    def __init__(self, rows: Rows, seat: int) -> None:
        self._rows = rows
        self._seat = seat
        self._memory = rows.memory
        self._cells = memoryview(rows.memory).cast("Q")
        self._own: dict[int, int] = {}  # key -> first cell of its entry
        self._homeless: dict[int, list[int]] = {}  # key -> its entry, of sources whose bucket is full
        # On x86-64 a load may overtake a store to another place; an atomic instruction keeps their order.
        self._fence = threading.Lock()

    def key_of(self, source: bytes) -> int:
        """Return the key of a source; all processes of a server agree on it, and nobody else can guess it.

        Python's hash of bytes is SipHash with a key that a fork inherits.
        """
        return hash(self._rows.salt + source) & KEY_BITS or 1

    def enter(self, key: int, limit: int, now: float) -> bool:
        """Count a connection of a source; return False, and count nothing, if it has its limit already.

        Args:
            limit: over all workers; 0: no limit.
            now: CLOCK_MONOTONIC.
        """
        cells, at = self._find(key, now)
        for _ in range(TRIES):
            cells[at + OPEN] += 1
            if not limit:
                return True
            self._fence.acquire(blocking=False)
            self._fence.release()
            if cells[at + OPEN] + self._open_elsewhere(key) <= limit:
                return True
            cells[at + OPEN] -= 1
            if cells[at + OPEN] + self._open_elsewhere(key) >= limit:
                return False
        return False

    def leave(self, key: int) -> None:
        """Take note that a counted connection has ended."""
        homeless = self._homeless.get(key)
        if homeless is not None:
            homeless[OPEN] -= 1
            return
        self._cells[self._own[key] + OPEN] -= 1

    def hit(self, key: int, limit: int, now: float) -> bool:
        """Count an event of a source; return False, and count nothing, if it was at its rate already.

        Args:
            limit: events per second over all workers, in a window that slides.
            now: CLOCK_MONOTONIC.
        """
        cells, at = self._find(key, now)
        second = int(now) & FIELD
        rest = 1.0 - now % 1  # of the window before that the last second reaches into
        mine = slide(cells[at + RATE], second)
        total = estimate(mine, rest)
        for theirs in self._elsewhere(key, RATE):
            total += estimate(slide(theirs, second), rest)
        if total + 1 > limit:
            return False
        before, hits = mine
        cells[at + RATE] = second << 2 * FIELD_BITS | before << FIELD_BITS | min(hits + 1, FIELD)
        return True

    def _open_elsewhere(self, key: int) -> int:
        return sum(self._elsewhere(key, OPEN))

    def _elsewhere(self, key: int, cell: int) -> Iterator[int]:
        """Return a cell of a source from the rows of all others that have it."""
        wanted, memory, bucket = KEY_STRUCT.pack(key), self._memory, key % BUCKETS * BUCKET_BYTES
        for seat in range(self._rows.seat_limit):
            start = seat * ROW_BYTES + bucket
            at = memory[start : start + BUCKET_BYTES].find(wanted)
            if at >= 0 and at % ENTRY_BYTES == 0 and seat != self._seat:
                yield self._cells[(start + at) // 8 + cell]

    def _find(self, key: int, now: float) -> tuple[memoryview | list[int], int]:
        """Return where a source is counted here; it gets a place if it has none."""
        at = self._own.get(key)
        if at is not None:
            return self._cells, at
        homeless = self._homeless.get(key)
        if homeless is not None:
            return homeless, 0
        cells = self._cells
        first = (self._seat * ROW_BYTES + key % BUCKETS * BUCKET_BYTES) // 8
        for at in range(first, first + WAYS * ENTRY_CELLS, ENTRY_CELLS):
            if self._is_free(at, now):
                self._own.pop(cells[at + KEY], None)
                cells[at + KEY] = cells[at + OPEN] = cells[at + RATE] = 0
                cells[at + KEY] = key
                self._own[key] = at
                return cells, at
        if len(self._homeless) >= MAX_HOMELESS:
            self._homeless = {key: entry for key, entry in self._homeless.items() if entry[OPEN]}
        homeless = self._homeless[key] = [key, 0, 0, 0]
        return homeless, 0

    def _is_free(self, at: int, now: float) -> bool:
        """Whether an entry is that of nobody, or of a source that is gone for more than a window."""
        cells = self._cells
        if not cells[at + KEY]:
            return True
        if cells[at + OPEN]:
            return False
        last = cells[at + RATE] >> 2 * FIELD_BITS
        return not cells[at + RATE] or int(now) & FIELD not in (last, last + 1 & FIELD)


KEY_STRUCT = struct.Struct("@Q")


def slide(rate: int, second: int) -> tuple[int, int]:
    """Return the hits of the window before, and of the one that begins with a second, from a cell."""
    window, before, hits = rate >> 2 * FIELD_BITS, rate >> FIELD_BITS & FIELD, rate & FIELD
    if window == second:
        return before, hits
    return (hits, 0) if window + 1 & FIELD == second else (0, 0)


def estimate(counted: tuple[int, int], rest: float) -> float:
    """Return the hits of the last second, of which the window before makes a part."""
    before, hits = counted
    return before * rest + hits
