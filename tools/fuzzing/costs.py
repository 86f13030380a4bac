"""What inputs cost, by their size: those that cost a hundred times the median of their like are findings.

Knows: medians, bounds. Does not know: clocks, parsers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from statistics import median

TIMES = 100  # the median of an input's size class
MAX_SAMPLES = 2000  # of a size class; beyond, each further one takes the place of another
ENOUGH = 16  # samples for a median; a class with fewer is judged together with the smaller ones


@dataclass(slots=True)
class Costs:
    """Costs by size class, a power of two; `least` is never too much, whatever the median."""

    least: float
    samples: dict[int, list[float]] = field(default_factory=dict)
    random: Random = field(default_factory=lambda: Random(0))

    def add(self, size: int, cost: float) -> None:
        """Take note of one input."""
        samples = self.samples.setdefault(size.bit_length(), [])
        if len(samples) < MAX_SAMPLES:
            samples.append(cost)
        else:
            samples[self.random.randrange(MAX_SAMPLES)] = cost

    def is_excess(self, size: int, cost: float) -> bool:
        """Whether an input costs too much; to be asked when many have been added."""
        return cost > self.least and cost > TIMES * self.usual(size)

    def usual(self, size: int) -> float:
        """Return the median of a size class."""
        together: list[float] = []
        for size_class in sorted((c for c in self.samples if c <= size.bit_length()), reverse=True):
            together += self.samples[size_class]
            if len(together) >= ENOUGH:
                break
        return median(together) if together else 0.0
