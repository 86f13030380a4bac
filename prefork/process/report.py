"""What the server says about itself: `status` and `health`.

Knows: the books. Does not know: who asks, how the answer travels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prefork.config.limits import TRIALS
from prefork.process.crew import Crew
from prefork.process.roster import Roster, State, Target
from prefork.scoreboard import COUNTERS, LISTENER_CELLS, REJECTED, TRIED, Cell, Count, Rule, sum_blocks

SUMMED = (Count.ACCEPTED, Count.CLOSED, Count.ERRORS, Count.DATAGRAMS, Count.RECEIVED_BYTES, Count.SENT_BYTES)
Cells = Mapping[
    tuple[int, str], Sequence[int]
]  # of each slot and listener, see `prefork.process.census.sum_cells`


def describe_workers(crew: Crew, now: float) -> list[dict[str, Any]]:
    """Return a row for each worker process, by slot; `accepted` is of the process."""
    rows = []
    for record in sorted(crew.roster.records, key=lambda r: (r.slot, r.generation)):
        page = record.link.page
        rows.append(
            {
                "slot": record.slot,
                "pid": record.pid,
                "generation": record.generation,
                "state": record.state.value,
                "connections": page[Cell.OPEN],
                "accepted": page[Cell.ACCEPTED],
                "uptime": round(now - record.started_at, 3),
                "rss": page[Cell.RSS],
                "busy": round(page[Cell.LOAD] / 1e6, 3),
                "lag": round(page[Cell.LAG] / 1e9, 4),
            }
        )
    return rows


def sum_counters(cells: Cells) -> dict[str, dict[str, int]]:
    """Return what all workers that are or were have counted: it never goes down.

    Returns:
        `counters` by name; `rejected` by rule, and `dry_run` for limits that are only tried.
    """
    sums = sum_blocks([[0] * LISTENER_CELLS, *cells.values()])
    return {
        "counters": {count.name.lower(): sums[count] for count in COUNTERS},
        "rejected": {rule.key: sums[REJECTED + rule] for rule in Rule},
        "dry_run": {rule.key: sums[TRIED + rule] for rule in Rule if rule.key in TRIALS},
    }


def describe_listeners(cells: Cells, bound: Sequence[dict[str, str]]) -> list[dict[str, Any]]:
    """Return name, address and sums of each listener."""
    blocks = {row["name"]: [[0] * LISTENER_CELLS] for row in bound}
    for (_, name), own in cells.items():
        blocks.setdefault(name, []).append(list(own))
    rows = []
    for row in bound:
        sums = sum_blocks(blocks[row["name"]])
        counted = {count.name.lower(): sums[count] for count in SUMMED}
        rows.append({**row, "connections": sums[Count.OPEN], **counted})
    return rows


def explain_unready(roster: Roster, target: Target, is_lagging: Callable[[Any], bool], now: float) -> list[str]:
    """Return why the server is not ready, one reason per slot; an empty list: it is."""
    reasons = []
    for slot in range(target.count):
        here = [r for r in roster.records if r.slot == slot and r.state in (State.STARTING, State.READY)]
        serving = [r for r in here if r.state is State.READY]
        if serving and not all(is_lagging(r) for r in serving):
            continue
        if serving:
            reasons.append(f"slot {slot} stands still")
        elif here:
            reasons.append(f"slot {slot} starting for {now - here[0].started_at:.1f} s")
        else:
            reasons.append(f"slot {slot} has no worker")
    return reasons
