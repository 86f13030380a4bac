"""What a scenario found: the checks with their goals, the counts of every kind of failure, and the notes.

Knows: how a verdict follows from the checks, and how an outcome is written as JSON.
Does not know: how anything was measured.
"""

from __future__ import annotations

from dataclasses import dataclass, field

_OF_TIME = frozenset({"s", "ms", "x", "%"})  # units of times, of their ratios, and of shares of a CPU


@dataclass(frozen=True, slots=True)
class Check:
    """One measured value beside its goal; `timing` marks those that a busy machine can spoil."""

    what: str
    measured: str
    goal: str
    holds: bool
    timing: bool = False

    def __str__(self) -> str:
        return f"{self.what} {self.measured} (goal {self.goal})"


@dataclass(slots=True)
class Outcome:
    """The result of one scenario."""

    name: str
    goal: str
    checks: list[Check] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    latencies: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return bool(self.checks) and not self.failures

    @property
    def failures(self) -> list[Check]:
        return [check for check in self.checks if not check.holds]

    def expect_at_most(self, what: str, measured: float, limit: float, unit: str = "") -> None:
        """Check a count (no unit) or a measured quantity against its upper limit."""
        timing = unit in _OF_TIME
        text = f"{_number(measured)}{_spaced(unit)}"
        goal = f"≤ {_number(limit)}{_spaced(unit)}" if limit or unit else "0"
        self.checks.append(Check(what, text, goal, measured <= limit, timing))

    def expect_at_least(self, what: str, measured: float, limit: float, unit: str = "") -> None:
        text, goal = f"{_number(measured)}{_spaced(unit)}", f"≥ {_number(limit)}{_spaced(unit)}"
        self.checks.append(Check(what, text, goal, measured >= limit, unit in _OF_TIME))

    def expect_equal(self, what: str, measured: object, wanted: object) -> None:
        self.checks.append(Check(what, str(measured), str(wanted), measured == wanted))

    def expect_nothing(self, what: str, found: list[str]) -> None:
        """Check that a list of complaints is empty; the first few become the measured value."""
        measured = "; ".join(found[:4]) if found else "nothing"
        self.checks.append(Check(what, measured, "nothing", not found))

    def as_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "goal": self.goal,
            "passed": self.passed,
            "seconds": round(self.seconds, 2),
            "checks": [
                {"what": c.what, "measured": c.measured, "goal": c.goal, "holds": c.holds, "timing": c.timing}
                for c in self.checks
            ],
            "counts": self.counts,
            "latencies_ms": self.latencies,
            "notes": self.notes,
        }


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 and value % 1 else f"{value:.0f}"


def _spaced(unit: str) -> str:
    return f" {unit}" if unit else ""
