"""A lifespan is entered in each worker before it serves, and left when it has drained."""

from __future__ import annotations

import os
import signal

from tests.eventually import eventually
from tests.system.conftest import Prepare
from tests.system.running import Running, exchange

LIFE = """
import contextlib, os

state = {}

def note(word):
    with open("notes", "a") as file:
        file.write(f"{word} {os.getpid()}\\n")

@contextlib.asynccontextmanager
async def life():
    note("enter")
    state["greeting"] = b"hello"
    yield
    note("leave")

async def echo(conn):
    async for data in conn:
        await conn.send(state["greeting"] if data == b"greet" else data)
    note("served")
"""
FAILING = """
import contextlib, os

@contextlib.asynccontextmanager
async def life():
    if os.path.exists("broken"):
        raise ValueError("no database")
    yield

async def echo(conn):
    async for data in conn:
        await conn.send(data)
"""


def notes(server: Running) -> list[tuple[str, int]]:
    path = server.folder / "notes"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(word, int(pid)) for word, pid in (line.split() for line in lines)]


def test_it_is_entered_in_each_worker_and_left_after_its_last_client(prepare: Prepare) -> None:
    server = prepare({"app.py": LIFE}, lifespan="app:life").start()
    workers = server.worker_pids()
    assert sorted(notes(server)) == sorted(("enter", pid) for pid in workers)
    with server.connect() as client:
        assert exchange(client, b"greet") == b"hello"
        assert server.stop() == 0
    for pid in workers:
        words = [word for word, noted in notes(server) if noted == pid]
        assert words in (["enter", "leave"], ["enter", "served", "leave"])
    assert len(notes(server)) == 5


def test_a_reload_enters_the_new_before_it_leaves_the_old(prepare: Prepare) -> None:
    server = prepare({"app.py": LIFE}, workers=1, lifespan="app:life").start()
    (old,) = server.worker_pids()
    assert server.reload()["verdict"] == "committed"
    eventually(lambda: len(notes(server)) == 3)
    (new,) = server.worker_pids()
    assert notes(server) == [("enter", old), ("enter", new), ("leave", old)]


def test_a_replacement_enters_its_own(prepare: Prepare) -> None:
    server = prepare({"app.py": LIFE}, workers=1, lifespan="app:life").start()
    server.expected_errors.append("was ended by SIGKILL")
    (old,) = server.worker_pids()
    os.kill(old, signal.SIGKILL)
    with server.connect() as client:
        assert exchange(client, b"greet") == b"hello"
    assert [word for word, _ in notes(server)][:2] == ["enter", "enter"]


def test_one_that_fails_at_boot_stops_the_server_with_exit_3(prepare: Prepare) -> None:
    server = prepare({"app.py": FAILING, "broken": ""}, lifespan="app:life")
    server.expected_errors += ["exit", "cannot enter lifespan app:life: ValueError: no database", "Traceback"]
    server.start(wait=False)
    assert server.process is not None
    assert server.process.wait(20) == 3
    assert "no database" in server.log()


def test_one_that_fails_on_reload_leaves_the_old_workers_at_work(prepare: Prepare) -> None:
    server = prepare({"app.py": FAILING}, lifespan="app:life").start()
    server.expected_errors += ["no database", "reload refused", "Traceback"]
    workers = server.worker_pids()
    server.write("broken", "")
    verdict = server.reload()
    assert verdict["verdict"] == "refused"
    assert "cannot enter lifespan app:life: ValueError: no database" in verdict["reason"]
    assert server.worker_pids() == workers
    with server.connect() as client:
        assert exchange(client, b"hello") == b"hello"
