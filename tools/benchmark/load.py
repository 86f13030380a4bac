"""A load generator that runs beside the bench, and its order book.

Knows: how to start load.c with its clients or their Python twins, and the lines they speak.
Does not know: which server answers.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tools.benchmark.client_udp import UDP_SEGMENT
from tools.benchmark.workshop import Failure, Program, Unavailable, Workshop, python, wait_line

STALL_TIMEOUT = 20.0  # beyond the length of a run; the generators give up after 3 s without an answer
OPENSSL = "openssl/ssl.h"
GENERATORS: Mapping[str, Program] = {
    "tcp": Program("load_tcp", ("load.c", "load_tcp.c")),
    "tls": Program("load_tls", ("load.c", "load_tls.c"), ("ssl", "crypto"), OPENSSL),
    "udp": Program("load_udp", ("load.c", "load_udp.c")),
}


@dataclass(frozen=True, slots=True)
class Work:
    """What the clients do.

    Attributes:
        kind: `exchange`, `connect` or `resume`, see load.c.
        piece_bytes: length of a line or a datagram of the request, 0 if it is one piece.
        transport: `tcp`, `tls` or `udp`.
    """

    kind: str
    connections: int
    request_bytes: int
    piece_bytes: int = 0
    transport: str = "tcp"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run did.

    Attributes:
        resumed: those of the operations that took up a TLS session of an earlier connection.
    """

    operations: int
    errors: int
    seconds: float
    resumed: int


def parse_outcome(line: str) -> Outcome:
    """Return what a line of a generator says."""
    operations, errors, seconds, resumed = line.split()
    return Outcome(int(operations), int(errors), float(seconds), int(resumed))


def generator_command(shop: Workshop, transport: str) -> list[str]:
    """Return the command of the best generator that this machine can run."""
    try:
        return [str(shop.compiled(GENERATORS[transport]))]
    except Unavailable:
        return python("-m", "tools.benchmark.generator", transport)


def require_segmentation() -> None:
    """Raise Unavailable if this kernel does not cut one send into datagrams."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1)
        except OSError as error:
            raise Unavailable(f"this kernel has no UDP_SEGMENT: {error.strerror}") from error


class Load:
    """A running generator. Nothing is in flight between two runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, seconds: float) -> Outcome:
        """Send for so many seconds and wait for the last answer.

        Raises:
            Failure: an answer was lost or wrong, or there was none at all.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(f"run {seconds}\n")
        self._process.stdin.flush()
        outcome = parse_outcome(wait_line(self._process, seconds + STALL_TIMEOUT))
        if outcome.errors or not outcome.operations:
            raise Failure(f"{outcome.errors} answers lost or wrong, {outcome.operations} good")
        return outcome


@contextlib.contextmanager
def open_load(shop: Workshop, work: Work, port: int) -> Iterator[Load]:
    """Give a generator for the server at this port of 127.0.0.1, and end it.

    Raises:
        Unavailable: this kernel cannot do the work.
    """
    if work.transport == "udp" and work.piece_bytes < work.request_bytes:
        require_segmentation()
    command = generator_command(shop, work.transport)
    numbers = (port, work.connections, work.request_bytes, work.piece_bytes)
    with shop.start_load([*command, work.kind, *map(str, numbers)]) as process:
        try:
            yield Load(process)
        finally:
            process.kill()
