"""`prefork doctor` says what a machine lacks, and touches nothing."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from tests.system.conftest import Prepare
from tests.system.remains import assert_nothing_is_left
from tests.system.running import listeners, run_prefork

CONF = Path(__file__).parents[2] / "conf"
LEVELS = {"ok", "warn", "bad"}


@pytest.mark.parametrize("arguments", [[], [str(CONF / "echo.yaml")]], ids=["the machine", "a config"])
def test_each_finding_is_one_line_that_begins_with_its_level(tmp_path: Path, arguments: list[str]) -> None:
    done = run_prefork("doctor", *arguments, folder=tmp_path)
    lines = done.stdout.splitlines()
    assert done.stderr == ""
    assert lines
    assert {line.split()[0] for line in lines} <= LEVELS
    assert done.returncode == (2 if any(line.startswith("bad") for line in lines) else 0)
    assert any(line.startswith("ok    Python 3.") for line in lines)
    assert any("Linux" in line for line in lines)


def test_findings_for_programs_are_a_list_of_objects(tmp_path: Path) -> None:
    done = run_prefork("doctor", str(CONF / "echo.yaml"), "--json", folder=tmp_path)
    rows = json.loads(done.stdout)
    assert all(set(row) == {"level", "what", "cure"} and row["level"] in LEVELS for row in rows)
    assert all(bool(row["cure"]) == (row["level"] != "ok") for row in rows)


def test_what_is_bad_is_told_and_the_exit_code_is_2(prepare: Prepare) -> None:
    server = prepare(control="nowhere/test.sock")
    done = server.run("doctor", "test.yaml")
    assert done.returncode == 2
    assert f"bad   control: there is no folder {server.folder}/nowhere; mkdir -m 700 " in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_server_of_root_without_a_user_is_told(prepare: Prepare) -> None:
    server = prepare()
    assert "warn  the app runs as root" in server.run("doctor", "test.yaml").stdout
    server.configure({"user": "nobody"})
    assert "ok    the app runs as nobody" in server.run("doctor", "test.yaml").stdout


def test_a_wrong_config_is_told_as_check_does(prepare: Prepare) -> None:
    server = prepare(workers="many")
    done = server.run("doctor", "test.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == server.run("check", "test.yaml").stderr


def test_it_binds_nothing_imports_nothing_and_leaves_nothing(prepare: Prepare) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        rows = listeners(("echo", f"tcp://127.0.0.1:{taken.getsockname()[1]}", "app:echo"))
        server = prepare({"app.py": "open('imported', 'w').close()"}, listeners=rows)
        assert server.run("doctor", "test.yaml").returncode == 0
    assert not (server.folder / "imported").exists()
    assert_nothing_is_left(server.folder)
