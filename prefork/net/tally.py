"""What a worker counts over all of its listeners: plain attributes for itself, copied to its page as they change.

Knows: the cells of one page. Does not know: who reads them.
"""

from __future__ import annotations

from prefork.scoreboard import Cell, Page


class Tally:
    """The counters of one worker.

    Attributes:
        page: its cells, and the blocks of its listeners.
        open: connections now, over all listeners; their ledgers count it, as they do `accepted`, those ever.
    """

    __slots__ = ("accepted", "open", "page")

    def __init__(self, page: Page) -> None:
        self.page = page
        self.open = 0
        self.accepted = 0

    def write(self, cell: Cell, value: int) -> None:
        """Set a gauge."""
        self.page[cell] = value
