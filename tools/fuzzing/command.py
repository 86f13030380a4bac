"""The command line of tools/fuzz: which targets, for how long, and the table of what was found.

Knows: arguments, the table, the exit status (0: nothing found, 1: something, 2: wrong usage).
Does not know: any parser.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.fuzzing.attack import Attack
from tools.fuzzing.catalogue import build_targets
from tools.fuzzing.target import Result, Target

SECONDS = 10.0
HEADER = f"{'target':16} {'inputs':>9} {'per s':>8} {'refused':>8} {'slowest':>10} {'of bytes':>9} {'findings':>9}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz the targets that were asked for and return the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="prefork-fuzz-") as folder:
        targets = build_targets(Path(folder))
        if options.list:
            print("\n".join(f"{target.name:16} {target.what}" for target in targets.values()))
            return 0
        unknown = [name for name in options.names if name not in targets]
        if unknown:
            parser.error(f"no such target: {', '.join(unknown)} (see --list)")
        return run(targets, options.names or [*targets], options.seconds, options.seed)


def run(targets: Mapping[str, Target], names: Sequence[str], seconds: float, seed: int) -> int:
    """Fuzz targets one after the other, tell what is found as it is, and return the exit status."""
    print(HEADER, flush=True)
    found = 0
    for name in names:
        result = Attack(targets[name], seed).run(seconds)
        found += len(result.findings)
        print(render(result), flush=True)
    print(f"{found} findings, seed {seed}, {seconds:g} s each" if found else f"nothing found, seed {seed}")
    return 1 if found else 0


def render(result: Result) -> str:
    """Return the row of a target, and its findings below."""
    rate = result.inputs / result.cpu if result.cpu else 0.0
    share = 100 * result.refused / result.inputs if result.inputs else 0.0
    row = f"{result.name:16} {result.inputs:9} {rate:8.0f} {share:6.0f} % {result.slowest * 1000:7.1f} ms"
    row += f" {result.slowest_bytes:9} {len(result.findings):9}"
    return "\n".join([row, *(f"  FOUND {finding}" for finding in result.findings)])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/fuzz",
        description="Give hostile inputs to every parser: none may raise what it does not say, hang, or be dear.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="targets; all if none is named")
    parser.add_argument("--seconds", type=float, default=SECONDS, metavar="N", help="for each; default: 10")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="the same inputs again, or others")
    parser.add_argument("--list", action="store_true", help="name the targets")
    return parser


if __name__ == "__main__":
    sys.exit(main())
