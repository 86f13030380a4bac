"""A Unix socket is served by all workers, and its path is taken and given back with care."""

from __future__ import annotations

import os
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.eventually import eventually
from tests.system.conftest import Prepare
from tests.system.processes import stopped
from tests.system.running import Running, exchange
from tests.system.traffic import Crowd, Stream, answers, dial, send_all


@pytest.fixture
def path() -> Iterator[str]:
    """A path that is short enough for sun_path, unix(7)."""
    with TemporaryDirectory(prefix="u") as folder:
        yield f"{folder}/echo"
        assert not os.listdir(folder), "a file was left behind"


def prepare_unix(prepare: Prepare, path: str, workers: int = 2) -> Running:
    listener = {"name": "echo", "bind": f"unix://{path}", "app": "app:echo"}
    return prepare(workers=workers, listeners=[listener])


def refusal(server: Running) -> str:
    """Start a server that cannot; return what it says."""
    server.expected_errors.append("exit")
    server.start(wait=False)
    assert server.process is not None
    assert server.process.wait(20) == 3
    assert server.process.stdout is not None
    return server.process.stdout.read()


def test_all_workers_serve_it_and_it_is_removed_at_the_end(path: str, prepare: Prepare) -> None:
    server = prepare_unix(prepare, path).start()
    with Crowd() as crowd:
        with stopped(min(server.worker_pids())):
            assert answers(send_all(crowd.come(path, 20)), 5) == [b"hello"] * 20
        with stopped(max(server.worker_pids())):
            assert answers(send_all(crowd.come(path, 20)), 5) == [b"hello"] * 20
        assert {row["connections"] for row in server.workers()} == {20}
    (row,) = server.status()["listeners"]
    assert (row["name"], row["bind"]) == ("echo", f"unix://{path}")
    assert server.stop() == 0
    assert not Path(path).exists()


def test_a_stale_file_is_replaced(path: str, prepare: Prepare) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    prepare_unix(prepare, path).start()
    with dial(path) as client:
        assert exchange(client, b"hello") == b"hello"


def test_the_path_of_a_server_that_lives_is_refused(path: str, prepare: Prepare) -> None:
    server = prepare_unix(prepare, path).start()
    assert "a server answers there; stop it first" in refusal(prepare_unix(prepare, path))
    with dial(path) as client:
        assert exchange(client, b"hello") == b"hello"
    assert server.is_ready()


def test_a_plain_file_in_the_way_is_refused_and_stays(path: str, prepare: Prepare) -> None:
    Path(path).write_text("precious")
    assert "a file is there that is no socket; remove it" in refusal(prepare_unix(prepare, path))
    assert Path(path).read_text() == "precious"
    Path(path).unlink()


def test_a_missing_folder_is_named(path: str, prepare: Prepare) -> None:
    assert "No such file or directory" in refusal(prepare_unix(prepare, f"{path}/deeper"))


def test_a_server_that_ends_does_not_remove_its_successors_file(path: str, prepare: Prepare) -> None:
    first = prepare_unix(prepare, path).start()
    os.unlink(path)
    prepare_unix(prepare, path).start()
    assert first.stop() == 0
    assert stat.S_ISSOCK(os.stat(path).st_mode)
    with dial(path) as client:
        assert exchange(client, b"hello") == b"hello"


def test_reloads_and_scaling_lose_no_connection(path: str, prepare: Prepare) -> None:
    server = prepare_unix(prepare, path).start()
    inode = os.stat(path).st_ino
    with Stream(path) as stream:
        for count in (3, 1):
            assert server.reload()["verdict"] == "committed"
            server.ask("scale", count=count)
            eventually(lambda: len(server.workers()) == len(server.worker_pids()) == count)  # noqa: B023
        eventually(lambda: stream.answered > 50)
    assert not stream.failures
    assert os.stat(path).st_ino == inode


def test_connections_that_wait_when_a_worker_is_killed_are_answered(path: str, prepare: Prepare) -> None:
    server = prepare_unix(prepare, path).start()
    server.expected_errors.append("was ended by SIGKILL")
    workers = server.worker_pids()
    with Crowd() as crowd:
        with stopped(*workers):
            clients = send_all(crowd.come(path, 100))
            os.kill(min(workers), signal.SIGKILL)
        assert answers(clients, 5) == [b"hello"] * 100
    eventually(lambda: len(server.worker_pids()) == 2)


def test_connections_in_the_queue_at_term_are_served(path: str, prepare: Prepare) -> None:
    server = prepare_unix(prepare, path).start()
    with Crowd() as crowd:
        with stopped(*server.worker_pids()):
            clients = send_all(crowd.come(path, 100))
            server.send(signal.SIGTERM)
            eventually(lambda: server.status()["state"] == "stopping")
        assert answers(clients, 5) == [b"hello"] * 100
    assert server.process is not None
    assert server.process.wait(10) == 0
