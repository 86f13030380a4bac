"""A reload loads new code and a new config, tells what it changed, and nobody who connects notices."""

from __future__ import annotations

import os
import signal
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.eventually import eventually
from tests.system.conftest import Prepare
from tests.system.questions import Questions
from tests.system.running import Running, exchange, receive
from tests.system.sources import answering, entering_behind, importing_behind, noted
from tests.system.storm import Storm


def greeting(server: Running, name: str = "echo") -> bytes:
    """Return what the app of a listener puts in front of its answers."""
    with server.connect(name) as client:
        client.sendall(b"|")
        received = b""
        while not received.endswith(b"|"):
            data = client.recv(100)
            assert data, received
            received += data
    return received[:-1]


def listener(**changes: Any) -> list[dict[str, Any]]:
    return [{"name": "echo", "bind": "tcp://127.0.0.1:0", "app": "app:echo", **changes}]


def test_hup_loads_new_code_and_new_config(server: Running) -> None:
    before = server.worker_pids()
    server.write("app.py", answering("new"))
    server.configure({"workers": 3, "listeners": listener(limits={"idle": "90s"})})
    server.send(signal.SIGHUP)
    status = eventually(lambda: (now := server.status())["last_reload"]["verdict"] and now)
    assert status["last_reload"] == {
        "verdict": "committed",
        "reason": "",
        "changes": ["workers 2→3", "listeners.echo.limits.idle 5m→90s"],
    }
    assert (status["generation"], status["target"]) == (2, 3)
    assert len(server.worker_pids() - before) == 3
    assert greeting(server) == b"new"


def test_the_reload_command_waits_for_the_verdict_and_prints_the_changes(server: Running) -> None:
    server.configure({"workers": 1})
    done = server.run("reload", "--control", str(server.control))
    assert (done.returncode, done.stdout, done.stderr) == (0, "reloaded: workers 2→1\n", "")
    assert server.status()["generation"] == 2


def test_a_reload_without_a_change_of_the_config_says_so_and_loads_the_code(server: Running) -> None:
    server.write("app.py", answering("new"))
    done = server.run("reload", "test.yaml")
    assert (done.returncode, done.stdout) == (0, "reloaded: the config has not changed\n")
    assert greeting(server) == b"new"


def test_a_reload_asked_during_a_reload_gets_the_verdict_of_one_that_began_after_it(server: Running) -> None:
    server.expected_errors += ["reload refused", "cannot be imported", "Traceback"]
    server.write("app.py", importing_behind("gate", answering("second")))
    with Questions(server.control) as questions:
        questions.ask("first", "reload")
        eventually(lambda: noted(server.folder, "importing"))
        server.write("app.py", "this is not Python\n")
        questions.ask("later", "reload")
        questions.ask("as late", "reload")
        server.write("gate", "")
        answers = {answer["id"]: answer["result"] for answer in take_answers(questions, 3)}
    assert answers["first"]["verdict"] == "committed"
    assert answers["later"]["verdict"] == "refused"
    assert answers["as late"] == answers["later"]
    assert server.status()["generation"] == 2
    assert greeting(server) == b"second"


def take_answers(questions: Questions, count: int) -> list[dict[str, Any]]:
    answers = [questions.take() for _ in range(count)]
    return [answer for answer in answers if answer is not None]


def test_one_worker_reloads_without_a_gap(prepare: Prepare) -> None:
    server = prepare(workers=1).start()
    with Storm(server.port(), clients=3) as storm:
        for _ in range(8):
            assert server.reload()["verdict"] == "committed"
            storm.wait_for_more()
    assert not storm.failures
    assert server.status()["generation"] == 9


def test_a_client_with_a_question_under_way_gets_its_answer_from_the_old_code(prepare: Prepare) -> None:
    slow = "import asyncio, os\n" + (
        "async def echo(conn):\n"
        "    data = await conn.read()\n"
        "    with open('asked', 'w'):\n"
        "        pass\n"
        "    while not os.path.exists('answer'):\n"
        "        await asyncio.sleep(0.005)\n"
        "    await conn.send(b'old:' + data)\n"
    )
    server = prepare({"app.py": slow}).start()
    with server.connect() as client:
        client.sendall(b"question")
        eventually((server.folder / "asked").exists)
        server.write("app.py", answering("new"))
        assert server.reload()["verdict"] == "committed"
        assert greeting(server) == b"new"
        server.write("answer", "")
        assert receive(client, 12) == b"old:question"
        assert client.recv(1) == b""
    eventually(lambda: {row["generation"] for row in server.workers()} == {2})


@pytest.mark.parametrize("surge", [1, 3])
def test_no_more_new_workers_start_at_a_time_than_the_surge(prepare: Prepare, surge: int) -> None:
    server = prepare(workers=4, reload={"surge": surge}).start()
    server.write("app.py", entering_behind("gate", answering("new")))
    server.configure({"workers": 4, "reload": {"surge": surge}, "lifespan": "app:lifespan"})
    with Questions(server.control) as questions:
        questions.ask(1, "reload")
        eventually(lambda: len(noted(server.folder, "entered")) == surge)
        states = [row["state"] for row in server.workers()]
        assert states.count("starting") == surge
        assert states.count("ready") == 4
        server.write("gate", "")
        (answer,) = take_answers(questions, 1)
    assert answer["result"]["verdict"] == "committed"
    at_a_time = [noted(server.folder, "entered")[:end].count("+") for end in range(9)]
    gone = [noted(server.folder, "entered")[:end].count("-") for end in range(9)]
    assert max(came - went for came, went in zip(at_a_time, gone, strict=True)) == surge


def test_the_old_workers_stay_until_the_new_ones_have_lived_for_the_soak(prepare: Prepare) -> None:
    server = prepare(reload={"soak": "300ms"}).start()
    before = server.worker_pids()
    with Questions(server.control) as questions:
        questions.ask(1, "reload")
        eventually(lambda: server.worker_pids("paused") == before)
        assert server.status()["generation"] == 1
        assert len(server.worker_pids("ready") - before) == 2
        (answer,) = take_answers(questions, 1)
    assert answer["result"]["verdict"] == "committed"
    (line,) = [line for line in server.log().splitlines() if "reload committed" in line]
    assert float(line.partition("serves after ")[2].partition(" s")[0]) >= 0.3


def test_a_new_worker_that_dies_in_the_soak_calls_the_reload_off(prepare: Prepare) -> None:
    server = prepare(reload={"soak": "10m"}).start()
    server.expected_errors += ["was ended by SIGKILL", "reload refused"]
    before = server.worker_pids()
    with Questions(server.control) as questions:
        questions.ask(1, "reload")
        eventually(lambda: server.worker_pids("paused") == before)
        os.kill(min(server.worker_pids("ready")), signal.SIGKILL)
        (answer,) = take_answers(questions, 1)
    assert answer["result"]["verdict"] == "refused"
    assert "was ended by SIGKILL" in answer["result"]["reason"]
    eventually(lambda: {row["pid"] for row in server.workers()} == before)
    assert server.worker_pids() == before


def test_a_scale_lasts_until_the_next_reload(server: Running) -> None:
    server.ask("scale", count="4")
    eventually(lambda: len(server.worker_pids()) == 4)
    assert server.reload()["changes"] == ["workers 4→2"]
    assert server.status()["target"] == 2
    eventually(lambda: len(server.workers()) == 2)


def test_many_reloads_leave_the_master_as_it_was(prepare: Prepare) -> None:
    server = prepare(workers=1).start()

    def count_belongings() -> tuple[list[str], int, int]:
        kinds = sorted(name.partition(":")[0] for name in server.open_fds().values())
        return kinds, len(list(Path(f"/proc/{server.pid}/task").iterdir())), len(server.descendants())

    with Questions(server.control) as questions:

        def has_reached(generation: int) -> bool:
            status = questions.answer("status")
            return bool(status["generation"] == generation and len(status["workers"]) == 1)

        questions.settle()
        before = count_belongings()
        for generation in range(2, 42):
            server.send(signal.SIGHUP)
            eventually(partial(has_reached, generation))
        eventually(lambda: count_belongings() == before)


def test_hups_from_many_sides_at_once_are_one_reload_after_the_other(server: Running) -> None:
    def send_many() -> None:
        for _ in range(200):
            server.send(signal.SIGHUP)

    threads = [threading.Thread(target=send_many) for _ in range(4)]
    with Storm(server.port()) as storm:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert server.reload()["verdict"] == "committed"
        storm.wait_for_more()
    assert not storm.failures
    generation = server.status()["generation"]
    eventually(lambda: {row["generation"] for row in server.workers()} == {generation})


def test_an_idle_client_is_not_cut_off_between_its_questions(server: Running) -> None:
    with server.connect() as client:
        assert exchange(client, b"one") == b"one"
        assert server.reload()["verdict"] == "committed"
        assert exchange(client, b"two") == b"two"
