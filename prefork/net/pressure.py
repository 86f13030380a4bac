"""What a worker runs short of: descriptors, memory, time; and who has to go first.

Knows: limits of the process and of its cgroup, connections. Does not know: who wants in, the loop.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterable
from heapq import nlargest, nsmallest
from pathlib import Path
from typing import Any

from prefork.cgroups import CGROUP_ROOT, SELF_CGROUP, cgroup_folders, read_cgroup

APP_SHARE = 5  # one in so many descriptors is left to the app
SHORT, WELL = 0.90, 0.85  # of the memory: nobody new is accepted above the one, until it is below the other
SHED_SHARE = 0.9  # of limits.buffers is what is left when it was full
RESCAN_SECONDS = 0.25
EVICTED_AT_ONCE = 512  # idle connections that are looked for together, and closed one by one
MEMORY_FILES = {  # by the version of cgroups: limit, usage, and what of it the kernel can drop
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "),
    2: ("memory.max", "memory.current", "inactive_file "),
}
NO_LIMIT = 1 << 60


class Pressure:
    """The resources of one worker.

    Attributes:
        max_open: connections over all listeners.
        is_short: of memory.
        awoke_at: when the loop last stood still for long, CLOCK_MONOTONIC: what nobody did then is nobody's fault.
    """

    def __init__(self, root: Path = CGROUP_ROOT, membership: Path = SELF_CGROUP) -> None:
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.max_open = NO_LIMIT if soft == resource.RLIM_INFINITY else soft - soft // APP_SHARE
        self.is_short = False
        self.awoke_at = 0.0
        self._memory = open_memory(root, membership)
        self._scanned_at: dict[str, float] = {}  # when a listener had no idle connection
        self._oldest: dict[str, list[tuple[float, Any]]] = {}  # by listener, the next one last

    def look_at_memory(self) -> None:
        """Find out whether there is memory for more connections."""
        share, is_short = WELL if self.is_short else SHORT, False
        for memory in self._memory[:]:
            try:
                limit, used = measure(memory)
            except OSError:  # the process was moved, and the group it was in is gone
                self._memory.remove(memory)
                continue
            is_short = is_short or used > limit * share
        self.is_short = is_short

    def find_oldest(self, name: str, transports: Callable[[], Iterable[Any]], now: float) -> Any:
        """Return the connection of a listener that has been idle for the longest time; None: all are busy.

        Args:
            transports: returns its open ones, when those found before are used up; at most once in RESCAN_SECONDS,
                for that takes a microsecond of each.
            now: CLOCK_MONOTONIC, to a beat.
        """
        for is_new in (False, True):
            if is_new:
                if now - self._scanned_at.get(name, -RESCAN_SECONDS) < RESCAN_SECONDS:
                    return None
                idle = (t for t in transports() if is_evictable(t))
                found = nsmallest(EVICTED_AT_ONCE, ((t.touched, t.serial, t) for t in idle))
                self._oldest[name] = [(touched, t) for touched, _, t in reversed(found)]
                if not found:
                    self._scanned_at[name] = now
            while known := self._oldest.get(name):
                touched, transport = known.pop()
                if transport.touched == touched and is_evictable(transport) and not transport.has_arrived():
                    return transport
        return None


def is_evictable(transport: Any) -> bool:
    """Whether a connection has nothing under way that its end would lose."""
    return not (transport.is_closing() or transport.is_busy or transport.owes is True)


def shed(transports: Iterable[Any], limit: int) -> tuple[int, list[Any]]:
    """Return how many bytes wait for all readers, and the slowest that have to go for `limit` to be kept."""
    waiting = [(transport.get_write_buffer_size(), transport.serial, transport) for transport in transports]
    total = sum(size for size, _, _ in waiting)
    gone = []
    if total > limit:
        for size, _, transport in nlargest(len(waiting), waiting):
            if total <= limit * SHED_SHARE:
                break
            gone.append(transport)
            total -= size
    return total, gone


def open_memory(root: Path, membership: Path) -> list[tuple[int, int, int, str]]:
    """Return the memory limits of this process's cgroup and of those above it, and where usage is read.

    Args:
        root: where cgroups are mounted.
        membership: the file that says which of them this process is in.

    Returns:
        For each limit: bytes, a descriptor of the usage, one of the statistics, the word that begins what the
        kernel can drop there.
    """
    found = []
    for version, folder in cgroup_folders("memory", root, membership):
        limit_name, usage_name, word = MEMORY_FILES[version]
        limit = read_cgroup(folder / limit_name).strip()
        if not limit.isdigit() or int(limit) >= NO_LIMIT:
            continue
        try:
            usage, stat = (
                os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC) for name in (usage_name, "memory.stat")
            )
        except OSError:
            continue
        found.append((int(limit), usage, stat, word))
    return found


def measure(memory: tuple[int, int, int, str]) -> tuple[int, int]:
    """Return a limit and what of it is in use, without files that the kernel can drop."""
    limit, usage, stat, word = memory
    return limit, int(os.pread(usage, 32, 0)) - read_number(os.pread(stat, 8192, 0).decode(), word)


def read_number(text: str, word: str) -> int:
    """Return the number behind a word that begins a line; 0: there is none."""
    for line in text.splitlines():
        if line.startswith(word):
            return int(line.removeprefix(word))
    return 0
