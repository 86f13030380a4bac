"""How new connections are to be shared out, so that long-lived ones even out.

Knows: open connections by slot. Does not know: the kernel, processes.
"""

from __future__ import annotations

from collections.abc import Mapping

SHARES = 64  # of one steering program: an imbalance of 2 % is as fine as it needs to get
SLACK = 8  # connections more or less are chance
SLACK_SHARE = 0.05  # of the average


def weigh(open_by_slot: Mapping[int, int]) -> tuple[int, ...]:
    """Return slots, each as often as it is to be chosen; the emptier, the more often."""
    slots = sorted(open_by_slot)
    if len(slots) < 2:
        return tuple(slots)
    counts = [open_by_slot[slot] for slot in slots]
    average = sum(counts) / len(counts)
    if max(counts) - min(counts) <= SLACK + SLACK_SHARE * average:
        return tuple(slots)
    room = [max(counts) - count + SLACK + SLACK_SHARE * average for count in counts]
    shares = [max(1, round(SHARES * part / sum(room))) for part in room]
    return tuple(slot for slot, share in zip(slots, shares, strict=True) for _ in range(share))
