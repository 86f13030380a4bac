"""The master is killed: its children leave by themselves, and the address is free for the next."""

from __future__ import annotations

import signal
import time

import pytest

from tests.eventually import eventually
from tests.system.conftest import Prepare
from tests.system.processes import is_gone, stopped
from tests.system.running import ECHO, Running, exchange
from tests.system.traffic import dial

GONE = "the master is gone"
LEAVE_SECONDS = 5.0
REBIND_SECONDS = 1.0
BUSY = """
import asyncio, hashlib, time

async def echo(conn):
    async for data in conn:
        if data == b"sleep":
            time.sleep(1000)
        if data == b"spin":
            while True:
                pass
        if data == b"compute":
            hashlib.pbkdf2_hmac("sha256", b"", b"", 40_000_000)
        if data == b"wait":
            await asyncio.sleep(1)
        await conn.send(data)
"""
SLOW_IMPORT = "import time\nopen('importing', 'w').close()\ntime.sleep(30)\n" + ECHO
SLOW_LIFE = (
    """
import asyncio, contextlib

@contextlib.asynccontextmanager
async def life():
    open('entering', 'w').close()
    await asyncio.sleep(30)
    yield
"""
    + ECHO
)


def kill_master(server: Running) -> set[int]:
    """Kill it; return the pids of its children."""
    server.expected_errors += ["exit", GONE]
    below = server.descendants()
    assert below
    server.stop(signal.SIGKILL)
    server.control.unlink()  # by a SIGKILL it is left behind, and the next server replaces it
    return below


def wait_gone(pids: set[int]) -> None:
    eventually(lambda: all(is_gone(pid) for pid in pids), within=LEAVE_SECONDS)


def test_idle_children_leave_at_once_and_the_port_is_free(prepare: Prepare) -> None:
    first = prepare().start()
    port = first.port()
    below = kill_master(first)
    second = prepare(listeners=[{"name": "echo", "bind": f"tcp://127.0.0.1:{port}", "app": "app:echo"}])
    eventually(lambda: is_free(port), within=REBIND_SECONDS)
    second.start()
    with second.connect() as client:
        assert exchange(client, b"hello") == b"hello"
    wait_gone(below)


def is_free(port: int) -> bool:
    """Whether nobody listens."""
    try:
        dial(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return True
    except OSError:  # somebody is there, who does not get round to it
        pass
    return False


@pytest.mark.parametrize("how", [b"sleep", b"spin"])
def test_a_child_that_is_busy_leaves_too(prepare: Prepare, how: bytes) -> None:
    server = prepare({"app.py": BUSY}).start()
    with server.connect() as client:
        client.sendall(how)
        eventually(lambda: server.status()["counters"]["accepted"] == 1)
        wait_gone(kill_master(server))


@pytest.mark.slow
@pytest.mark.xfail(strict=True, reason="no Python signal handler runs inside a call of C code")
def test_a_child_that_is_busy_in_c_leaves_too(prepare: Prepare) -> None:
    server = prepare({"app.py": BUSY}).start()
    with server.connect() as client:
        client.sendall(b"compute")
        eventually(lambda: server.status()["counters"]["accepted"] == 1)
        wait_gone(kill_master(server))


def test_the_port_is_free_at_once_while_a_child_is_busy(prepare: Prepare) -> None:
    server = prepare({"app.py": BUSY}).start()
    port = server.port()
    with server.connect() as client:
        client.sendall(b"sleep")
        eventually(lambda: server.status()["counters"]["accepted"] == 1)
        below = kill_master(server)
        eventually(lambda: is_free(port), within=REBIND_SECONDS)
        wait_gone(below)


def test_a_request_that_is_under_way_still_gets_its_answer(prepare: Prepare) -> None:
    server = prepare({"app.py": BUSY}).start()
    with server.connect() as client:
        client.sendall(b"wait")
        eventually(lambda: server.status()["counters"]["accepted"] == 1)
        below = kill_master(server)
        assert client.recv(10) == b"wait"
    wait_gone(below)


def test_a_mold_in_the_middle_of_an_import_leaves_too(prepare: Prepare) -> None:
    server = prepare({"app.py": SLOW_IMPORT})
    server.start(wait=False)
    eventually((server.folder / "importing").exists)
    wait_gone(kill_master(server))


@pytest.mark.parametrize("preload", [True, False])
def test_a_worker_in_the_middle_of_its_boot_leaves_too(prepare: Prepare, preload: bool) -> None:
    app = SLOW_LIFE if preload else SLOW_IMPORT
    life = "app:life" if preload else None
    server = prepare({"app.py": app}, lifespan=life, preload=preload)
    server.start(wait=False)
    eventually((server.folder / ("entering" if preload else "importing")).exists)
    wait_gone(kill_master(server))


def test_a_stopped_worker_leaves_when_it_goes_on(server: Running) -> None:
    begun = time.monotonic()
    with stopped(*server.worker_pids()):
        below = kill_master(server)
    wait_gone(below)
    assert time.monotonic() - begun < LEAVE_SECONDS
