"""What waits in the kernel: for the readers of UDP sockets, and for the peers of TCP ones, as proc(5) shows it.

Knows: the columns of /proc/net/udp and tcp. Does not know: whose sockets they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_TABLE, _TCP_TABLE = Path("/proc/net/udp"), Path("/proc/net/tcp")


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


def parse_unsent(text: str, port: int) -> list[int]:
    """Return the bytes that wait, in each TCP socket of a port, for its peer; those without any are left out."""
    rows = (line.split() for line in text.splitlines()[1:])
    local, sizes = 1, 4
    waiting = (
        int(row[sizes].partition(":")[0], 16) for row in rows if int(row[local].rpartition(":")[2], 16) == port
    )
    return [size for size in waiting if size]


def unsent_at(port: int) -> list[int]:
    """Return the bytes that wait for the peers of a TCP port's sockets, of this network namespace."""
    return parse_unsent(_TCP_TABLE.read_text(), port)
