"""The number of workers changes under load, and no client notices."""

from __future__ import annotations

import signal

import pytest

from tests.eventually import eventually
from tests.system.conftest import Prepare
from tests.system.processes import count_fds, stopped
from tests.system.running import Running
from tests.system.traffic import Crowd, Stream, answers, send_all

PARKED_SECONDS = 5.0  # until the sockets of a slot that is not wanted any more are closed


def settle(server: Running, count: int) -> None:
    """Wait until exactly so many workers are there, all of them ready."""
    eventually(lambda: len(server.worker_pids()) == len(server.workers()) == count)


def test_scaling_by_command_loses_no_connection(prepare: Prepare) -> None:
    server = prepare(workers=4).start()
    with Stream(("127.0.0.1", server.port())) as stream:
        for count in ("1", "4", "-2", "+1"):
            before = stream.answered
            answer = server.run("scale", "--control", str(server.control), count)
            assert answer.returncode == 0, answer.stderr
            wanted = server.status()["target"]
            eventually(lambda: len(server.worker_pids()) == wanted and len(server.workers()) == wanted)  # noqa: B023
            eventually(lambda: stream.answered > before + 20)  # noqa: B023
    assert server.status()["target"] == 3
    assert not stream.failures


def test_scaling_by_reload_loses_no_connection(prepare: Prepare) -> None:
    server = prepare(workers=4).start()
    with Stream(("127.0.0.1", server.port())) as stream:
        for count, change in ((1, "workers 4→1"), (4, "workers 1→4")):
            before = stream.answered
            server.configure({"workers": count})
            server.send(signal.SIGHUP)
            eventually(lambda: server.status()["last_reload"]["changes"] == [change])  # noqa: B023
            settle(server, count)
            eventually(lambda: stream.answered > before + 20)  # noqa: B023
    assert not stream.failures


def test_ttin_adds_a_worker_and_ttou_takes_one_away(server: Running) -> None:
    server.send(signal.SIGTTIN)
    settle(server, 3)
    for left in (2, 1):
        server.send(signal.SIGTTOU)
        settle(server, left)


def test_the_last_worker_cannot_be_taken_away(prepare: Prepare) -> None:
    server = prepare(workers=1).start()
    server.expected_errors.append("cannot scale to 0 workers")
    server.send(signal.SIGTTOU)
    eventually(lambda: "cannot scale to 0 workers" in server.log())
    answer = server.run("scale", "--control", str(server.control), "0")
    assert answer.returncode == 3
    assert "the least is 1" in answer.stderr
    settle(server, 1)


@pytest.mark.slow
def test_the_sockets_of_slots_that_are_not_wanted_are_closed_after_a_while_without_loss(prepare: Prepare) -> None:
    server = prepare(workers=1).start()
    fds = count_fds(server.pid)
    with Stream(("127.0.0.1", server.port())) as stream:
        server.ask("scale", count=4)
        settle(server, 4)
        server.ask("scale", count=1)
        settle(server, 1)
        assert count_fds(server.pid) > fds
        eventually(lambda: count_fds(server.pid) <= fds, within=PARKED_SECONDS + 5)
        server.ask("scale", count=4)
        settle(server, 4)
    assert not stream.failures


@pytest.mark.slow
def test_slots_come_back_while_a_worker_that_stands_still_holds_their_old_sockets(prepare: Prepare) -> None:
    server = prepare(workers=4).start()
    server.ask("scale", count=1)
    settle(server, 1)
    fds = count_fds(server.pid)
    (first,) = server.worker_pids()
    with Crowd() as crowd:
        with stopped(first):
            eventually(lambda: count_fds(server.pid) <= fds - 3, within=PARKED_SECONDS + 5)
            server.ask("scale", count=4)
            eventually(lambda: len(server.worker_pids()) == 4)
            clients = send_all(crowd.come(("127.0.0.1", server.port()), 100))
        assert answers(clients, 5) == [b"hello"] * 100


def test_scaling_during_a_reload_loses_no_connection(prepare: Prepare) -> None:
    server = prepare(workers=2, preload=False).start()
    server.write("app.py", "import time\ntime.sleep(0.5)\n" + (server.folder / "app.py").read_text())
    with Stream(("127.0.0.1", server.port())) as stream:
        server.send(signal.SIGHUP)
        eventually(lambda: any(row["generation"] == 2 for row in server.workers()))
        server.ask("scale", count=4)
        eventually(lambda: len(server.workers("ready")) >= 3)
        server.ask("scale", count=1)
        eventually(lambda: server.status()["last_reload"]["verdict"] == "committed")
        eventually(lambda: {row["generation"] for row in server.workers()} == {2})
        eventually(lambda: len(server.workers()) == server.status()["target"])
        before = stream.answered
        eventually(lambda: stream.answered > before + 20)
    assert not stream.failures
