"""What a worker counts over all of its listeners: plain attributes for itself, copied to its page as they change.

Knows: the cells of one page. Does not know: who reads them.
"""

from __future__ import annotations

from prefork.scoreboard import Cell, Page

OPEN, ACCEPTED = int(Cell.OPEN), int(Cell.ACCEPTED)  # touched for each connection


class Tally:
    """The counters of one worker.

    Attributes:
        page: its cells, and the blocks of its listeners.
    """

    __slots__ = ("accepted", "open", "page")

    def __init__(self, page: Page) -> None:
        self.page = page
        self.open = 0
        self.accepted = 0

    def count_opened(self) -> None:
        page = self.page
        self.open += 1
        page[OPEN] = self.open
        self.accepted += 1
        page[ACCEPTED] = self.accepted

    def count_closed(self) -> None:
        self.open -= 1
        self.page[OPEN] = self.open

    def write(self, cell: Cell, value: int) -> None:
        """Set a gauge."""
        self.page[cell] = value
