"""All numbers of the server at one moment, as metrics are made of them.

Knows: the books, shared memory, the kernel's own counts. Does not know: names of metrics, who asks.
"""

from __future__ import annotations

from typing import Any

from prefork.process.crew import Crew
from prefork.process.ports import Ports
from prefork.process.roster import State
from prefork.scoreboard import TURN_CELLS, Cell, block, sum_blocks

NETSTAT = "/proc/net/netstat"  # proc(5): names and numbers of TcpExt in pairs of lines


def take_census(crew: Crew, ports: Ports) -> dict[str, Any]:
    """Return the numbers, made of JSON's types.

    Returns:
        `listeners`: rows of (listener, slot, cells as `Count` has them), of all workers that are or were;
        `slots`: a mapping for each; `states`, `spawns`: by name; `exits`:
        rows of (how, code, number); `starts` and `start_seconds`: a histogram; `queues`: by listener.
    """
    tolls = crew.tolls
    return {
        "listeners": [[name, slot, cells] for (slot, name), cells in sum_cells(crew).items()],
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


def sum_cells(crew: Crew) -> dict[tuple[int, str], list[int]]:
    """Return the cells of each slot and listener, as `Count` has them, over all workers that are or were.

    What is counted never goes down; Count.OPEN is of those that live.
    """
    blocks = {key: [cells] for key, cells in crew.totals.items()}
    for record in crew.roster.records:
        for place, listener in enumerate(record.link.config.listeners):
            blocks.setdefault((record.slot, listener.name), []).append(block(record.link.page, place).tolist())
    return {key: sum_blocks(several) for key, several in blocks.items()}


def _describe_slots(crew: Crew) -> list[dict[str, Any]]:
    """Return what each slot's workers come to; of gauges, those of the one that serves."""
    slots: dict[int, dict[str, Any]] = {}
    for slot in {*crew.tolls.turns, *(record.slot for record in crew.roster.records)}:
        turns = list(crew.tolls.turns.get(slot, [0] * TURN_CELLS))
        slots[slot] = {
            "slot": slot,
            "busy": crew.tolls.busy[slot],
            "cpu": crew.tolls.cpu[slot],
            "turns": turns,
            "load": 0.0,
            "lag": 0.0,
            "rss": 0,
        }
    for record in crew.roster.records:
        page, row = record.link.page, slots[record.slot]
        row["busy"] += page[Cell.BUSY]
        row["cpu"] += page[Cell.CPU]
        row["turns"] = sum_blocks([row["turns"], page[Cell.TURNS : Cell.TURNS + TURN_CELLS].tolist()])
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
