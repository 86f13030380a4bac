"""A stop that comes while the server is still starting: never a hang, never an orphan."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from tests.eventually import eventually
from tests.system.conftest import Prepare
from tests.system.processes import is_gone
from tests.system.running import ECHO

SLOW_IMPORT = "import time\nopen('importing', 'w').close()\ntime.sleep(30)\n" + ECHO
SLOW_LIFE = """
import asyncio, contextlib

@contextlib.asynccontextmanager
async def life():
    open('entering', 'w').close()
    await asyncio.sleep(30)
    yield
""" + ECHO


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_at_any_moment_of_the_start_ends_it(prepare: Prepare, number: int) -> None:
    statuses = []
    for step in range(30):
        server = prepare()
        server.start(wait=False)
        assert server.process is not None
        with pytest.raises(subprocess.TimeoutExpired):
            server.process.wait(step * 0.02)
        below = server.descendants()
        statuses.append(server.stop(number, within=5))
        eventually(lambda: all(is_gone(pid) for pid in below), within=3)  # noqa: B023
        if statuses[-1] != 0:
            server.expected_errors += ["exit", "Traceback", "KeyboardInterrupt"]
    early = {-number, 130} if number == signal.SIGINT else {-number}  # before there are handlers
    assert set(statuses) <= {0, *early}
    assert statuses == sorted(statuses, key=lambda status: status == 0)
    assert statuses[-1] == 0


def test_a_stop_does_not_wait_for_an_import(prepare: Prepare) -> None:
    server = prepare({"app.py": SLOW_IMPORT})
    server.start(wait=False)
    eventually((server.folder / "importing").exists)
    begun = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - begun < 1


def test_a_stop_does_not_wait_for_a_lifespan_that_is_being_entered(prepare: Prepare) -> None:
    server = prepare({"app.py": SLOW_LIFE}, lifespan="app:life")
    server.start(wait=False)
    eventually((server.folder / "entering").exists)
    begun = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - begun < 1
