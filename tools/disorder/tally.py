"""What a crowd of clients met: counts of every kind of ending, latencies, and samples of the failures.

Knows: which endings are failures, how tallies are added up, percentiles.
Does not know: sockets, processes, goals.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise

SAMPLES = 20


class Ending(StrEnum):
    """How a request, or a connection, ended."""

    OK = "ok"  # the whole answer, each byte as sent, and EOF where the client had half-closed
    MOVED = "moved"  # a long connection was ended by FIN before the client sent its next request
    RESET_IDLE = "reset_idle"  # a long or idle connection was reset while no request was open
    CLOSED_IDLE = "closed_idle"  # an idle connection was ended by FIN
    REFUSED = "refused"
    RESET_BEFORE = "reset_before"  # reset before any byte of the answer
    RESET_MIDDLE = "reset_middle"  # reset within the answer
    EOF = "eof"  # closed without the whole answer
    TIMEOUT = "timeout"
    WRONG = "wrong"  # other bytes than those sent, or more
    UNCLEAN = "unclean"  # the whole answer, but then a reset in place of EOF
    LOCAL = "local"  # the client's own machine refused: no port, no descriptor
    HANDSHAKE = "handshake"  # TLS was not agreed upon
    RUDE = "rude"  # a long connection over TLS was ended without TLS's goodbye, before the next request
    VANISHED = "vanished"  # a datagram has no answer in time


LOST = (
    Ending.RESET_BEFORE,
    Ending.RESET_MIDDLE,
    Ending.EOF,
    Ending.WRONG,
    Ending.UNCLEAN,
    Ending.HANDSHAKE,
    Ending.VANISHED,
)
UNANSWERED = (
    Ending.RESET_BEFORE,
    Ending.RESET_MIDDLE,
    Ending.EOF,
    Ending.TIMEOUT,
    Ending.WRONG,
    Ending.VANISHED,
)
FAILED = (*LOST, Ending.REFUSED, Ending.TIMEOUT, Ending.LOCAL)


@dataclass(frozen=True, slots=True)
class Loss:
    """A datagram that was not answered: when it was sent, CLOCK_MONOTONIC, and the slot of its flow."""

    sent_at: float
    slot: int


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile of values in ascending order; 0.0 if there are none."""
    if not ordered:
        return 0.0
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(slots=True)
class Tally:
    """Counts by ending, latencies in µs (connect or send → whole answer), answers by second of the run."""

    counts: Counter[str] = field(default_factory=Counter)
    latencies: list[int] = field(default_factory=list)
    by_second: Counter[int] = field(default_factory=Counter)
    samples: list[str] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)

    def note_failure(self, ending: Ending, detail: str, begun: float) -> None:
        """Count a failure; the first few are described."""
        self.counts[ending] += 1
        if len(self.samples) < SAMPLES:
            clock = time.time()
            stamp = time.strftime("%H:%M:%S", time.localtime(clock)) + f".{int(clock % 1 * 1000):03d}"
            after = (time.monotonic() - begun) * 1000
            self.samples.append(f"{stamp} {ending} after {after:.1f} ms: {detail}")

    def note_answer(self, begun: float, now: float, second: int) -> None:
        """Take the time of a whole answer."""
        self.latencies.append(int((now - begun) * 1e6))
        self.by_second[second] += 1

    def count(self, *endings: Ending) -> int:
        return sum(self.counts[ending] for ending in endings)

    @property
    def ok(self) -> int:
        return self.count(Ending.OK)

    @property
    def failed(self) -> int:
        return self.count(*FAILED)

    @property
    def lost(self) -> int:
        return self.count(*LOST)

    @property
    def unanswered(self) -> int:
        return self.count(*UNANSWERED)

    def latency_ms(self) -> dict[str, float]:
        """Return p50, p99 and max in milliseconds."""
        ordered = sorted(self.latencies)
        shares = {"p50": 0.5, "p99": 0.99, "max": 1.0}
        return {name: percentile(ordered, share) / 1000 for name, share in shares.items()}

    def longest_silence(self) -> int:
        """Return the most whole seconds in a row without an answer, between the first answer and the last."""
        seconds = sorted(second for second, answers in self.by_second.items() if answers)
        return max((b - a - 1 for a, b in pairwise(seconds)), default=0)

    def to_json(self) -> str:
        fields = {
            "counts": self.counts,
            "latencies": self.latencies,
            "by_second": self.by_second,
            "samples": self.samples,
            "losses": [(loss.sent_at, loss.slot) for loss in self.losses],
        }
        return json.dumps(fields)

    @classmethod
    def from_json(cls, text: str) -> Tally:
        fields = json.loads(text)
        by_second = Counter({int(second): n for second, n in fields["by_second"].items()})
        losses = [Loss(*loss) for loss in fields["losses"]]
        return cls(Counter(fields["counts"]), fields["latencies"], by_second, fields["samples"], losses)


def total(tallies: Iterable[Tally]) -> Tally:
    """Add up tallies of several crowds."""
    result = Tally()
    for tally in tallies:
        result.counts.update(tally.counts)
        result.latencies.extend(tally.latencies)
        result.by_second.update(tally.by_second)
        result.samples.extend(tally.samples[: SAMPLES - len(result.samples)])
        result.losses.extend(tally.losses)
    return result
