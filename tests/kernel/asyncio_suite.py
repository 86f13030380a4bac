"""Runs CPython's own tests of asyncio, with its own selector or with prefork's; prints what failed, as JSON.

Run as a program: `python asyncio_suite.py plain|prefork MODULE…`.

Knows: unittest, where asyncio takes its selector from. Does not know: which failures matter.
"""

from __future__ import annotations

import json
import selectors
import sys
import unittest
from typing import Any


class Outcomes(unittest.TestResult):
    """Keeps the names of the tests by how they ended."""

    def __init__(self) -> None:
        super().__init__()
        self.failed: dict[str, str] = {}
        self.ran: list[str] = []

    def startTest(self, test: Any) -> None:  # unittest's name
        super().startTest(test)
        self.ran.append(test.id())

    def addError(self, test: Any, err: Any) -> None:
        super().addError(test, err)
        self.failed[test.id()] = f"{err[0].__name__}: {err[1]}"

    addFailure = addError

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            self.failed[test.id()] = f"{err[0].__name__}: {err[1]}"


def run(modules: list[str]) -> Outcomes:
    """Run the tests of some modules of `test.test_asyncio`."""
    outcomes = Outcomes()
    for name in modules:
        unittest.defaultTestLoader.loadTestsFromName(f"test.test_asyncio.{name}").run(outcomes)
    return outcomes


def main(which: str, modules: list[str]) -> None:
    made = 0
    if which == "prefork":
        from prefork.net.loop import Selector

        class Counted(Selector):
            def __init__(self) -> None:
                super().__init__()
                nonlocal made
                made += 1

        # asyncio asks for its selector by these names each time it makes a loop.
        selectors.DefaultSelector = selectors.EpollSelector = Counted  # type: ignore[misc, assignment]
    outcomes = run(modules)
    print(json.dumps({"ran": outcomes.ran, "failed": outcomes.failed, "selectors": made}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
