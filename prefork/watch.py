"""How a worker watches a listening socket: the word that both wings use for it.

Knows: the four ways. Does not know: sockets, workers.
"""

from __future__ import annotations

from enum import Enum


class Watch(Enum):
    FIRST = "first"  # its own, or one that has no other worker
    SECOND = "second"  # a neighbour's: takes what the first leaves for a moment
    SHARED = "shared"  # one socket for all workers: unix
    ONLY = "only"  # of datagrams: nobody else reads from it, so that a peer keeps its worker
