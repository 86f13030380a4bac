"""A load generator that runs beside the bench, and its order book.

Knows: how to start load.c or its Python twin, and the lines they speak.
Does not know: which server answers.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from tools.benchmark.workshop import HERE, Failure, Unavailable, Workshop, python, wait_line

STALL_TIMEOUT = 20.0  # beyond the length of a run; the generators give up after 3 s without an answer


@dataclass(frozen=True, slots=True)
class Work:
    """What the clients do.

    Attributes:
        kind: `exchange` or `connect`, see load.c.
        line_bytes: length of a line within the request, 0 for none.
    """

    kind: str
    connections: int
    request_bytes: int
    line_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run did."""

    operations: int
    errors: int
    seconds: float


def parse_outcome(line: str) -> Outcome:
    """Return what a line of a generator says."""
    operations, errors, seconds = line.split()
    return Outcome(int(operations), int(errors), float(seconds))


def generator_command(shop: Workshop) -> list[str]:
    """Return the command of the best generator that this machine can run."""
    try:
        return [str(shop.compiled("load"))]
    except Unavailable:
        return python(str(HERE / "generator.py"))


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
    """Give a generator for the server at this port of 127.0.0.1, and end it."""
    numbers = (port, work.connections, work.request_bytes, work.line_bytes)
    with shop.start_load([*generator_command(shop), work.kind, *map(str, numbers)]) as process:
        try:
            yield Load(process)
        finally:
            process.kill()
