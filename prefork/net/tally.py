"""What a worker counts: plain attributes for itself, copied to its page of shared memory as they change.

Knows: the cells of one page. Does not know: who reads them.
"""

from __future__ import annotations

from prefork.scoreboard import Cell, Page

DATAGRAMS = int(Cell.DATAGRAMS)
OPEN, ACCEPTED, CLOSED = int(Cell.OPEN), int(Cell.ACCEPTED), int(Cell.CLOSED)  # touched for each connection


class Tally:
    """The counters of one worker, over all of its listeners."""

    __slots__ = ("_page", "accepted", "closed", "open")

    def __init__(self, page: Page) -> None:
        self._page = page
        self.open = 0
        self.accepted = 0
        self.closed = 0

    def count_opened(self) -> None:
        page = self._page
        self.open += 1
        page[OPEN] = self.open
        self.accepted += 1
        page[ACCEPTED] = self.accepted

    def count_closed(self) -> None:
        page = self._page
        self.open -= 1
        page[OPEN] = self.open
        self.closed += 1
        page[CLOSED] = self.closed

    def count_datagrams(self, count: int) -> None:
        self._page[DATAGRAMS] += count

    def count(self, cell: Cell) -> None:
        """Add one to a counter that is rarely touched."""
        self._page[cell] += 1

    def write(self, cell: Cell, value: int) -> None:
        """Set a gauge."""
        self._page[cell] = value
