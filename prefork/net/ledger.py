"""What one listener has counted in one worker, written to its block of the worker's page.

Bytes are counted in attributes and written with each beat; all else at once.

Knows: the cells of one listener. Does not know: who reads them, why something is counted.
"""

from __future__ import annotations

from itertools import count
from typing import Any

from prefork.net.tally import Tally
from prefork.scoreboard import REJECTED, TRIED, Count, Rule, block

OPEN, ACCEPTED, CLOSED = int(Count.OPEN), int(Count.ACCEPTED), int(Count.CLOSED)  # touched for each connection
DATAGRAMS = int(Count.DATAGRAMS)


class Ledger:
    """The counters of a listener.

    Attributes:
        open: connections now.
        cells: its block of the worker's page.
        received: bytes, ever.
        sent: bytes that the kernel has taken, ever.
        kept: bytes that had to wait for slow readers, since that was last looked at.
        handshakes: those under way, the oldest first.
        tried: which connections have run against which rule in a dry run.
    """

    __slots__ = (
        "_accepted",
        "_closed",
        "_serials",
        "_tally",
        "cells",
        "handshakes",
        "kept",
        "open",
        "received",
        "sent",
        "tried",
    )

    def __init__(self, tally: Tally, listener: int) -> None:
        """Begin at zero.

        Args:
            listener: its place in the config.
        """
        self._tally = tally
        self.cells = block(tally.page, listener)
        self._serials = count(1)
        self.open = self._accepted = self._closed = 0
        self.received = self.sent = self.kept = 0
        self.handshakes: dict[Any, None] = {}
        self.tried: set[tuple[int, Rule]] = set()

    def count_opened(self) -> int:
        """Count a new connection; return its number."""
        cells = self.cells
        self.open += 1
        cells[OPEN] = self.open
        self._accepted += 1
        cells[ACCEPTED] = self._accepted
        self._tally.count_opened()
        return next(self._serials)

    def count_closed(self) -> None:
        cells = self.cells
        self.open -= 1
        cells[OPEN] = self.open
        self._closed += 1
        cells[CLOSED] = self._closed
        self._tally.count_closed()

    def count(self, what: Count) -> None:
        """Add one to a counter."""
        self.cells[what] += 1

    def count_rule(self, rule: Rule, is_dry: bool) -> None:
        self.cells[(TRIED if is_dry else REJECTED) + rule] += 1

    def is_first_try(self, serial: int, rule: Rule) -> bool:
        """Return whether a connection runs against a rule for the first time."""
        size = len(self.tried)
        self.tried.add((serial, rule))
        return len(self.tried) > size

    def forget(self, serial: int) -> None:
        """Take note that a connection has ended."""
        self.tried = {tried for tried in self.tried if tried[0] != serial}

    def count_datagrams(self, number: int) -> None:
        self.cells[DATAGRAMS] += number

    def flush(self) -> None:
        """Write down the bytes."""
        self.cells[Count.RECEIVED_BYTES] = self.received
        self.cells[Count.SENT_BYTES] = self.sent
