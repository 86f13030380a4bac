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
SLOW = {
    *("slow-read", "slowloris-header", "slowloris-body", "stuck-handshakes", "reset-storm", "descriptors"),
    *("one-source", "idle-flood", "heap", "reload-long"),
}  # seconds each; the guards have tests of their own


def names() -> list[Any]:
    """Return what is played here; what needs a certificate cannot be without the command that makes one."""
    mark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no command openssl to make a certificate")
    marks = {**dict.fromkeys(WITH_CERTIFICATE, mark), **dict.fromkeys(SLOW, pytest.mark.slow)}
    return [pytest.param(name, marks=marks.get(name, ())) for name in SCENARIOS if name not in TIMED_ONLY]


@pytest.mark.parametrize("name", names())
def test_a_scenario_of_disorder_loses_nothing(name: str) -> None:
    outcome = run_scenario(name, short=True)
    failed = [check for check in outcome.checks if not check.holds and not check.timing]
    assert not failed, "\n".join([*map(str, failed), *outcome.notes])
