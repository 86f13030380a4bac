"""Metrics of the app's own: declared at import, counted in the worker's page, summed over all workers.

Knows: names, cells. Does not know: who reads them, the names of the server's own metrics.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from prefork.errors import LocalProtocolError
from prefork.scoreboard import FIRST_USER, USER_CELLS, Page

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
RESERVED = ("prefork_", "process_")
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # of Prometheus' own clients
MAX_TEXT = 200


class Registry:
    """What was declared, and the cells that it is counted in.

    Attributes:
        cells: whole numbers; the worker's, from its fork on.
        floats: the same memory as floats.
        declared: rows of (name, kind, text, first cell, bounds).
        is_closed: the master knows what was declared: it is too late for more.
    """

    def __init__(self) -> None:
        memory = memoryview(bytearray(USER_CELLS * 8))
        self.cells: Page = memory.cast("Q")
        self.floats: Any = memory.cast("d")
        self.declared: list[list[Any]] = []
        self._used = 0
        self.is_closed = False

    def bind(self, page: Page) -> None:
        """Count in a worker's page from now on."""
        bytes_of = page[FIRST_USER : FIRST_USER + USER_CELLS].cast("B")
        self.cells, self.floats = bytes_of.cast("Q"), bytes_of.cast("d")

    def declare(self, name: str, kind: str, text: str, size: int, bounds: Sequence[float] = ()) -> int:
        """Return the first cell of a new metric.

        Raises:
            LocalProtocolError: the name cannot be used, or there is no room.
        """
        if not NAME.fullmatch(name):
            raise LocalProtocolError(f"cannot declare {name!r}: write letters, digits and _, such as jobs_total")
        if name.startswith(RESERVED):
            raise LocalProtocolError(
                f"cannot declare {name!r}: {' and '.join(RESERVED)} begin the server's own names"
            )
        if self.is_closed:
            raise LocalProtocolError(f"cannot declare {name!r}: the worker serves already; declare it at import")
        if (kind == "counter") != name.endswith("_total"):
            raise LocalProtocolError(f"cannot declare {name!r}: names of counters, and no others, end with _total")
        taken = {series: row[0] for row in self.declared for series in series_of(row[0], row[1])}
        twin = next((taken[series] for series in series_of(name, kind) if series in taken), None)
        if twin is not None:
            what = "it is" if twin == name else f"{twin}, which has a series of the same name, is"
            raise LocalProtocolError(f"cannot declare {name!r}: {what} declared already")
        if self._used + size > USER_CELLS:
            raise LocalProtocolError(f"cannot declare {name!r}: there is room for {USER_CELLS} numbers")
        first, self._used = self._used, self._used + size
        self.declared.append([name, kind, text[:MAX_TEXT], first, list(bounds)])
        return first


def series_of(name: str, kind: str) -> list[str]:
    """Return the names of a metric's series, as Prometheus has them."""
    return [name, *(name + end for end in ("_bucket", "_sum", "_count") if kind == "histogram")]


REGISTRY = Registry()


class Counter:
    """Counts what happens; it never goes down, over crashes and reloads too."""

    __slots__ = ("_cell", "_name", "_registry")

    def __init__(self, registry: Registry, cell: int, name: str) -> None:
        self._registry = registry
        self._cell = cell
        self._name = name

    def inc(self, number: int = 1) -> None:
        """Count one, or more.

        Raises:
            ValueError: it is below 0.
            TypeError: it is no whole number.
        """
        if number < 0:
            raise ValueError(f"cannot count {number} in {self._name}: a counter never goes down; take a gauge")
        try:
            self._registry.cells[self._cell] += number
        except TypeError as error:
            raise TypeError(f"cannot count {number!r} in {self._name}: it is no whole number") from error


class Gauge:
    """A number that goes up and down; each worker has its own."""

    __slots__ = ("_cell", "_registry")

    def __init__(self, registry: Registry, cell: int) -> None:
        self._registry = registry
        self._cell = cell

    def set(self, value: float) -> None:
        self._registry.floats[self._cell] = value

    def inc(self, by: float = 1.0) -> None:
        """Add to it; a negative number takes away."""
        self._registry.floats[self._cell] += by


class Histogram:
    """Counts values by size."""

    __slots__ = ("_bounds", "_cell", "_registry")

    def __init__(self, registry: Registry, cell: int, bounds: Sequence[float]) -> None:
        self._registry = registry
        self._cell = cell
        self._bounds = bounds

    def observe(self, value: float) -> None:
        registry, bounds = self._registry, self._bounds
        registry.cells[self._cell + bisect_left(bounds, value)] += 1
        registry.floats[self._cell + len(bounds) + 1] += value


def counter(name: str, text: str) -> Counter:
    """Declare a counter, at import; its name ends with _total.

    Raises:
        LocalProtocolError: the name cannot be used, is taken, or there is no room.
    """
    return Counter(REGISTRY, REGISTRY.declare(name, "counter", text, 1), name)


def gauge(name: str, text: str) -> Gauge:
    """Declare a gauge, at import.

    Raises:
        LocalProtocolError: the name cannot be used, is taken, or there is no room.
    """
    return Gauge(REGISTRY, REGISTRY.declare(name, "gauge", text, 1))


def histogram(name: str, text: str, bounds: Sequence[float] = BOUNDS) -> Histogram:
    """Declare a histogram, at import.

    Args:
        bounds: of its buckets, rising.

    Raises:
        LocalProtocolError: the name cannot be used, is taken, there is no room, or the bounds do not rise.
    """
    bounds = tuple(map(float, bounds))
    if not bounds or list(bounds) != sorted(set(bounds)):
        raise LocalProtocolError(f"cannot declare {name!r}: its bounds do not rise")
    return Histogram(REGISTRY, REGISTRY.declare(name, "histogram", text, len(bounds) + 2, bounds), bounds)
