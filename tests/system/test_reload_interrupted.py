"""A reload that is interrupted in the middle: by a stop, by a failure, by the end of its processes."""

from __future__ import annotations

import os
import resource
import signal
import time
from pathlib import Path

import pytest

from tests.eventually import eventually
from tests.system.conftest import Prepare
from tests.system.questions import Questions
from tests.system.running import ECHO, Running, exchange
from tests.system.sources import (
    answering,
    entering_behind,
    failing_lifespan,
    importing_behind,
    noted,
)
from tests.system.storm import Storm

OBEYED_SECONDS = 1.0  # regression 4


def mold_pid(server: Running, generation: int) -> int:
    """Return the pid of a generation's mold, 0 while there is none."""
    title = f"prefork: mold g{generation}".encode()
    return next((pid for pid in server.descendants() if _title(pid) == title), 0)


def _title(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0")
    except OSError:  # gone meanwhile
        return b""


def begin_slow_reload(server: Running, stage: str) -> None:
    """Begin a reload that comes to a stage and no further."""
    if stage == "import":
        server.write("app.py", importing_behind("never", ECHO))
        server.send(signal.SIGHUP)
        eventually(lambda: noted(server.folder, "importing"))
    elif stage == "start":
        server.write("app.py", entering_behind("never", ECHO))
        server.configure({"lifespan": "app:lifespan"})
        server.send(signal.SIGHUP)
        eventually(lambda: noted(server.folder, "entered"))
    else:
        server.configure({"reload": {"soak": "10m"}})
        before = server.worker_pids()
        server.send(signal.SIGHUP)
        eventually(lambda: server.worker_pids("paused") == before)


@pytest.mark.parametrize("stage", ["import", "start", "soak"])
def test_term_in_the_middle_of_a_reload_is_obeyed_at_once(server: Running, stage: str) -> None:
    server.expected_errors.append("reload refused")
    begin_slow_reload(server, stage)
    began = time.monotonic()
    assert server.stop(signal.SIGTERM) == 0
    assert time.monotonic() - began < OBEYED_SECONDS
    assert "the server stops" in server.log()


def test_who_waits_for_a_reload_is_told_that_the_server_stops(server: Running) -> None:
    server.expected_errors.append("reload refused")
    server.write("app.py", importing_behind("never", ECHO))
    with Questions(server.control) as questions:
        questions.ask("running", "reload")
        eventually(lambda: noted(server.folder, "importing"))
        questions.ask("waiting", "reload")
        questions.ask("last", "status")
        assert questions.take() is not None
        server.send(signal.SIGTERM)
        answers = [questions.take(), questions.take()]
        assert questions.take() is None
    assert server.process is not None
    assert server.process.wait(10) == 0
    for answer in answers:
        assert answer is not None
        assert answer["result"]["verdict"] == "refused"
        assert answer["result"]["reason"] == "the server stops"


@pytest.mark.parametrize("good", [0, 1, 2])
def test_a_lifespan_that_fails_in_the_new_code_leaves_one_generation_the_old(prepare: Prepare, good: int) -> None:
    server = prepare(workers=3).start()
    server.expected_errors += ["RuntimeError: the database is away", "Traceback", "reload refused"]
    before = server.worker_pids()
    server.write("app.py", failing_lifespan(answering("new"), good))
    server.configure({"workers": 3, "lifespan": "app:lifespan"})
    with Storm(server.port()) as storm:
        verdict = server.reload()
        storm.wait_for_more()
    assert verdict["verdict"] == "refused"
    assert "the database is away" in verdict["reason"]
    eventually(lambda: {row["pid"] for row in server.workers()} == before)
    assert {(row["state"], row["generation"]) for row in server.workers()} == {("ready", 1)}
    eventually(lambda: len(server.descendants()) == 4)
    assert not storm.failures


def test_a_new_worker_that_does_not_become_ready_in_time_calls_the_reload_off(server: Running) -> None:
    server.expected_errors += ["did not become ready within timeouts.boot", "the stack of", "reload refused"]
    before = server.worker_pids()
    server.write("app.py", entering_behind("never", ECHO))
    server.configure({"lifespan": "app:lifespan", "timeouts": {"boot": "500ms"}})
    verdict = server.reload()
    assert verdict["verdict"] == "refused"
    assert "did not become ready within timeouts.boot" in verdict["reason"]
    assert server.worker_pids() == before


def test_an_import_that_takes_too_long_calls_the_reload_off(server: Running) -> None:
    server.expected_errors.append("reload refused")
    before = server.worker_pids()
    server.write("app.py", importing_behind("never", ECHO))
    server.configure({"timeouts": {"boot": "300ms"}})
    verdict = server.reload()
    assert verdict["verdict"] == "refused"
    assert "the import of the app took longer than timeouts.boot" in verdict["reason"]
    assert server.worker_pids() == before


@pytest.mark.parametrize("stage", ["import", "start"])
def test_a_new_mold_that_is_killed_calls_the_reload_off(server: Running, stage: str) -> None:
    server.expected_errors += ["reload refused", "was ended by SIGKILL"]
    before = server.worker_pids()
    begin_slow_reload(server, stage)
    os.kill(mold_pid(server, 2), signal.SIGKILL)
    eventually(lambda: not mold_pid(server, 2))
    server.write("never", "")  # the worker that is on its way may come; those after it need the mold
    eventually(lambda: server.status()["last_reload"]["verdict"] == "refused", within=5)
    eventually(lambda: {row["pid"] for row in server.workers()} == before)
    server.write("app.py", answering("new"))
    server.configure({})
    assert server.reload()["verdict"] == "committed"


def test_an_old_worker_that_dies_during_a_reload_is_replaced_and_the_reload_goes_on(server: Running) -> None:
    server.expected_errors.append("was ended by SIGKILL")
    server.write("app.py", importing_behind("gate", answering("new")))
    with Questions(server.control) as questions, Storm(server.port(), clients=1) as storm:
        questions.ask(1, "reload")
        eventually(lambda: noted(server.folder, "importing"))
        before = server.worker_pids()
        os.kill(min(before), signal.SIGKILL)
        eventually(lambda: len(server.worker_pids()) == 2 and server.worker_pids() != before)
        server.write("gate", "")
        answer = questions.take()
        storm.wait_for_more()
    assert answer is not None
    assert answer["result"]["verdict"] == "committed"
    assert len(storm.failures) <= 1  # the connection that the killed one had in hand


@pytest.mark.parametrize("spare", [2, 3, 4, 5])
def test_a_reload_without_descriptors_for_its_workers_does_not_stop_the_master(
    server: Running, spare: int
) -> None:
    server.expected_errors += ["Too many open files", "reload refused", "cannot start a worker"]
    with Questions(server.control, timeout=5) as questions:
        questions.settle()
        before = len(server.open_fds())
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (limit_with_spare(server, spare), 4096))
        questions.ask("reload", "reload")
        eventually(lambda: "Too many open files" in server.log())
        questions.ask("status", "status")
        answers = [questions.take()]
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (4096, 4096))
        answers.append(questions.take())
        assert {answer["id"] for answer in answers if answer} == {"reload", "status"}
        assert questions.answer("reload")["verdict"] == "committed"
        eventually(lambda: len(server.open_fds()) == before)
    with server.connect() as client:
        assert exchange(client, b"hello") == b"hello"


def limit_with_spare(server: Running, spare: int) -> int:
    """Return the limit under which the master can open so many descriptors more."""
    used = {int(fd) for fd in server.open_fds()}
    limit = 0
    while spare or limit <= max(used):
        spare -= limit > max(used)
        limit += 1
    return limit


STUCK = (
    "import time\n"
    "async def echo(conn):\n"
    "    await conn.read()\n"
    "    with open('stuck', 'w'):\n"
    "        pass\n"
    "    time.sleep(3600)\n"
)
FOREVER = "import asyncio\nasync def echo(conn):\n    await conn.send(b'!')\n    await asyncio.sleep(3600)\n"


def test_old_generations_do_not_pile_up(prepare: Prepare) -> None:
    times = {"boot": "20s", "beat": "20s", "drain": "300ms"}
    server = prepare({"app.py": FOREVER}, workers=1, timeouts=times).start()
    clients = []
    for _ in range(4):
        clients.append(server.connect())
        assert clients[-1].recv(1) == b"!"
        assert server.reload()["verdict"] == "committed"
    eventually(lambda: {row["generation"] for row in server.workers()} == {5})
    eventually(lambda: len(server.descendants()) == 2)
    for client in clients:
        client.close()


def test_an_old_worker_that_does_not_listen_is_killed_at_the_end_of_the_drain(prepare: Prepare) -> None:
    times = {"boot": "20s", "beat": "20s", "drain": "200ms"}
    server = prepare({"app.py": STUCK}, workers=1, timeouts=times).start()
    server.expected_errors += ["did not leave within timeouts.drain", "the stack of", "was ended by SIGKILL"]
    with server.connect() as client:
        client.sendall(b"?")
        eventually((server.folder / "stuck").exists)
        assert server.reload()["verdict"] == "committed"
        eventually(lambda: {row["generation"] for row in server.workers()} == {2})
        assert "the stack of worker 0 g1" in server.log()
