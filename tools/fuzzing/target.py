"""What is fuzzed: where inputs come from, who takes them, which errors it may answer with; what is found.

Knows: the words. Does not know: any parser, how time is measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

SHOWN_BYTES = 300


class Broken(Exception):
    """A parser has taken an input, and a rule does not hold of what it made of it."""


@dataclass(frozen=True, slots=True)
class Target:
    """A parser under attack.

    Attributes:
        make: returns an input; all that is random in it comes from its argument.
        call: gives an input to the parser; the same input is always treated alike.
        allowed: the errors with which an input may be refused.
        least_seconds: of CPU, below which no input is too dear.
    """

    name: str
    what: str
    make: Callable[[Random], bytes]
    call: Callable[[bytes], None]
    allowed: tuple[type[BaseException], ...] = ()
    least_seconds: float = 0.05


@dataclass(slots=True)
class Finding:
    """Inputs that break one thing; the smallest one is told.

    Attributes:
        number: which of the inputs of its seed was the first.
    """

    problem: str
    seed: int
    number: int
    data: bytes
    times: int = 1

    def __str__(self) -> str:
        shown = repr(self.data[:SHOWN_BYTES])
        more = f" … of {len(self.data)} bytes" if len(self.data) > SHOWN_BYTES else ""
        times = f", {self.times} times" if self.times > 1 else ""
        return f"{self.problem} (seed {self.seed}, input {self.number}{times})\n    {shown}{more}"


@dataclass(slots=True)
class Result:
    """What became of one target.

    Attributes:
        slowest: CPU seconds of one input.
        cpu: CPU seconds of all, the making of inputs included.
    """

    name: str
    inputs: int = 0
    refused: int = 0
    slowest: float = 0.0
    slowest_bytes: int = 0
    cpu: float = 0.0
    findings: list[Finding] = field(default_factory=list)
