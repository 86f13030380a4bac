"""What proc(5) tells of the workers: CPU time, descriptors, and their share of memory.

Knows: files of /proc. Does not know: what the numbers are called, who asks.
"""

from __future__ import annotations

import os
import time
from typing import Any

TICKS = os.sysconf("SC_CLK_TCK")
PSS_SECONDS = 15.0  # between two looks at a process's maps, which cost a millisecond each
UTIME, STIME = 11, 12  # in /proc/PID/stat, behind the name


class Processes:
    """The workers, as the kernel sees them."""

    def __init__(self) -> None:
        self._pss: dict[int, tuple[float, int]] = {}  # by pid: when it was read, and its bytes

    def add_to(self, census: dict[str, Any]) -> None:
        """Add CPU seconds, descriptors and PSS to the slots of a census; what cannot be read is left out."""
        slots = {row["slot"]: row for row in census["slots"]}
        readers = {
            "process_cpu_seconds_total": read_cpu_seconds,
            "process_open_fds": count_descriptors,
            "process_pss_bytes": self._read_pss,
        }
        for slot, pid in census["pids"]:
            row = slots.get(slot, {})
            for name, read in readers.items():
                try:
                    row[name] = row.get(name, 0) + read(pid)
                except (OSError, ValueError, IndexError):  # it has ended, or is somebody else's
                    pass
        for pid in self._pss.keys() - {pid for _, pid in census["pids"]}:
            del self._pss[pid]

    def _read_pss(self, pid: int) -> int:
        """Return the proportional set size of a process in bytes, at most PSS_SECONDS old."""
        now = time.monotonic()
        if pid not in self._pss or now - self._pss[pid][0] > PSS_SECONDS:
            with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
                found = [int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:")]
            self._pss[pid] = (now, found[0])
        return self._pss[pid][1]


def read_cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[UTIME]) + int(fields[STIME])) / TICKS


def count_descriptors(pid: int) -> int:
    """Return how many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))
