"""Bytes that the kernel did not take yet, and the water marks that tell a writer to wait.

Knows: chunks, sizes, marks. Does not know: sockets, protocols.
"""

from __future__ import annotations

from collections import deque
from itertools import islice

HIGH_WATER_BYTES = 65_536  # asyncio's own default
LOW_WATER_BYTES = HIGH_WATER_BYTES // 4
MAX_VECTORS = 64  # of one sendmsg; IOV_MAX is 1024, and 64 small chunks fill a segment


class SendBuffer:
    """A queue of bytes with a high and a low water mark, in bytes."""

    __slots__ = (
        "_chunks",
        "high",
        "is_flush_due",
        "is_paused",
        "low",
        "over_since",
        "size",
        "taken",
        "taken_before",
        "watched_at",
    )

    def __init__(self) -> None:
        self._chunks: deque[bytes | memoryview] = deque()
        self.size = 0
        self.high = HIGH_WATER_BYTES
        self.low = LOW_WATER_BYTES
        self.is_paused = False
        self.is_flush_due = False
        self.over_since: float | None = None
        self.taken = 0  # bytes that the kernel took, ever
        self.watched_at: float | None = None  # since when its reader is watched, and what was taken by then
        self.taken_before: int | None = None

    def append(self, data: bytes | memoryview) -> None:
        self._chunks.append(data)
        self.size += len(data)

    def vectors(self) -> list[bytes | memoryview]:
        """Return the first chunks, for one sendmsg(2)."""
        return list(islice(self._chunks, MAX_VECTORS))

    def drop(self, sent: int) -> None:
        """Forget the first `sent` bytes."""
        chunks = self._chunks
        self.size -= sent
        self.taken += sent
        while sent:
            first = chunks[0]
            if sent < len(first):
                chunks[0] = memoryview(first)[sent:]
                return
            sent -= len(first)
            chunks.popleft()

    def clear(self) -> None:
        self._chunks.clear()
        self.size = 0

    def set_marks(self, high: int | None, low: int | None) -> None:
        """Set the water marks as `asyncio.WriteTransport.set_write_buffer_limits` documents them.

        Raises:
            ValueError: not high >= low >= 0.
        """
        if high is None:
            high = HIGH_WATER_BYTES if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self.high = high
        self.low = low
