"""Messages of one kind, of which many may come at once: the first is told, the others are counted.

So an attack cannot fill a disk, and what happens is still said.

Knows: kinds, a logger, time. Does not know: what a message means.
"""

from __future__ import annotations

import logging

WINDOW_SECONDS = 10.0
MAX_KINDS = 64  # beyond these all others are one kind


class Fold:
    """Tells the first message of a kind at once, and how many followed when the window ends."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}
        self._ends: dict[tuple[str, str], float] = {}

    def tell(self, log: logging.Logger, kind: str, message: str, now: float) -> None:
        """Log a message of a kind, or count it.

        Args:
            kind: what it has in common with others, as the count is told with.
            now: CLOCK_MONOTONIC.
        """
        key = (
            log.name,
            kind if len(self._ends) < MAX_KINDS or (log.name, kind) in self._ends else "of other kinds",
        )
        if key in self._ends:
            self._counts[key] = self._counts.get(key, 0) + 1
            return
        self._ends[key] = now + WINDOW_SECONDS
        log.info("%s", message)

    def flush(self, now: float) -> None:
        """Tell the counts of windows that have ended."""
        for key in [key for key, end in self._ends.items() if end <= now]:
            del self._ends[key]
            count = self._counts.pop(key, 0)
            if count:
                logging.getLogger(key[0]).info("%d similar in %.0f s: %s", count, WINDOW_SECONDS, key[1])
