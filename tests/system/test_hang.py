"""A worker stands still: its stack is in the log, it is replaced, and the others serve meanwhile."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.eventually import eventually
from tests.system.conftest import Prepare
from tests.system.processes import is_gone, stopped
from tests.system.running import Running, exchange
from tests.system.traffic import Stream, dial

BEAT_SECONDS = 1.0
STANDS_STILL = "has not been round its loop for timeouts.beat"
HANGING = """
import time

def spin():
    while True:
        pass

def doze():
    time.sleep(1000)

async def echo(conn):
    async for data in conn:
        if data == b"spin":
            spin()
        if data == b"doze":
            doze()
        await conn.send(data)
"""


def start(prepare: Prepare, workers: int = 2) -> Running:
    timeouts = {"boot": "20s", "beat": f"{BEAT_SECONDS}s", "drain": "5s"}
    server = prepare({"app.py": HANGING}, workers=workers, timeouts=timeouts).start()
    server.expected_errors += [STANDS_STILL, "the stack of worker", "was ended by SIGKILL"]
    return server


@pytest.mark.parametrize("how", ["spin", "doze"])
def test_a_handler_that_never_returns_is_named_in_the_log_and_its_worker_is_replaced(
    prepare: Prepare, how: str
) -> None:
    server = start(prepare)
    before = server.worker_pids()
    with server.connect() as client:
        client.sendall(how.encode())
        eventually(lambda: len(server.worker_pids()) == 2 and server.worker_pids() != before)
        eventually(lambda: f"in {how}" in server.log().partition("the stack of worker")[2])
    (victim,) = before - server.worker_pids()
    eventually(lambda: is_gone(victim))


def test_a_stopped_worker_is_killed_soon_after_its_last_beat_and_replaced(prepare: Prepare) -> None:
    server = start(prepare)
    victim = min(server.worker_pids())
    begun = time.monotonic()
    os.kill(victim, signal.SIGSTOP)
    eventually(lambda: is_gone(victim))
    assert BEAT_SECONDS / 2 < time.monotonic() - begun < BEAT_SECONDS + 1.0
    eventually(lambda: len(server.worker_pids() - {victim}) == 2)


def test_the_only_worker_hangs_and_those_who_wait_are_served_by_its_replacement(prepare: Prepare) -> None:
    server = start(prepare, workers=1)
    where = ("127.0.0.1", server.port())
    with dial(where) as bad, dial(where) as waiting:
        assert exchange(waiting, b"hello") == b"hello"
        bad.sendall(b"doze")
        with dial(where) as late:
            assert exchange(late, b"hello") == b"hello"


def test_while_a_worker_stands_still_new_connections_are_answered_by_its_neighbour_at_once(
    server: Running,
) -> None:
    with stopped(min(server.worker_pids())), Stream(("127.0.0.1", server.port())) as stream:
        eventually(lambda: stream.answered >= 100)
    assert not stream.failures
    waits = sorted(stream.waits)
    assert waits[len(waits) * 9 // 10] < 0.1
    eventually(server.is_ready)


def test_a_worker_that_stands_still_for_less_than_the_beat_allows_goes_on(prepare: Prepare) -> None:
    server = prepare(timeouts={"boot": "20s", "beat": "3s", "drain": "5s"}).start()
    workers = server.worker_pids()
    with stopped(min(workers)):
        eventually(lambda: not server.is_ready())
    eventually(server.is_ready)
    assert server.worker_pids() == workers


def test_a_boot_that_is_slower_than_the_beat_is_not_a_hang(prepare: Prepare) -> None:
    slow = "import time\ntime.sleep(1.2)\n" + HANGING
    timeouts = {"boot": "20s", "beat": "0.5s", "drain": "5s"}
    server = prepare({"app.py": slow}, preload=False, timeouts=timeouts).start()
    assert STANDS_STILL not in server.log()
