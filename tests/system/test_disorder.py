"""The short form of what tools/chaos does by hand: nothing is lost while things are broken under load.

Figures of time are left to the long form: a machine that runs other tests beside these would spoil them.
"""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from tools.disorder.catalogue import SCENARIOS, run_scenario

TIMED_ONLY = {"health", "stall"}
WITH_CERTIFICATE = {"tls-reload", "stuck-handshakes"}
QUICK = {"reload", "kill", "term", "datagram-kill", "garbage", "tls-reload"}  # all others are marked slow


def names() -> list[Any]:
    """Return what is played here; what needs a certificate cannot be without the command that makes one."""
    mark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no command openssl to make a certificate")
    marks = {
        name: [*([mark] if name in WITH_CERTIFICATE else []), *([] if name in QUICK else [pytest.mark.slow])]
        for name in SCENARIOS
    }
    return [pytest.param(name, marks=marks[name]) for name in SCENARIOS if name not in TIMED_ONLY]


@pytest.mark.parametrize("name", names())
def test_a_scenario_of_disorder_loses_nothing(name: str) -> None:
    outcome = run_scenario(name, short=True)
    failed = [check for check in outcome.checks if not check.holds and not check.timing]
    assert not failed, "\n".join([*map(str, failed), *outcome.notes])
