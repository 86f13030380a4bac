"""The command line of tools/chaos: which scenarios to run, in which form, and the table of what they found.

Knows: arguments, the table, the exit status (0: all goals hold, 1: not, 2: wrong usage).
Does not know: what the scenarios do.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.disorder.catalogue import GROUPS, SCENARIOS, run_scenario
from tools.disorder.outcome import Check, Outcome

_WIDTH = 16


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the scenarios that were asked for and return the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.list:
        print(listing())
        return 0
    names = [name for given in options.names for name in GROUPS.get(given, (given,))]
    unknown = [name for name in names if name not in SCENARIOS]
    if unknown:
        parser.error(f"no such scenario: {', '.join(unknown)} (see --list)")
    outcomes = []
    for name in names or SCENARIOS:
        outcome = run_scenario(name, short=options.short, seconds=options.seconds, keep=options.keep)
        outcomes.append(outcome)
        if not options.json:
            print(render(outcome, verbose=options.verbose), flush=True)
    if options.json:
        print(json.dumps([outcome.as_json() for outcome in outcomes], indent=2, ensure_ascii=False))
    else:
        passed = sum(outcome.passed for outcome in outcomes)
        seconds = sum(outcome.seconds for outcome in outcomes)
        print(f"{passed} of {len(outcomes)} scenarios hold, {seconds:.0f} s")
    return 0 if all(outcome.passed for outcome in outcomes) else 1


def listing() -> str:
    """Return the scenarios with their goals, one a line."""
    return "\n".join(f"{s.name:{_WIDTH}} {s.goal}" for s in SCENARIOS.values())


def render(outcome: Outcome, *, verbose: bool = False) -> str:
    """Return the rows of an outcome; its notes only if it failed, or if they are wanted."""
    verdict = "PASS" if outcome.passed else "FAIL"
    lines = [f"{verdict}  {outcome.name:{_WIDTH}} {outcome.goal}  [{outcome.seconds:.1f} s]"]
    indent = " " * (_WIDTH + 7)
    checks = "; ".join(_held(check) for check in outcome.checks if check.holds)
    if checks:
        lines.append(indent + checks)
    if outcome.counts:
        lines.append(indent + ", ".join(f"{name} {number}" for name, number in outcome.counts.items()))
    for label, values in outcome.latencies.items():
        times = ", ".join(f"{name} {value:g}" for name, value in values.items())
        lines.append(f"{indent}{label}: {times} ms")
    lines += [f"{indent}NOT {check}" for check in outcome.failures]
    if verbose or not outcome.passed:
        lines += [f"{indent}| {note}" for note in outcome.notes]
    return "\n".join(lines)


def _held(check: Check) -> str:
    bound = f" ({check.goal})" if check.goal.startswith(("≤", "≥")) else ""
    return f"{check.what} {check.measured}{bound}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/chaos",
        description="Do harm to a real prefork server under verified load, and count every kind of failure.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"groups: {', '.join(GROUPS)}\n\nscenarios:\n{listing()}".replace("%", "%%"),
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="scenarios or groups to run; all if none is named"
    )
    parser.add_argument("--short", action="store_true", help="a few seconds per scenario")
    parser.add_argument("--seconds", type=float, metavar="N", help="the length of the harm in each scenario")
    parser.add_argument("--list", action="store_true", help="name the scenarios and their goals")
    parser.add_argument("--json", action="store_true", help="print the outcomes as JSON")
    parser.add_argument("--verbose", action="store_true", help="show the notes of those that hold, too")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave config, app and logs under DIR")
    return parser


if __name__ == "__main__":
    sys.exit(main())
