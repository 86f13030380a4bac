"""The pid file: written, locked, removed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from prefork.errors import BootError
from prefork.process.pidfile import PidFile

HOLD = """
import sys
from prefork.process.pidfile import PidFile
held = PidFile(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


def holder(path: Path) -> subprocess.Popen[str]:
    """Start a process that holds a pid file until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_it_holds_our_pid_and_goes_with_us(tmp_path: Path) -> None:
    path = tmp_path / "x.pid"
    held = PidFile(str(path))
    assert path.read_text() == f"{os.getpid()}\n"
    held.close()
    assert not path.exists()


def test_one_that_a_dead_process_has_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x.pid"
    with holder(path) as process:
        process.kill()
    assert path.exists()
    PidFile(str(path)).close()


def test_one_that_a_living_process_holds_is_refused_with_its_pid_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.pid"
    with holder(path) as process:
        with pytest.raises(BootError, match=f"the server with pid {process.pid} holds it"):
            PidFile(str(path))
        assert path.read_text() == f"{process.pid}\n"
        process.kill()


def test_a_longer_text_of_an_older_one_is_overwritten_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.pid"
    path.write_text("123456789 and more\n")
    held = PidFile(str(path))
    assert path.read_text() == f"{os.getpid()}\n"
    held.close()


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(BootError, match=r"cannot write pidfile .*missing.*set `pidfile:`"):
        PidFile(str(tmp_path / "missing" / "x.pid"))


def test_one_that_somebody_has_removed_is_no_trouble_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "x.pid"
    held = PidFile(str(path))
    path.unlink()
    held.close()
