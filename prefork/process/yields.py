"""The app's own metrics, of all workers that are or were.

Knows: declarations, pages. Does not know: what the numbers mean, how they are shown.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

from prefork.process.roster import WorkerRecord
from prefork.scoreboard import FIRST_USER, Page

MOST_DECLARED = 500

Declared = list[Any]  # name, kind, text, first cell, bounds


class Yields:
    """Sums over the workers of each slot that are gone."""

    def __init__(self) -> None:
        self._gone: dict[tuple[str, int], list[float]] = {}
        self._declared: dict[str, Declared] = {}

    def note_end(self, slot: int, page: Page, declared: Iterable[Declared]) -> None:
        """Keep what a worker has counted."""
        for row in declared:
            if row[1] != "gauge":
                self._add(self._gone, (row[0], slot), read(page, row))

    def describe(self, records: Iterable[WorkerRecord]) -> list[dict[str, Any]]:
        """Return a mapping for each metric: `name`, `kind`, `text`, `bounds`, and `rows` of (slot, numbers)."""
        sums = {key: list(numbers) for key, numbers in self._gone.items()}
        for record in records:
            for row in record.link.metrics[:MOST_DECLARED]:
                self._declared[row[0]] = row
                self._add(sums, (row[0], record.slot), read(record.link.page, row))
        return [
            {
                **dict(zip(("name", "kind", "text"), row, strict=False)),
                "bounds": row[4],
                "rows": [[slot, numbers] for (known, slot), numbers in sums.items() if known == name],
            }
            for name, row in self._declared.items()
        ]

    def _add(self, sums: dict[tuple[str, int], list[float]], key: tuple[str, int], numbers: list[float]) -> None:
        known = sums.get(key)
        same = known is not None and len(known) == len(numbers)
        sums[key] = [a + b for a, b in zip(known, numbers, strict=True)] if same and known else numbers


def read(page: Page, row: Declared) -> list[float]:
    """Return the numbers of a metric: one, or those of a histogram's buckets and the sum."""
    _, kind, _, first, bounds = row
    start = FIRST_USER + first
    if kind == "counter":
        return [page[start]]
    if kind == "gauge":
        return [as_float(page[start])]
    return [*page[start : start + len(bounds) + 1].tolist(), as_float(page[start + len(bounds) + 1])]


def as_float(cell: int) -> float:
    """Return the float that a cell's bytes are."""
    value: float = struct.unpack("@d", struct.pack("@Q", cell))[0]
    return value
