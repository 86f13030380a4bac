"""CPython's own tests of asyncio on prefork's selector: what passes with the plain loop passes with ours."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SUITE = Path(__file__).with_name("asyncio_suite.py")
ROOT = SUITE.parents[2]
MODULES = (
    "test_events", "test_streams", "test_subprocess", "test_sock_lowlevel", "test_server", "test_base_events",
    "test_selector_events", "test_unix_events", "test_sendfile", "test_buffered_proto", "test_ssl",
    "test_sslproto", "test_runners", "test_timeouts", "test_tasks",
)  # fmt: skip
SUITE_SECONDS = 240
OTHERS = ("python3.11", "python3.12", "python3.13")


def interpreters() -> list[str]:
    """Return this interpreter, and those of the other versions that are on the path."""
    this = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return [sys.executable, *(name for name in OTHERS if name != this)]


def run_suite(python: str, which: str, module: str) -> dict[str, Any]:
    done = subprocess.run(
        [python, str(SUITE), which, module],
        capture_output=True,
        text=True,
        timeout=SUITE_SECONDS,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    outcome: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return outcome


def skip_without_suite(python: str) -> None:
    if shutil.which(python) is None:
        pytest.skip(f"there is no {python} on the path")
    try:
        subprocess.run([python, "-c", "import test.test_asyncio"], check=True, capture_output=True, timeout=60)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"{python} does not ship test.test_asyncio: {error.stderr.decode().splitlines()[-1:]}")


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("python", interpreters(), ids=lambda python: Path(python).name)
def test_what_passes_with_the_plain_loop_passes_with_ours(python: str, module: str) -> None:
    skip_without_suite(python)
    plain = run_suite(python, "plain", module)
    ours = run_suite(python, "prefork", module)
    if missing := set(ours["failed"]) - set(plain["failed"]):  # a test of clocks may fail once under load
        ours = run_suite(python, "prefork", module)
    missing &= set(ours["failed"])
    assert not missing, {name: ours["failed"][name] for name in missing}
    assert ours["ran"] == plain["ran"]


@pytest.mark.slow
def test_the_suite_really_runs_on_our_selector() -> None:
    skip_without_suite(sys.executable)
    assert run_suite(sys.executable, "prefork", "test_streams")["selectors"] > 10
