"""Messages of one kind, of which many may come at once: the first is told, the others are counted.

So an attack cannot fill a disk, and what happens is still said.

Knows: kinds, time. Does not know: what a message means.
"""

from __future__ import annotations

import logging

WINDOW_SECONDS = 10.0
MAX_KINDS = 64  # beyond these all others of a listener are one kind
OTHER_KINDS = "other reasons"


class Fold:
    """Lets the first message of a kind through, and tells how many followed when the window ends."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}  # of a window
        self._untold: dict[tuple[str, str], int] = {}  # of these
        self._ends: dict[tuple[str, str], float] = {}

    def admits(self, listener: str, kind: str, now: float, most: int = 1) -> bool:
        """Return whether a message is to be told; else it is counted.

        Args:
            kind: what it has in common with others, as the count is told with.
            now: CLOCK_MONOTONIC.
            most: how many are told of a window.
        """
        key = (listener, kind)
        if key not in self._ends and len(self._ends) >= MAX_KINDS:
            key = (listener, OTHER_KINDS)
        count = self._counts[key] = self._counts.get(key, 0) + 1
        if count == 1:
            self._ends[key] = now + WINDOW_SECONDS
        if count <= most:
            return True
        self._untold[key] = self._untold.get(key, 0) + 1
        return False

    def flush(self, now: float) -> None:
        """Tell the counts of windows that have ended."""
        for key in [key for key, end in self._ends.items() if end <= now]:
            del self._ends[key], self._counts[key]
            count = self._untold.pop(key, 0)
            if count:
                logging.getLogger(f"prefork.{key[0]}").info(
                    "%d similar in %.0f s: %s", count, WINDOW_SECONDS, key[1]
                )
