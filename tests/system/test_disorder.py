"""The short form of what tools/chaos does by hand: nothing is lost while things are broken under load.

Figures of time are left to the long form: a machine that runs other tests beside these would spoil them.
"""

from __future__ import annotations

import pytest

from tools.disorder.catalogue import SCENARIOS, run_scenario

TIMED_ONLY = {"health", "stall"}


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name not in TIMED_ONLY])
def test_a_scenario_of_disorder_loses_nothing(name: str) -> None:
    outcome = run_scenario(name, short=True)
    failed = [check for check in outcome.checks if not check.holds and not check.timing]
    assert not failed, "\n".join([*map(str, failed), *outcome.notes])
