"""Memory per idle connection.

The figure is a difference between two crowds, not against no connection at all: what a server takes once
(arenas, tables, code paged in, pages copied after a fork) is there in both.

Knows: thousands of client sockets, and when a server has accepted them.
Does not know: why a server needs what it needs. The kernel's own memory for a socket is not counted.
"""

from __future__ import annotations

import contextlib
import resource
import socket
import time
from collections.abc import Iterator, Mapping

from tools.benchmark.accounting import Memory, memory, open_descriptors, wait_until
from tools.benchmark.server import Running, Server
from tools.benchmark.workshop import Failure, Unavailable, Workshop

CROWD = 5000
WARM_CROWD = 500
SPARE_DESCRIPTORS = 100
BATCH = 250  # far below any backlog
ACCEPT_TIMEOUT = 10.0
ANSWER_TIMEOUT = 10.0
REST = 0.3
SOURCES = 32  # below the limit per source that a server may have

FRESH = "bytes per connection"
USED = "after one exchange"
RESIDENT = "by RSS"


def crowd_size() -> int:
    """Return how many idle connections fit into the hard limit of descriptors."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return CROWD
    return min(CROWD, hard - WARM_CROWD - SPARE_DESCRIPTORS)


def raise_descriptor_limit() -> None:
    """Raise the soft limit of descriptors to the hard one, also for the servers that are started later."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _connect(port: int, index: int) -> socket.socket:
    sock = socket.socket()
    sock.settimeout(ANSWER_TIMEOUT)
    sock.bind((f"127.0.0.{1 + index % SOURCES}", 0))
    sock.connect(("127.0.0.1", port))
    return sock


def _wait_descriptors(running: Running, count: int) -> None:
    if not wait_until(lambda: open_descriptors(running.serving) >= count, ACCEPT_TIMEOUT):
        raise Failure(f"has {open_descriptors(running.serving)} descriptors open instead of {count}")


@contextlib.contextmanager
def crowd(running: Running, count: int) -> Iterator[list[socket.socket]]:
    """Give so many connections that the server has accepted, and close them."""
    before = open_descriptors(running.serving)
    with contextlib.ExitStack() as stack:
        sockets: list[socket.socket] = []
        while len(sockets) < count:
            wanted = range(len(sockets), min(count, len(sockets) + BATCH))
            sockets += [stack.enter_context(_connect(running.port, index)) for index in wanted]
            _wait_descriptors(running, before + len(sockets))
        time.sleep(REST)
        yield sockets
    if not wait_until(lambda: open_descriptors(running.serving) <= before, ACCEPT_TIMEOUT):
        raise Failure("keeps descriptors of closed connections")


def exchange(sockets: list[socket.socket]) -> None:
    """Send a byte over each connection and wait for it."""
    for sock in sockets:
        sock.sendall(b"x")
        if sock.recv(2) != b"x":
            raise Failure("a wrong answer")
    time.sleep(REST)


def per_connection(before: Memory, fresh: Memory, used: Memory, count: int) -> dict[str, float]:
    """Return the figures of one server."""
    return {
        FRESH: (fresh.private - before.private) / count,
        USED: (used.private - before.private) / count,
        RESIDENT: (fresh.resident - before.resident) / count,
    }


def idle_memory(shop: Workshop, server: Server) -> Mapping[str, float]:
    """Measure one server."""
    count = crowd_size()
    if count < WARM_CROWD:
        raise Unavailable("the hard limit of descriptors is too low (ulimit -Hn)")
    raise_descriptor_limit()
    with server.serve(shop) as running:
        with crowd(running, WARM_CROWD) as sockets:
            exchange(sockets)
        with crowd(running, WARM_CROWD) as sockets:
            exchange(sockets)
            before = memory(running.serving)
            with crowd(running, count) as more:
                fresh = memory(running.serving)
                exchange(more)
                used = memory(running.serving)
    return per_connection(before, fresh, used, count)
