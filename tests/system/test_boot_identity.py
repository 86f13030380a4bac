"""The files that say who a server is, and the user that it becomes: pidfile, control socket, `user:`."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.eventually import eventually
from tests.system.conftest import Prepare
from tests.system.remains import assert_nothing_is_left
from tests.system.running import ECHO, Running, exchange

NOBODY = 65534

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def test_the_pidfile_holds_the_masters_pid_and_is_removed_at_the_end(prepare: Prepare) -> None:
    server = prepare(pidfile="server.pid").start()
    path = server.folder / "server.pid"
    assert path.read_text() == f"{server.pid}\n"
    assert server.stop() == 0
    assert not path.exists()


def test_the_pidfile_of_a_living_server_is_refused_and_names_it(prepare: Prepare) -> None:
    server = prepare(pidfile="server.pid").start()
    path = server.folder / "server.pid"
    second = prepare(pidfile=str(path))
    done = second.run("run", "test.yaml")
    assert done.returncode == 3
    assert done.stderr == (
        f"prefork: cannot take pidfile {path}: the server with pid {server.pid} holds it; stop it first\n"
    )
    assert path.read_text() == f"{server.pid}\n"
    assert_nothing_is_left(second.folder)


@pytest.mark.parametrize("left", ["1\n", "999999999\n", "", "not a number\n", "1234567890" * 100])
def test_a_pidfile_that_a_dead_server_has_left_is_replaced(prepare: Prepare, left: str) -> None:
    server = prepare(pidfile="server.pid")
    server.write("server.pid", left)
    server.start()
    assert (server.folder / "server.pid").read_text() == f"{server.pid}\n"


def test_a_pidfile_in_no_folder_is_refused(prepare: Prepare) -> None:
    server = prepare(pidfile="nowhere/server.pid")
    done = server.run("run", "test.yaml")
    assert done.returncode == 3
    assert "cannot write pidfile nowhere/server.pid: No such file or directory; set `pidfile:`" in done.stderr
    assert_nothing_is_left(server.folder)


def test_the_control_socket_of_a_living_server_is_refused(server: Running, prepare: Prepare) -> None:
    second = prepare(control=str(server.control), pidfile="server.pid")
    done = second.run("run", "test.yaml")
    assert done.returncode == 3
    assert f"cannot open the control socket {server.control}" in done.stderr
    assert "a server answers there" in done.stderr
    assert_nothing_is_left(second.folder)
    assert server.is_ready()


def test_a_control_socket_that_a_dead_server_has_left_is_replaced(prepare: Prepare) -> None:
    server = prepare()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(server.control))
    server.start()
    assert server.status()["pid"] == server.pid


def test_a_file_that_is_no_socket_is_not_overwritten_by_the_control_socket(prepare: Prepare) -> None:
    server = prepare(control="precious")
    server.write("precious", "data")
    done = server.run("run", "test.yaml")
    assert done.returncode == 3
    assert "cannot open the control socket precious" in done.stderr
    assert "a file is there that is no socket; remove it" in done.stderr
    assert (server.folder / "precious").read_text() == "data"
    assert_nothing_is_left(server.folder)


def test_a_control_socket_in_no_folder_is_refused(prepare: Prepare) -> None:
    server = prepare(control="nowhere/control.sock", pidfile="server.pid")
    done = server.run("run", "test.yaml")
    assert done.returncode == 3
    assert "cannot open the control socket nowhere/control.sock" in done.stderr
    assert "set `control:`" in done.stderr
    assert_nothing_is_left(server.folder)


def test_the_control_socket_is_for_its_owner_alone(server: Running) -> None:
    assert server.control.stat().st_mode & 0o777 == 0o600


@pytest.fixture
def public(tmp_path: Path) -> Iterator[Running]:
    """A server, not started, in a folder that every user can read."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        server = Running(folder, {"user": "nobody"}, {"app.py": ECHO})
        yield server
        server.finish()


def uids(pid: int) -> set[int]:
    """Return the real, effective, saved and file system uid of a process."""
    text = Path(f"/proc/{pid}/status").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("Uid:")]
    return {int(word) for word in line.split()[1:]}


@as_root
def test_workers_and_mold_become_the_user_and_the_master_stays(public: Running) -> None:
    public.start()
    nobody = pwd.getpwnam("nobody").pw_uid
    assert uids(public.pid) == {0}
    below = public.descendants()
    assert len(below) == 3
    assert {uid for pid in below for uid in uids(pid)} == {nobody}
    for pid in below:
        groups = Path(f"/proc/{pid}/status").read_text().partition("Groups:")[2].partition("\n")[0].split()
        assert "0" not in groups
    with public.connect() as client:
        assert exchange(client, b"hello") == b"hello"


@as_root
def test_a_reload_and_a_crash_keep_the_user(public: Running) -> None:
    public.expected_errors.append("was ended by SIGKILL")
    public.start()
    assert public.reload()["verdict"] == "committed"
    before = public.worker_pids()
    os.kill(min(before), 9)
    eventually(lambda: len(public.worker_pids()) == 2 and public.worker_pids() != before)
    assert all(0 not in uids(pid) for pid in public.worker_pids())


@as_root
def test_an_unknown_user_is_refused(public: Running) -> None:
    public.configure({"user": "nobody-of-that-name"})
    done = public.run("run", "test.yaml")
    assert done.returncode == 3
    assert "cannot become user 'nobody-of-that-name': there is no such user; set `user:`" in done.stderr
    assert_nothing_is_left(public.folder)


UNPRIVILEGED = """
import os, sys
import prefork.process.master
from prefork.cli import main
main(["check", "test.yaml"])  # what is imported late may not be readable later
os.setgroups([])
os.setgid({number})
os.setuid({number})
sys.exit(main(["run", "test.yaml"]))
"""


@as_root
def test_another_user_without_being_root_is_refused(public: Running) -> None:
    public.configure({"user": "daemon", "log": {"format": "text"}})
    public.folder.chmod(0o777)
    done = subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED.format(number=NOBODY)],
        cwd=public.folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )
    assert done.returncode == 3
    assert "cannot become user 'daemon': only root can; start as root, or unset `user:`" in done.stderr
    assert_nothing_is_left(public.folder)
