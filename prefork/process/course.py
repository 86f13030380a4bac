"""What is wanted: the target, and how far a stop has come. Signals and commands change this, never a process.

Knows: the target, the stop. Does not know: who asked, what is there, how it is brought about.
"""

from __future__ import annotations

import dataclasses
import enum
import logging
from collections.abc import Callable

from prefork.config.model import MAX_WORKERS
from prefork.errors import LocalProtocolError
from prefork.process.roster import Candidate, Target

log = logging.getLogger("prefork")


class Ending(enum.IntEnum):
    """How far a stop has come; it never goes back."""

    NONE = 0
    DELAYED = 1  # still accepts, but says that it is not ready
    DRAINING = 2
    IMMEDIATE = 3


class Course:
    """The target and its changes."""

    def __init__(self, count: int, clock: Callable[[], float]) -> None:
        self.target = Target(count, 1)
        self.ending = Ending.NONE
        self.drain_at = 0.0
        self._clock = clock

    def scale(self, count: int) -> str:
        """Want so many workers; return what changes.

        Raises:
            LocalProtocolError: that many there cannot be, or the server stops.
        """
        if not 1 <= count <= MAX_WORKERS:
            raise LocalProtocolError(f"cannot scale to {count} workers: the least is 1, the most {MAX_WORKERS}")
        if self.ending:
            raise LocalProtocolError("cannot scale: the server stops")
        change = f"workers {self.target.count}→{count}"
        self.target = dataclasses.replace(self.target, count=count)
        log.info("scale: %s", change)
        return change

    def end(self, ending: Ending, delay: float = 0.0) -> None:
        """Want the server to stop, after some seconds in which it still accepts."""
        if ending > self.ending:
            log.info("stopping%s", " now" if ending is Ending.IMMEDIATE else "")
            self.ending = ending
            self.drain_at = self._clock() + delay

    def step(self) -> bool:
        """Go on with a stop; return whether the target has become to have nobody."""
        if self.ending is Ending.DELAYED and self._clock() >= self.drain_at:
            self.ending = Ending.DRAINING
        is_immediate = self.ending is Ending.IMMEDIATE
        if self.ending < Ending.DRAINING or (not self.target.count and self.target.is_immediate == is_immediate):
            return False
        self.target = Target(0, self.target.generation, None, is_immediate)
        return True

    def consider(self, candidate: Candidate | None) -> None:
        """Want a candidate beside the current generation, or none."""
        self.target = dataclasses.replace(self.target, candidate=candidate)

    def commit(self, count: int, generation: int) -> None:
        """Want the candidate to be the current generation."""
        self.target = Target(count, generation)
