"""A worker or a mold dies: it is replaced, and nobody but its own clients notices."""

from __future__ import annotations

import os
import re
import signal
from itertools import pairwise

from tests.eventually import eventually
from tests.system.conftest import Prepare
from tests.system.processes import count_fds, find, is_gone, shared_bytes, status_kib, stopped
from tests.system.running import Running, exchange
from tests.system.traffic import Crowd, Stream, answers, send_all

KILLED = "was ended by SIGKILL"
FALLING = """
import ctypes

def fall():
    ctypes.string_at(0)

async def echo(conn):
    async for data in conn:
        if data == b"fall":
            fall()
        await conn.send(data)
"""
BROKEN_ON_DEMAND = """
import asyncio, contextlib, os

@contextlib.asynccontextmanager
async def life():
    if os.path.exists("broken"):
        asyncio.get_running_loop().call_later(0.01, os._exit, 1)
    yield

async def echo(conn):
    async for data in conn:
        await conn.send(data)
"""


def kill(server: Running, pid: int, number: int = signal.SIGKILL) -> None:
    """End a worker, and wait until as many as before serve without it."""
    count = len(server.worker_pids())
    os.kill(pid, number)
    eventually(lambda: pid not in server.worker_pids() and len(server.worker_pids()) == count)


def pids_by_slot(server: Running) -> dict[int, int]:
    return {row["slot"]: row["pid"] for row in server.workers("ready")}


def test_a_killed_worker_is_replaced_on_its_slot_and_the_others_are_untouched(prepare: Prepare) -> None:
    server = prepare(workers=3).start()
    server.expected_errors.append(KILLED)
    before = pids_by_slot(server)
    kill(server, before[1])
    after = pids_by_slot(server)
    assert after.keys() == before.keys()
    assert {slot for slot in before if before[slot] != after[slot]} == {1}


def test_only_the_clients_of_the_killed_worker_are_cut(server: Running) -> None:
    server.expected_errors.append(KILLED)
    with Crowd() as crowd:
        clients = crowd.come(("127.0.0.1", server.port()), 40)
        assert answers(send_all(clients), 5) == [b"hello"] * 40
        victim = server.workers("ready")[0]
        kill(server, victim["pid"])
        alive = [got for got in answers(send_all(clients), 5) if got == b"hello"]
    assert len(alive) == 40 - victim["connections"] > 0


def test_connections_that_wait_at_a_stopped_worker_are_answered_when_it_is_killed(server: Running) -> None:
    server.expected_errors.append(KILLED)
    victim, neighbour = sorted(server.worker_pids())
    with Crowd() as crowd:
        with stopped(victim, neighbour):
            clients = send_all(crowd.come(("127.0.0.1", server.port()), 200))
            os.kill(victim, signal.SIGKILL)
        assert answers(clients, 5) == [b"hello"] * 200


def test_connections_that_wait_at_the_only_worker_are_answered_by_its_replacement(prepare: Prepare) -> None:
    server = prepare(workers=1).start()
    server.expected_errors.append(KILLED)
    (victim,) = server.worker_pids()
    with Crowd() as crowd:
        with stopped(victim):
            clients = send_all(crowd.come(("127.0.0.1", server.port()), 200))
            os.kill(victim, signal.SIGKILL)
        assert answers(clients, 5) == [b"hello"] * 200


def test_new_connections_are_served_while_workers_are_killed(prepare: Prepare) -> None:
    server = prepare(workers=3).start()
    server.expected_errors.append(KILLED)
    with Stream(("127.0.0.1", server.port())) as stream:
        for slot in (0, 1, 2, 0, 1, 2):
            kill(server, pids_by_slot(server)[slot])
        eventually(lambda: stream.answered > 100)
    # Those in flight on a killed one are lost with it: one client has one connection.
    assert len(stream.failures) <= 6
    assert not [text for text in stream.failures if "refused" in text or "timed out" in text]


def test_counters_never_go_down_over_crash_and_reload(server: Running) -> None:
    server.expected_errors.append(KILLED)
    with Stream(("127.0.0.1", server.port())) as stream:
        seen: list[dict[str, int]] = [server.status()["counters"]]

        def look() -> bool:
            seen.append(server.status()["counters"])
            return len(server.worker_pids()) == 2

        for _ in range(3):
            eventually(lambda: stream.answered > 20)
            victim = min(server.worker_pids())
            os.kill(victim, signal.SIGKILL)
            eventually(lambda: look() and victim not in server.worker_pids())  # noqa: B023
            assert server.reload()["verdict"] == "committed"
            look()
    for before, after in pairwise(seen):
        assert not [name for name in before if after[name] < before[name]], (before, after)
    eventually(lambda: server.status()["counters"]["accepted"] >= stream.answered)


def test_the_master_is_as_small_after_many_respawns_as_before(prepare: Prepare) -> None:
    server = prepare(workers=6).start()
    server.expected_errors.append(KILLED)

    def kill_all() -> None:
        eventually(lambda: all(row["uptime"] > 0.3 for row in server.workers("ready")))
        old = server.worker_pids()
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: len(server.worker_pids() - old) == 6 and len(server.workers()) == 6)

    kill_all()
    fds, shared, rss = count_fds(server.pid), shared_bytes(server.pid), status_kib(server.pid, "VmRSS")
    for _ in range(10):
        kill_all()
    eventually(lambda: count_fds(server.pid) <= fds)
    assert shared_bytes(server.pid) == shared > 0
    assert status_kib(server.pid, "VmRSS") < rss + 512


def test_a_worker_that_ends_right_after_boot_is_tried_less_and_less_often(prepare: Prepare) -> None:
    server = prepare({"app.py": BROKEN_ON_DEMAND}, workers=2, lifespan="app:life").start()
    server.expected_errors += [KILLED, "exited with 1"]
    server.write("broken", "")
    os.kill(pids_by_slot(server)[1], signal.SIGKILL)
    pattern = re.compile(r"worker 1 g1 .* exited with 1; the slot is filled again in ([\d.]+) s")
    eventually(lambda: len(pattern.findall(server.log())) >= 4)
    waits = [float(text) for text in pattern.findall(server.log())]
    assert waits[3] > 2 * waits[0]
    assert len(server.log().splitlines()) < 30
    with server.connect() as client:
        assert exchange(client, b"hello") == b"hello"
    (server.folder / "broken").unlink()
    eventually(server.is_ready)


def test_a_server_of_one_worker_supervises_it(prepare: Prepare) -> None:
    server = prepare(workers=1).start()
    server.expected_errors.append(KILLED)
    (victim,) = server.worker_pids()
    os.kill(victim, signal.SIGKILL)
    with server.connect() as client:
        assert exchange(client, b"hello") == b"hello"
    assert victim not in server.worker_pids()


def test_a_killed_mold_is_started_again_and_workers_are_still_replaced(server: Running) -> None:
    server.expected_errors += [KILLED, "mold g1 is started again"]
    workers = server.worker_pids()
    (mold,) = find(server.descendants(), "prefork: mold g1")
    os.kill(mold, signal.SIGKILL)
    eventually(lambda: find(server.descendants() - {mold}, "prefork: mold g1"))
    assert server.worker_pids() == workers
    kill(server, min(workers))
    assert server.is_ready()


def test_mold_and_workers_killed_at_once_all_come_back(server: Running) -> None:
    server.expected_errors += [KILLED, "mold g1 is started again"]
    old = server.worker_pids() | set(find(server.descendants(), "prefork: mold"))
    for pid in old:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: len(server.worker_pids() - old) == 2)
    with server.connect() as client:
        assert exchange(client, b"hello") == b"hello"
    assert all(is_gone(pid) for pid in old)


def test_a_segmentation_fault_leaves_its_python_stack_in_the_log(prepare: Prepare) -> None:
    server = prepare({"app.py": FALLING}).start()
    server.expected_errors.append("was ended by SIGSEGV")
    with server.connect() as client:
        client.sendall(b"fall")
        assert answers([client], 4) in ([b""], [b"ConnectionResetError"])
    eventually(lambda: "in fall" in server.log())
    assert "Segmentation fault" in server.log()
    eventually(server.is_ready)
