"""What waits in the kernel for the readers of UDP sockets, as /proc/net/udp shows it (proc(5)).

Knows: the columns of that file. Does not know: whose sockets they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_TABLE = Path("/proc/net/udp")


@dataclass(frozen=True, slots=True)
class Queue:
    """One socket: the memory of what waits in it, and how many datagrams it had no room for, ever."""

    waiting_bytes: int
    drops: int


def parse(text: str, port: int) -> list[Queue]:
    """Return the sockets that are bound to a port."""
    rows = (line.split() for line in text.splitlines()[1:])
    local, sizes, drops = 1, 4, -1
    return [
        Queue(int(row[sizes].partition(":")[2], 16), int(row[drops]))
        for row in rows
        if int(row[local].rpartition(":")[2], 16) == port
    ]


def waiting_at(port: int) -> list[Queue]:
    """Return the sockets of a port, of this network namespace."""
    return parse(_TABLE.read_text(), port)
