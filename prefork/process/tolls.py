"""What the lives of all workers come to: how often they were spawned, how they ended, how long they took to start.

Knows: slots, pages of workers that have ended. Does not know: workers that live.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter

from prefork.scoreboard import TURN_CELLS, Cell, Page

START_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Tolls:
    """Sums over workers that are gone, and over all that were spawned.

    Attributes:
        spawns: by reason: `start` for a slot's first worker, `replace` for the others.
        exits: by how (`ordered`, `crashed`) and exit code or signal.
        busy: by slot, in ns.
        cpu: by slot, in ns on a CPU.
        turns: by slot, the cells of the histogram.
        starts: a count for each of START_BOUNDS, and one for the rest.
    """

    def __init__(self) -> None:
        self.spawns: Counter[str] = Counter()
        self.exits: Counter[tuple[str, str]] = Counter()
        self.busy: Counter[int] = Counter()
        self.cpu: Counter[int] = Counter()
        self.turns: dict[int, list[int]] = {}
        self.starts = [0] * (len(START_BOUNDS) + 1)
        self.start_seconds = 0.0
        self._slots: set[int] = set()

    def note_spawn(self, slot: int) -> None:
        self.spawns["replace" if slot in self._slots else "start"] += 1
        self._slots.add(slot)

    def note_start(self, seconds: float) -> None:
        """Take note that a worker serves, so many seconds after it was ordered."""
        self.starts[bisect_left(START_BOUNDS, seconds)] += 1
        self.start_seconds += seconds

    def note_exit(self, slot: int, page: Page, how: str, code: str) -> None:
        """Take note of a worker's end.

        Args:
            code: words that end with an exit code or the name of a signal.
        """
        found = re.search(r"(SIG[A-Z0-9]+|\d+)$", code)
        self.exits[how, found[1] if found else "0"] += 1
        self.busy[slot] += page[Cell.BUSY]
        self.cpu[slot] += page[Cell.CPU]
        turns = self.turns.setdefault(slot, [0] * TURN_CELLS)
        for place in range(TURN_CELLS):
            turns[place] += page[Cell.TURNS + place]
