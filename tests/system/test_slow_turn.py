"""The loop stands still: while it does, the log says where, and on whose account."""

from __future__ import annotations

import re
import select
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.eventually import eventually
from tests.system.conftest import Prepare
from tests.system.running import Running, exchange

SLOW = "a turn of the loop takes longer than"
APPS = """
import asyncio, re, time

def doze():
    time.sleep(0.6)

def spin():
    until = time.monotonic() + 0.6
    while time.monotonic() < until:
        pass

def hold():
    re.match("(a+)+b", "a" * 24)  # one call, with the interpreter's lock held, of a second or more
    time.sleep(0.001)

WAYS = {b"doze": doze, b"spin": spin, b"hold": hold}

async def coroutine(conn):
    async for data in conn:
        WAYS.get(data, list)()
        await conn.send(data)

async def first_turn(conn):
    doze()
    await conn.send(b"doze")

async def later_turn(conn):
    async for data in conn:
        await asyncio.sleep(0.01)
        doze()
        await conn.send(data)

async def streams(reader, writer):
    while data := await reader.read(100):
        await asyncio.sleep(0)
        doze()
        writer.write(data)

class Protocol(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        WAYS.get(data, list)()
        self.transport.write(data)

async def nobodys(conn):
    async for data in conn:
        asyncio.get_running_loop().call_soon(doze)
        await conn.send(data)
"""
KINDS = ["coroutine", "first_turn", "later_turn", "streams", "Protocol"]


def start(prepare: Prepare, app: str = "coroutine", **log: Any) -> Running:
    listener = {"name": "slow", "bind": "tcp://127.0.0.1:0", "app": f"app:{app}"}
    server = prepare({"app.py": APPS}, workers=1, listeners=[listener])
    server.configure({"workers": 1, "listeners": [listener], "log": log_of(server, **log)})
    return server.start()


def log_of(server: Running, **more: Any) -> dict[str, Any]:
    return {"format": "text", "file": str(server.log_file), **more}


def is_waiting(client: socket.socket) -> bool:
    """Whether nothing has been answered yet."""
    return not select.select([client], [], [], 0)[0]


def record(server: Running) -> str:
    """Return the first record of a slow turn, with its stack; empty: there is none."""
    found = re.search(rf"^.*{SLOW}.*\n(?:  .*\n)+", server.log(), re.MULTILINE)
    return found[0] if found else ""


@pytest.mark.parametrize("app", KINDS)
def test_the_stack_and_the_connection_are_in_the_log_while_the_client_still_waits(
    prepare: Prepare, app: str
) -> None:
    server = start(prepare, app)
    with server.connect("slow") as client:
        client.sendall(b"doze")
        eventually(lambda: record(server), every=0.001)
        assert is_waiting(client), "it was told after the turn"
        assert client.recv(100) == b"doze"
        local = f"127.0.0.1:{client.getsockname()[1]}"
    (pid,) = server.worker_pids()
    told = record(server)
    assert f"{SLOW} 200 ms (log.slow_turn), on connection slow-0.g1.{pid}-" in told.splitlines()[0]
    assert local in told.splitlines()[0]
    assert "in doze" in told.splitlines()[-2]
    assert "time.sleep(0.6)" in told.splitlines()[-1]


def test_python_that_never_waits_is_seen_as_well(prepare: Prepare) -> None:
    server = start(prepare)
    with server.connect("slow") as client:
        client.sendall(b"spin")
        eventually(lambda: record(server), every=0.001)
        assert is_waiting(client)
        assert client.recv(100) == b"spin"
    assert "in spin" in record(server)


def test_c_code_that_holds_the_interpreter_is_told_of_when_it_ends(prepare: Prepare) -> None:
    server = start(prepare)
    with server.connect("slow", timeout=60) as client:
        assert exchange(client, b"hold") == b"hold"
    told = eventually(lambda: record(server))
    assert "in hold" in told


def test_the_stack_is_of_the_turn_and_not_of_the_process_below_it(prepare: Prepare) -> None:
    server = start(prepare)
    with server.connect("slow") as client:
        assert exchange(client, b"doze") == b"doze"
    told = eventually(lambda: record(server))
    assert "on_event" in told
    assert "master.py" not in told
    assert "mold.py" not in told


def test_a_turn_on_nobodys_account_is_told_without_a_connection(prepare: Prepare) -> None:
    server = start(prepare, "nobodys")
    with server.connect("slow") as client:
        assert exchange(client, b"hello") == b"hello"
        told = eventually(lambda: record(server))
    assert told.splitlines()[0].endswith("(log.slow_turn)")
    assert "in doze" in told


@pytest.mark.slow
def test_many_at_one_place_are_one_record(prepare: Prepare) -> None:
    server = start(prepare, slow_turn="100ms")
    with server.connect("slow") as client:
        for _ in range(4):
            assert exchange(client, b"doze") == b"doze"
        assert exchange(client, b"spin") == b"spin"
    eventually(lambda: server.log().count(SLOW) == 2)
    assert f"{SLOW} 100 ms" in server.log()


def test_an_idle_loop_and_a_quick_one_are_not_slow(prepare: Prepare) -> None:
    """For as long as it takes to see a slow one of the same worker."""
    server = start(prepare, slow_turn="300ms")
    with server.connect("slow") as client:
        for _ in range(200):
            assert exchange(client, b"hello") == b"hello"
        assert SLOW not in server.log()
        assert exchange(client, b"doze") == b"doze"
    eventually(lambda: record(server))
    assert server.log().count(SLOW) == 1


def test_json_has_the_stack_and_the_connection_in_fields(prepare: Prepare) -> None:
    server = start(prepare, format="json")
    with server.connect("slow") as client:
        assert exchange(client, b"doze") == b"doze"
    line = eventually(lambda: next((line for line in server.log().splitlines() if SLOW in line), ""))
    assert '"level": "warning"' in line
    assert '"conn": "slow-0.g1.' in line
    assert '"listener": "slow"' in line
    assert '"slot": 0' in line
    assert "in doze" in line


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def test_a_worker_that_looks_out_has_no_second_thread(prepare: Prepare) -> None:
    """It would share the table of descriptors, and make every system call dearer."""
    server = start(prepare)
    (pid,) = server.worker_pids()
    assert threads(pid) == 1


def test_with_0_nothing_is_told_and_a_reload_changes_that(prepare: Prepare) -> None:
    server = start(prepare, slow_turn=0)
    with server.connect("slow") as client:
        assert exchange(client, b"doze") == b"doze"
    assert SLOW not in server.log()
    listener = {"name": "slow", "bind": "tcp://127.0.0.1:0", "app": "app:coroutine"}
    server.configure({"workers": 1, "listeners": [listener], "log": log_of(server, slow_turn="50ms")})
    verdict = server.reload()
    assert verdict["changes"] == ["log.slow_turn 0s→50ms"]
    with server.connect("slow") as client:
        assert exchange(client, b"doze") == b"doze"
    eventually(lambda: f"{SLOW} 50 ms" in server.log())


OWN_ALARM = """
import signal, time

class Late(Exception):
    pass

def ring(number, frame):
    raise Late

if {at_import}:
    signal.signal(signal.SIGALRM, ring)

async def timed(conn):
    async for data in conn:
        signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        try:
            time.sleep(60)
        except Late:
            await conn.send(b"late")
"""


@pytest.mark.parametrize("at_import", [True, False])
def test_an_app_that_sets_alarms_itself_has_them(prepare: Prepare, at_import: bool) -> None:
    listener = {"name": "slow", "bind": "tcp://127.0.0.1:0", "app": "app:timed"}
    server = prepare({"app.py": OWN_ALARM.format(at_import=at_import)}, workers=1, listeners=[listener])
    server.configure({"workers": 1, "listeners": [listener], "log": log_of(server)})
    server.start()
    with server.connect("slow") as client:
        for _ in range(3):
            assert exchange(client, b"time") == b"late"
    assert ("log.slow_turn has no effect: the app has a handler of SIGALRM" in server.log()) == at_import
