"""What one listener has counted in one worker, written to its block of the worker's page.

Bytes are told about once a second, times with each beat; all else at once.

Knows: the cells of one listener. Does not know: who reads them, why something is counted.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from itertools import count
from typing import Any

from prefork.net.tally import Tally
from prefork.scoreboard import (
    DURATION,
    DURATION_BOUNDS,
    ENDS,
    FRAME_BOUNDS,
    FRAMES,
    HANDSHAKE,
    HANDSHAKE_BOUNDS,
    REJECTED,
    TRIED,
    Cell,
    Count,
    End,
    Rule,
    block,
    observe,
)

OPEN, ACCEPTED, CLOSED = int(Count.OPEN), int(Count.ACCEPTED), int(Count.CLOSED)  # touched for each connection
END_CELLS = {end.word: ENDS + end for end in End} | {Rule.BUFFERS.key: ENDS + End.BUFFER}
DONE = ENDS + End.DONE
ALL_OPEN, ALL_ACCEPTED = int(Cell.OPEN), int(Cell.ACCEPTED)
DATAGRAMS, RECEIVED, SENT = int(Count.DATAGRAMS), int(Count.RECEIVED_BYTES), int(Count.SENT_BYTES)


class Ledger:
    """The counters of a listener.

    Attributes:
        open: connections now.
        cells: its block of the worker's page.
        kept: bytes that had to wait for slow readers, since that was last looked at.
        handshakes: those under way, the oldest first.
        is_timed: whether somebody comes back for them when their time is over.
        tried: the rules that connections have run against in a dry run, by their numbers.
    """

    __slots__ = (
        "_ages",
        "_frames",
        "_received",
        "_sent",
        "_serials",
        "_tally",
        "cells",
        "handshakes",
        "is_timed",
        "kept",
        "open",
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
        self.open = 0
        self._frames = array("Q", bytes(8 * (len(FRAME_BOUNDS) + 2)))
        self._ages = array("Q", bytes(8 * (len(DURATION_BOUNDS) + 2)))
        self._received = self._sent = self.kept = 0
        self.handshakes: dict[Any, None] = {}
        self.is_timed = False
        self.tried: dict[int, set[Rule]] = {}

    def count_opened(self) -> int:
        """Count a new connection, of the worker and of the listener; return its number."""
        cells = self.cells
        self.open += 1
        cells[OPEN] = self.open
        cells[ACCEPTED] += 1
        tally = self._tally
        page = tally.page
        tally.open += 1
        page[ALL_OPEN] = tally.open
        tally.accepted += 1
        page[ALL_ACCEPTED] = tally.accepted
        return next(self._serials)

    def count_closed(self, reason: str) -> None:
        """Count a connection that has ended.

        Args:
            reason: in a word, see `End`; empty: it was done.
        """
        cells = self.cells
        self.open -= 1
        cells[OPEN] = self.open
        cells[CLOSED] += 1
        cells[END_CELLS[reason] if reason else DONE] += 1
        tally = self._tally
        tally.open -= 1
        tally.page[ALL_OPEN] = tally.open

    def count(self, what: Count) -> None:
        """Add one to a counter."""
        self.cells[what] += 1

    def count_rule(self, rule: Rule, is_dry: bool) -> None:
        self.cells[(TRIED if is_dry else REJECTED) + rule] += 1

    def count_bytes(self, received: int, sent: int) -> None:
        """Add bytes that connections have moved."""
        cells = self.cells
        self._received += received
        cells[RECEIVED] = self._received
        self._sent += sent
        cells[SENT] = self._sent

    def note_frames(self, number: int, seconds: float) -> None:
        """Take note of how long it took to handle frames that came together."""
        self._frames[bisect_left(FRAME_BOUNDS, seconds / number)] += number
        self._frames[-1] += int(seconds * 1e9)

    def tell_times(self) -> None:
        """Write down what is noted of frames and of ages."""
        self.cells[FRAMES : FRAMES + len(self._frames)] = memoryview(self._frames)
        self.cells[DURATION : DURATION + len(self._ages)] = memoryview(self._ages)

    def note_end(self, seconds: float) -> None:
        """Take note of a connection's age at its end."""
        self._ages[bisect_left(DURATION_BOUNDS, seconds)] += 1
        self._ages[-1] += int(seconds * 1e9)

    def note_handshake(self, seconds: float) -> None:
        observe(self.cells, HANDSHAKE, HANDSHAKE_BOUNDS, seconds)

    def is_first_try(self, serial: int, rule: Rule) -> bool:
        """Return whether a connection runs against a rule for the first time."""
        rules = self.tried.setdefault(serial, set())
        size = len(rules)
        rules.add(rule)
        return len(rules) > size

    def forget(self, serial: int) -> None:
        """Take note that a connection has ended."""
        self.tried.pop(serial, None)

    def count_datagrams(self, number: int) -> None:
        self.cells[DATAGRAMS] += number
