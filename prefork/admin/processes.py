"""What proc(5) tells of the workers: descriptors, and their share of memory.

A look at a process's maps costs a millisecond, and one at its descriptors as much for a few thousand of them. So
both are read again one process after the other, not all when somebody asks.

Knows: files of /proc. Does not know: what the numbers are called, who asks.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

ROUND_SECONDS = 15.0  # in which each process is read once
IDLE_SECONDS = 1.0  # until somebody has asked


class Processes:
    """The workers, as the kernel sees them, at most ROUND_SECONDS ago."""

    def __init__(self) -> None:
        self._known: dict[int, dict[str, int]] = {}  # by pid, the one that was read longest ago first

    def add_to(self, census: dict[str, Any]) -> None:
        """Add descriptors and PSS to the slots of a census; what cannot be read is left out."""
        slots = {row["slot"]: row for row in census["slots"]}
        for slot, pid in census["pids"]:
            if pid not in self._known:
                self._known[pid] = read_process(pid)
            row = slots.get(slot, {})
            for name, number in self._known[pid].items():
                row[name] = row.get(name, 0) + number
        for pid in self._known.keys() - {pid for _, pid in census["pids"]}:
            del self._known[pid]

    async def keep_fresh(self) -> None:
        """Read one process after the other, for ever."""
        while True:
            await asyncio.sleep(ROUND_SECONDS / len(self._known) if self._known else IDLE_SECONDS)
            for pid in list(self._known)[:1]:
                del self._known[pid]
                self._known[pid] = read_process(pid)


def read_process(pid: int) -> dict[str, int]:
    """Return how many descriptors a process has open, and its proportional set size in bytes."""
    found = {}
    try:
        found["process_open_fds"] = len(os.listdir(f"/proc/{pid}/fd"))
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            found["process_pss_bytes"] = next(
                int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:")
            )
    except (OSError, ValueError, StopIteration):  # it has ended, or is somebody else's
        pass
    return found
