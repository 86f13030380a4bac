"""Every command: what it prints, its exit code, and which server it means."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.eventually import eventually
from tests.system.conftest import Prepare
from tests.system.running import ECHO, Running, exchange, run_prefork
from tests.system.sources import entering_behind, importing_behind, noted

REMOTE = [["reload"], ["stop"], ["stop", "--now"], ["status"], ["status", "--json"], ["health"], ["scale", "2"]]


@pytest.mark.parametrize("command", REMOTE, ids=" ".join)
def test_a_command_without_a_server_exits_with_4(tmp_path: Path, command: list[str]) -> None:
    path = tmp_path / "nobody.sock"
    done = run_prefork(*command, "--control", str(path), folder=tmp_path)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith(f"prefork: no server answers at {path}")


def test_a_command_for_a_config_whose_server_does_not_run_exits_with_4(prepare: Prepare) -> None:
    server = prepare()
    done = server.run("health", "test.yaml")
    assert done.returncode == 4
    assert f"no server answers at {server.control}" in done.stderr


def test_a_command_without_arguments_and_without_a_server_exits_with_4(tmp_path: Path) -> None:
    done = run_prefork("status", folder=tmp_path, environ={"XDG_RUNTIME_DIR": str(tmp_path)})
    assert done.returncode == 4
    assert "no server answers in the run directory; name its config file, or use --control" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["run"],
        ["run", "a", "b"],
        ["run", "absent.yaml", "--set"],
        ["check"],
        ["scale"],
        ["status", "--yaml"],
        ["run", "absent.yaml"],
        ["check", "absent.yaml"],
        ["status", "absent.yaml"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2(tmp_path: Path, arguments: list[str]) -> None:
    done = run_prefork(*arguments, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert "absent.yaml" in done.stderr or "usage: prefork" in done.stderr


def test_status_shows_workers_listeners_and_the_last_reload(server: Running) -> None:
    server.configure({"workers": 3})
    server.reload()
    eventually(lambda: len(server.workers()) == 3)
    lines = server.run("status", "test.yaml").stdout.splitlines()
    assert lines[0] == f"pid {server.pid}, generation 2, 3 workers wanted"
    assert lines[1] == f"  echo on tcp://127.0.0.1:{server.port()}"
    assert lines[2].split() == ["slot", "pid", "gen", "state", "connections", "accepted", "uptime"]
    for slot, line in enumerate(lines[3:6]):
        assert line.split()[0] == str(slot)
        assert line.split()[2:5] == ["2", "ready", "0"]
    assert lines[6:] == ["last reload committed: workers 2→3"]


def test_status_tells_why_the_last_reload_was_refused(server: Running) -> None:
    server.expected_errors += ["reload refused", "unknown key"]
    server.configure({"wokers": 3})
    server.reload()
    text = server.run("status", "--control", str(server.control)).stdout
    assert "last reload refused: " in text
    assert "unknown key 'wokers'" in text


def test_scale_takes_a_number_or_a_difference(server: Running) -> None:
    for count, change in (("3", "workers 2→3"), ("+1", "workers 3→4"), ("-2", "workers 4→2")):
        done = server.run("scale", count, "--control", str(server.control))
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{change}\n", "")
        wanted = int(change.rpartition("→")[2])
        eventually(lambda wanted=wanted: len(server.workers()) == len(server.worker_pids()) == wanted)  # type: ignore[misc]


@pytest.mark.parametrize("count", ["0", "-2", "-9", "100000"])
def test_a_scale_to_a_number_that_cannot_be_is_refused(server: Running, count: str) -> None:
    done = server.run("scale", count, "--config", "test.yaml")
    assert (done.returncode, done.stdout) == (3, "")
    assert "the least is 1, the most" in done.stderr
    assert server.status()["target"] == 2


def test_a_scale_to_something_that_is_no_number_says_what_to_write(server: Running) -> None:
    done = server.run("scale", "many", "--config", "test.yaml")
    assert done.returncode in (2, 3)
    assert "N, +N or -N" in done.stderr
    assert server.status()["target"] == 2


def test_health_is_ready_when_every_slot_has_a_worker_that_serves(server: Running) -> None:
    done = server.run("health", "test.yaml")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ready\n", "")


def test_health_is_not_ready_while_a_worker_boots(prepare: Prepare) -> None:
    server = prepare({"app.py": entering_behind("gate", ECHO)}, lifespan="app:lifespan").start(wait=False)
    eventually(lambda: len(noted(server.folder, "entered")) == 2)
    done = server.run("health", "test.yaml")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("not ready: ")
    assert "slot 0 starting for" in done.stderr
    assert "slot 1 starting for" in done.stderr
    server.write("gate", "")
    eventually(server.is_ready)


def test_health_is_not_ready_while_the_app_is_imported(prepare: Prepare) -> None:
    server = prepare({"app.py": importing_behind("gate", ECHO)}).start(wait=False)
    eventually(lambda: noted(server.folder, "importing"))
    done = server.run("health", "test.yaml")
    assert done.returncode == 3
    assert "slot 0 has no worker; slot 1 has no worker" in done.stderr
    server.write("gate", "")
    eventually(server.is_ready)


def test_health_is_not_ready_while_the_server_stops(prepare: Prepare) -> None:
    server = prepare(timeouts={"drain": "5s", "delay": "1m"}).start()
    server.send(signal.SIGTERM)
    eventually(lambda: server.status()["state"] == "stopping")
    done = server.run("health", "test.yaml")
    assert (done.returncode, done.stdout) == (3, "")
    assert "the server stops" in done.stderr
    with server.connect() as client:
        assert exchange(client, b"still here") == b"still here"
    assert server.run("stop", "--now", "test.yaml").returncode == 0


def test_health_stays_ready_over_a_reload(server: Running) -> None:
    server.write("app.py", importing_behind("gate", ECHO))
    server.send(signal.SIGHUP)
    eventually(lambda: noted(server.folder, "importing"))
    assert server.ask("health")["ready"]
    server.write("gate", "")
    eventually(lambda: not server.ask("health")["ready"] or server.status()["generation"] == 2)
    assert server.ask("health")["ready"]


@pytest.mark.parametrize("now", [False, True])
def test_stop_waits_for_the_end_of_the_server(server: Running, now: bool) -> None:
    assert server.process is not None
    done = server.run("stop", *(["--now"] if now else []), "--control", str(server.control))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not server.control.exists()
    assert server.process.wait(5) == 0


def run_directory(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    return folder


def start_in(server: Running, folder: Path, name: str) -> Running:
    server.control = folder / name
    server.configure({"control": str(server.control)})
    return server.start()


def test_the_only_server_of_the_run_directory_is_found_without_arguments(prepare: Prepare, tmp_path: Path) -> None:
    folder = run_directory(tmp_path)
    server = prepare(control=None)
    server.control = folder / "test.sock"  # named after the config file
    environ = {"XDG_RUNTIME_DIR": str(folder)}
    server.start(environ=environ)
    for command in ("health", "status", "reload"):
        assert run_prefork(command, folder=tmp_path, environ=environ).returncode == 0
    assert run_prefork("health", "test.yaml", folder=server.folder, environ=environ).returncode == 0
    assert run_prefork("stop", folder=tmp_path, environ=environ).returncode == 0
    assert list(folder.iterdir()) == []


def test_several_servers_in_the_run_directory_are_listed(prepare: Prepare, tmp_path: Path) -> None:
    folder = run_directory(tmp_path)
    first, second = (start_in(prepare(), folder, name) for name in ("a.sock", "b.sock"))
    environ = {"XDG_RUNTIME_DIR": str(folder)}
    done = run_prefork("status", folder=tmp_path, environ=environ)
    assert (done.returncode, done.stdout) == (2, "")
    assert "several servers answer; use --control with one of: " in done.stderr
    assert f"{first.control}, {second.control}" in done.stderr
    assert second.stop() == 0
    assert f"pid {first.pid}," in run_prefork("status", folder=tmp_path, environ=environ).stdout


def test_what_a_dead_server_left_in_the_run_directory_is_passed_over(prepare: Prepare, tmp_path: Path) -> None:
    folder = run_directory(tmp_path)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "a.sock"))
    (folder / "b.sock").write_text("no socket")
    server = start_in(prepare(), folder, "c.sock")
    done = run_prefork("status", folder=tmp_path, environ={"XDG_RUNTIME_DIR": str(folder)})
    assert done.stdout.startswith(f"pid {server.pid},")


def test_schema_prints_the_json_schema_of_the_config(tmp_path: Path) -> None:
    done = run_prefork("schema", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    schema = json.loads(done.stdout)
    assert {"workers", "listeners", "timeouts"} <= set(schema["properties"])


@pytest.mark.parametrize("command", [["health"], ["status"], ["scale", "2"], ["reload"], ["stop"]], ids=" ".join)
def test_a_command_to_a_server_imports_neither_yaml_nor_asyncio(server: Running, command: list[str]) -> None:
    done = run_with_import_times(server, *command, *(["--config"] if command[0] == "scale" else []), "test.yaml")
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "prefork.client" in imported
    assert not [name for name in imported if name.partition(".")[0] in ("yaml", "asyncio", "ssl", "logging")]


def run_with_import_times(server: Running, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "prefork", *arguments],
        cwd=server.folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def test_the_console_script_is_the_same_program(tmp_path: Path) -> None:
    code = "import sys; from prefork.cli import main; sys.exit(main(['schema']))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.stdout == run_prefork("schema", folder=tmp_path).stdout


def test_a_reader_that_goes_away_is_no_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m prefork schema | head -1 >/dev/null"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.stderr == ""
