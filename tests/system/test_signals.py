"""Signals in any number, to any of the processes: none of them does harm."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.eventually import eventually
from tests.system.conftest import Prepare
from tests.system.processes import count_fds, find, state
from tests.system.running import Running, exchange
from tests.system.traffic import Crowd, Stream, answers, send_all

MIXED = [signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR1, signal.SIGCHLD]
LEAVING_A_CHILD = """
import subprocess

async def echo(conn):
    async for data in conn:
        child = subprocess.Popen(["sh", "-c", "read line; exit 3"], stdin=subprocess.PIPE)
        await conn.send(b"%d" % child.pid)
"""


def test_three_hundred_mixed_signals_leave_a_server_that_serves(prepare: Prepare) -> None:
    server = prepare().start()
    server.expected_errors.append("cannot scale to 0 workers")
    chance = random.Random(7)
    with Stream(("127.0.0.1", server.port())) as stream:
        for number in chance.choices(MIXED, k=300):
            server.send(number)
            server.status()
        server.ask("scale", count=2)
        assert server.reload()["verdict"] == "committed"
        eventually(lambda: len(server.worker_pids()) == len(server.workers()) == 2)
        before = stream.answered
        eventually(lambda: stream.answered > before + 20)
    assert not stream.failures
    assert len(os.listdir(f"/proc/{server.pid}/task")) == 1
    assert len(find(server.descendants(), "prefork: mold")) == 1


def test_a_burst_of_hups_is_at_most_a_few_reloads(server: Running) -> None:
    fds = count_fds(server.pid)
    for _ in range(100):
        server.send(signal.SIGHUP)
    assert server.reload()["verdict"] == "committed"
    eventually(lambda: len(server.workers()) == len(server.worker_pids()) == 2)
    assert server.status()["generation"] < 100
    eventually(lambda: count_fds(server.pid) <= fds)


def test_term_to_a_worker_replaces_it_without_losing_a_connection(server: Running) -> None:
    with Stream(("127.0.0.1", server.port())) as stream:
        for _ in range(3):
            victim = max(server.worker_pids())
            os.kill(victim, signal.SIGTERM)
            eventually(lambda: victim not in {row["pid"] for row in server.workers()})  # noqa: B023
            assert len(server.worker_pids()) == 2
        before = stream.answered
        eventually(lambda: stream.answered > before + 20)
    assert not stream.failures
    assert "was asked to go by SIGTERM" in server.log()


def test_term_to_a_worker_lets_its_clients_finish(server: Running) -> None:
    with Crowd() as crowd:
        clients = crowd.come(("127.0.0.1", server.port()), 20)
        assert answers(send_all(clients), 5) == [b"hello"] * 20
        old = server.worker_pids()
        for pid in old:
            os.kill(pid, signal.SIGTERM)
        eventually(lambda: len(server.worker_pids() - old) == 2)
        assert server.worker_pids("draining") <= old
        assert answers(send_all(clients), 5) == [b"hello"] * 20


@pytest.mark.parametrize(
    "number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGQUIT, signal.SIGTTIN]
)
def test_other_signals_to_children_do_nothing(server: Running, number: int) -> None:
    workers = server.worker_pids()
    molds = find(server.descendants(), "prefork: mold")
    with Crowd() as crowd:
        clients = crowd.come(("127.0.0.1", server.port()), 20)
        assert answers(send_all(clients), 5) == [b"hello"] * 20
        for pid in (*workers, *molds):
            os.kill(pid, number)
        assert answers(send_all(clients), 5) == [b"hello"] * 20
    server.ask("scale", count=3)
    eventually(lambda: len(server.worker_pids()) == 3)
    assert workers < server.worker_pids()
    assert find(server.descendants(), "prefork: mold") == molds


def test_term_to_a_mold_does_not_end_it(server: Running) -> None:
    (mold,) = find(server.descendants(), "prefork: mold")
    os.kill(mold, signal.SIGTERM)
    server.ask("scale", count=3)
    eventually(lambda: len(server.worker_pids()) == 3)
    assert find(server.descendants(), "prefork: mold") == [mold]


def test_a_stranger_that_a_dead_worker_leaves_behind_is_reaped(prepare: Prepare) -> None:
    server = prepare({"app.py": LEAVING_A_CHILD}, workers=1).start()
    server.expected_errors.append("was ended by SIGKILL")
    (victim,) = server.worker_pids()
    with server.connect() as client:
        client.sendall(b"go")
        stranger = int(client.recv(10))
    os.kill(victim, signal.SIGKILL)  # with it goes the other end of the stranger's input, and the stranger ends
    eventually(lambda: state(stranger) == "")
    eventually(server.is_ready)
    assert "Z" not in {state(pid) for pid in server.descendants()}


def test_as_pid_1_it_reaps_strangers_and_obeys_term(prepare: Prepare) -> None:
    server = prepare({"app.py": LEAVING_A_CHILD}, workers=1)
    code = Path(__file__).parents[2]
    inside = "mount -t proc proc /proc && exec " + " ".join(_command())
    alone = subprocess.run(["unshare", "--pid", "--fork", "true"], check=False, capture_output=True)
    if alone.returncode:
        pytest.skip(f"unshare is refused: {alone.stderr.decode().strip()}")
    process = subprocess.Popen(
        ["unshare", "--pid", "--mount", "--fork", "--kill-child", "sh", "-c", inside],
        cwd=server.folder,
        env={**os.environ, "PYTHONPATH": str(code)},
        stdin=subprocess.DEVNULL,
    )
    try:
        eventually(server.is_ready, within=20)
        assert server.status()["pid"] == 1
        with server.connect() as client:
            client.sendall(b"go")
            client.recv(10)
            (master,) = _children(process.pid)
            for pid in find(set(_children(master)), "prefork: worker"):
                os.kill(pid, signal.SIGKILL)
        eventually(lambda: len(_children(master)) == 2 and server.is_ready())
        with server.connect() as client:
            assert exchange(client, b"1")
        os.kill(master, signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait(10)


def _command() -> list[str]:
    return [sys.executable, "-m", "prefork", "run", "test.yaml"]


def _children(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
