"""A stop that comes while the server is still starting: never a hang, never an orphan."""

from __future__ import annotations

import signal
import subprocess
import time

import pytest

from tests.eventually import eventually
from tests.system.conftest import Prepare
from tests.system.processes import is_gone
from tests.system.running import ECHO, Running

SLOW_IMPORT = "import time\nopen('importing', 'w').close()\ntime.sleep(30)\n" + ECHO
SLOW_LIFE = (
    """
import asyncio, contextlib

@contextlib.asynccontextmanager
async def life():
    open('entering', 'w').close()
    await asyncio.sleep(30)
    yield
"""
    + ECHO
)


def stop_after(server: Running, seconds: float, number: int) -> int:
    """Start it, stop it so soon; check what is left; return the exit status."""
    server.start(wait=False)
    assert server.process is not None
    with pytest.raises(subprocess.TimeoutExpired):
        server.process.wait(seconds)
    below, has_handlers = server.descendants(), server.control.exists()
    status = server.stop(number, within=5)
    assert status == 0 or not has_handlers
    eventually(lambda: all(is_gone(pid) for pid in below), within=3)
    if status != 0:
        server.expected_errors += ["exit", "Traceback", "KeyboardInterrupt"]
    return status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_at_any_moment_of_the_start_ends_it(prepare: Prepare, number: int) -> None:
    # Before there are handlers the interpreter ends in one of its own ways: by the signal, or with a traceback.
    early = {-number} if number == signal.SIGTERM else {-number, 130, 1}
    begun = time.monotonic()
    first = prepare().start(wait=False)
    eventually(first.control.exists)
    seconds = time.monotonic() - begun
    assert first.stop(number) == 0
    statuses = {stop_after(prepare(), seconds * step / 8, number) for step in range(12)}
    assert statuses <= {0, *early}


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
