"""The command `tools/bench`: its options, its limit of time, its report.

Knows: argparse, signals, how a run is shown.
Does not know: how anything is measured.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from tools.benchmark.catalogue import MEASUREMENTS, Options
from tools.benchmark.certificate import KEY_TYPES
from tools.benchmark.figures import Table, markdown, plain
from tools.benchmark.machine import describe, machine_line
from tools.benchmark.measurement import Measurement, run
from tools.benchmark.workshop import Workshop

DEFAULT_ROUNDS = 5
DEFAULT_SECONDS = 0.5
DEFAULT_WORKERS = (1, 2, 4, 8, 16)
TURN_OVERHEAD = 10.0  # start, warm-up and stop of a server, with a large reserve
EPILOG = """\
CPU is what the kernel has booked on the server's processes, kernel time included. Every server has its
turn in every round, so that a ratio compares neighbours in time; medians over the rounds are shown.
Exit code: 0 all was measured or is not on this machine, 1 a server failed, 2 wrong usage."""


class Overrun(Exception):
    """The whole run has taken longer than it may."""


def measurement_names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in MEASUREMENTS]:
        raise argparse.ArgumentTypeError(f"no measurement {unknown[0]!r}; there are {', '.join(MEASUREMENTS)}")
    return list(dict.fromkeys(names))


def worker_counts(text: str) -> list[int]:
    try:
        counts = [int(word) for word in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 1,2,4")
    return sorted(set(counts))


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return int(text)


def duration(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 60:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0.1 and 60 seconds")
    return seconds


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/bench",
        description="Measure CPU per operation and memory per connection of prefork and its peers.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--rounds", type=positive, default=DEFAULT_ROUNDS, help=f"turns of each server ({DEFAULT_ROUNDS})"
    )
    parser.add_argument(
        "--seconds", type=duration, default=DEFAULT_SECONDS, help=f"length of a turn ({DEFAULT_SECONDS})"
    )
    parser.add_argument(
        "--only",
        type=measurement_names,
        default=list(MEASUREMENTS),
        metavar="NAME,…",
        help=f"some of {', '.join(MEASUREMENTS)} (all)",
    )
    parser.add_argument(
        "--workers",
        type=worker_counts,
        default=list(DEFAULT_WORKERS),
        metavar="N,…",
        help=f"counts for the measurement `workers` ({','.join(map(str, DEFAULT_WORKERS))})",
    )
    parser.add_argument("--key", choices=KEY_TYPES, default="p256", help="of the certificate under TLS (p256)")
    parser.add_argument("--json", action="store_true", help="print every figure of every round as JSON")
    return parser


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def leave(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def give_up(_number: int, _frame: object) -> NoReturn:
    raise Overrun("the run took longer than it may")


def time_limit(measurements: Sequence[Measurement], seconds: float) -> float:
    """Return the seconds after which a run is broken off, several times what it should need."""
    turns = sum(len(measurement.entries) * measurement.rounds for measurement in measurements)
    return turns * (TURN_OVERHEAD + seconds)


def measure(measurements: Sequence[Measurement], shop: Workshop, seconds: float) -> tuple[list[Table], bool]:
    """Return the tables, and whether the run came to its end."""
    tables = [measurement.table() for measurement in measurements]
    signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, time_limit(measurements, seconds))
    try:
        for measurement, table in zip(measurements, tables, strict=True):
            run(measurement, shop, table, say)
    except Overrun as error:
        say(f"stopped early: {error}")
        return tables, False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return tables, True


def report(tables: Sequence[Table], facts: dict[str, str], command: str) -> str:
    """Return Markdown, ready for a README."""
    parts = [f"**{table.title}**\n\n{markdown(table)}" for table in tables]
    return "\n\n".join([*parts, machine_line(facts), f"`{command}`"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    asked = parser().parse_args(given)
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    options = Options(asked.rounds, asked.seconds, asked.workers)
    measurements = [MEASUREMENTS[name](options) for name in asked.only]
    with Workshop(asked.key) as shop:
        facts = describe(shop)
        say(machine_line(facts))
        tables, is_complete = measure(measurements, shop, options.seconds)
    command = shlex.join(["tools/bench", *given])
    if asked.json:
        document = {"machine": facts, "command": command, "measurements": [plain(table) for table in tables]}
        print(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        print(report(tables, facts, command))
    has_failure = any(row.is_failed for table in tables for row in table.rows)
    return 0 if is_complete and not has_failure else 1
