"""What the server says about itself: `status` and `health`.

Knows: the books. Does not know: who asks, how the answer travels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from prefork.config.limits import TRIALS
from prefork.process.crew import Crew
from prefork.process.roster import Roster, State, Target
from prefork.scoreboard import COUNTERS, REJECTED, TRIED, Cell, Count, Rule, block, read_counters

SUMMED = (Count.ACCEPTED, Count.CLOSED, Count.ERRORS, Count.DATAGRAMS, Count.RECEIVED_BYTES, Count.SENT_BYTES)


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


def sum_counters(crew: Crew) -> dict[str, dict[str, int]]:
    """Return what all workers that are or were have counted: it never goes down.

    Returns:
        `counters` by name; `rejected` by rule, and `dry_run` for limits that are only tried.
    """
    sums: Counter[int] = Counter()
    for total in crew.totals.values():
        sums.update(total)
    for record in crew.roster.records:
        for place, _ in enumerate(record.link.config.listeners):
            sums.update(read_counters(record.link.page, place))
    return {
        "counters": {count.name.lower(): sums[count] for count in COUNTERS},
        "rejected": {rule.key: sums[REJECTED + rule] for rule in Rule},
        "dry_run": {rule.key: sums[TRIED + rule] for rule in Rule if rule.key in TRIALS},
    }


def describe_listeners(crew: Crew, bound: Sequence[dict[str, str]]) -> list[dict[str, Any]]:
    """Return name, address and sums of each listener."""
    rows = {row["name"]: dict.fromkeys(SUMMED, 0) for row in bound}
    open_now = dict.fromkeys(rows, 0)
    for (_, name), cells in crew.totals.items():
        for count in SUMMED if name in rows else ():
            rows[name][count] += cells[count]
    for record in crew.roster.records:
        for place, listener in enumerate(record.link.config.listeners):
            page = block(record.link.page, place)
            for count in SUMMED if listener.name in rows else ():
                rows[listener.name][count] += page[count]
            if listener.name in rows:
                open_now[listener.name] += page[Count.OPEN]
    return [
        {
            **row,
            "connections": open_now[row["name"]],
            **{count.name.lower(): number for count, number in rows[row["name"]].items()},
        }
        for row in bound
    ]


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
