"""All numbers of the server at one moment, as metrics are made of them.

Knows: the books, shared memory, the kernel's own counts. Does not know: names of metrics, who asks.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from prefork.process.crew import Crew
from prefork.process.ports import Ports
from prefork.process.roster import State
from prefork.scoreboard import TURN_CELLS, Cell, Count, block, read_counters

NETSTAT = "/proc/net/netstat"  # proc(5): names and numbers of TcpExt in pairs of lines


def take_census(crew: Crew, ports: Ports) -> dict[str, Any]:
    """Return the numbers, made of JSON's types.

    Returns:
        `listeners`: rows of (listener, slot, {cell: value}), of all workers that are or were; `open`: rows
        of (listener, slot, connections); `slots`: a mapping for each; `states`, `spawns`: by name; `exits`:
        rows of (how, code, number); `starts` and `start_seconds`: a histogram; `queues`: by listener.
    """
    tolls = crew.tolls
    return {
        "listeners": [[name, slot, cells] for (slot, name), cells in _sum_counters(crew).items()],
        "open": [[name, slot, number] for (slot, name), number in _count_open(crew).items()],
        "slots": _describe_slots(crew),
        "states": {state.value: len(crew.roster.in_state(state)) for state in State},
        "spawns": dict(tolls.spawns),
        "exits": [[how, code, number] for (how, code), number in tolls.exits.items()],
        "starts": tolls.starts,
        "start_seconds": tolls.start_seconds,
        "queues": ports.queues(),
        "yields": crew.yields.describe(crew.roster.records),
        "dropped": ports.dropped,
        "overflows": read_overflows(),
    }


def _sum_counters(crew: Crew) -> dict[tuple[int, str], Counter[int]]:
    sums = {key: Counter(cells) for key, cells in crew.totals.items()}
    for record in crew.roster.records:
        for place, listener in enumerate(record.link.config.listeners):
            cells = sums.setdefault((record.slot, listener.name), Counter())
            cells.update(read_counters(record.link.page, place))
    return sums


def _count_open(crew: Crew) -> Counter[tuple[int, str]]:
    found: Counter[tuple[int, str]] = Counter()
    for record in crew.roster.records:
        for place, listener in enumerate(record.link.config.listeners):
            found[record.slot, listener.name] += block(record.link.page, place)[Count.OPEN]
    return found


def _describe_slots(crew: Crew) -> list[dict[str, Any]]:
    """Return what each slot's workers come to; of gauges, those of the one that serves."""
    slots: dict[int, dict[str, Any]] = {}
    for slot in {*crew.tolls.turns, *(record.slot for record in crew.roster.records)}:
        turns = list(crew.tolls.turns.get(slot, [0] * TURN_CELLS))
        slots[slot] = {
            "slot": slot,
            "busy": crew.tolls.busy[slot],
            "turns": turns,
            "load": 0.0,
            "lag": 0.0,
            "rss": 0,
        }
    for record in crew.roster.records:
        page, row = record.link.page, slots[record.slot]
        row["busy"] += page[Cell.BUSY]
        row["turns"] = [page[Cell.TURNS + place] + count for place, count in enumerate(row["turns"])]
        row["rss"] += page[Cell.RSS]
        if record.state is State.READY:
            row |= {"load": page[Cell.LOAD] / 1e6, "lag": page[Cell.LAG] / 1e9}
    return [slots[slot] for slot in sorted(slots)]


def read_overflows() -> int:
    """Return how often the kernel had no room in an accept queue, of all listening sockets of this network."""
    try:
        with open(NETSTAT, encoding="ascii") as file:
            lines = [line.split() for line in file if line.startswith("TcpExt:")]
    except OSError:
        return 0
    named = dict(zip(*lines[:2], strict=False)) if len(lines) >= 2 else {}
    return int(named.get("ListenOverflows", 0))
