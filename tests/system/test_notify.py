"""Told to a service manager by sd_notify(3): here the test is the one who listens, on a socket of its own."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.eventually import eventually
from tests.system.conftest import Prepare
from tests.system.running import Running

WATCHDOG_USEC = 600_000
SHOWS_ENVIRON = """
import os, subprocess

async def echo(conn):
    async for _ in conn:
        shown = subprocess.run(["env"], capture_output=True).stdout
        await conn.send(shown + b"\\nEND")
"""
UNTIDY = "async def echo(conn):\n    raise SystemError\n\n1/0\n"


class Warden:
    """Who listens: keeps what it was told."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.told: list[dict[str, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + name[1:] if name.startswith("@") else name)
        self._socket.setblocking(False)

    def listen(self) -> list[dict[str, str]]:
        """Return all that was told."""
        while True:
            try:
                message = self._socket.recv(65_536).decode()
            except BlockingIOError:
                return self.told
            self.told.append(dict(line.split("=", 1) for line in message.splitlines()))

    def life(self) -> list[str]:
        """Return what was told of the server's life, in its order."""
        known = ("READY", "RELOADING", "STOPPING")
        return [word for message in self.listen() for word in known if word in message]

    def statuses(self) -> list[str]:
        return [message["STATUS"] for message in self.listen() if "STATUS" in message]

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def warden(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Warden]:
    is_abstract = getattr(request, "param", "path") == "abstract"
    warden = Warden(f"@prefork-test-{os.getpid()}" if is_abstract else f"{tmp_path}/notify")
    yield warden
    warden.close()


def start(server: Running, warden: Warden, **environ: str) -> Running:
    return server.start(environ={"NOTIFY_SOCKET": warden.name, **environ})


@pytest.mark.parametrize("warden", ["path", "abstract"], indirect=True)
def test_boot_reload_refusal_and_stop_are_told_in_their_order(prepare: Prepare, warden: Warden) -> None:
    server = prepare(timeouts={"boot": "20s", "beat": "20s", "drain": "5s", "delay": "1.5s"})
    server.expected_errors += ["reload refused", "imported", "ZeroDivisionError", "Traceback"]
    start(server, warden)
    eventually(lambda: warden.life() == ["READY"])
    assert warden.statuses()[-1] == "2 workers of generation 1, 0 connections"
    asked_at = time.monotonic_ns() // 1000
    server.send(signal.SIGHUP)
    eventually(lambda: warden.life() == ["READY", "RELOADING", "READY"])
    (reloading,) = [message for message in warden.told if "RELOADING" in message]
    assert asked_at <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
    server.write("app.py", UNTIDY)
    server.send(signal.SIGHUP)
    eventually(lambda: warden.life()[3:] == ["RELOADING", "READY"])
    assert "the last reload was refused" in warden.statuses()[-1]
    assert "ZeroDivisionError" in warden.statuses()[-1]
    server.send(signal.SIGTERM)
    eventually(lambda: warden.life()[5:] == ["STOPPING"])
    assert server.is_ready() is False  # it is told at once, and still accepts
    assert server.process is not None
    assert server.process.wait(10) == 0
    assert warden.life()[5:] == ["STOPPING"]


def test_a_config_that_is_refused_at_once_is_a_reload_too(prepare: Prepare, warden: Warden) -> None:
    server = start(prepare(), warden)
    server.expected_errors += ["reload refused", "unknown key"]
    eventually(lambda: warden.life() == ["READY"])
    server.configure({"wrokers": 3})
    server.send(signal.SIGHUP)
    eventually(lambda: warden.life() == ["READY", "RELOADING", "READY"])
    assert "unknown key 'wrokers'" in warden.statuses()[-1]


def test_ready_is_not_said_before_the_last_worker_is(prepare: Prepare, warden: Warden) -> None:
    """The second to come waits for a file."""
    slow = (
        "import contextlib, os, asyncio\n"
        "async def echo(conn): ...\n"
        "@contextlib.asynccontextmanager\n"
        "async def wait():\n"
        "    try:\n"
        "        os.mkdir('first')\n"
        "    except FileExistsError:\n"
        "        while not os.path.exists('gate'):\n"
        "            await asyncio.sleep(0.01)\n"
        "    yield\n"
    )
    server = prepare({"app.py": slow}, lifespan="app:wait")
    server.start(environ={"NOTIFY_SOCKET": warden.name}, wait=False)
    eventually(lambda: warden.statuses()[-1:] == ["1 of 2 workers of generation 1, 0 connections"], within=20)
    assert warden.life() == []
    server.write("gate", "")
    eventually(lambda: warden.life() == ["READY"])


def test_the_line_follows_what_happens(prepare: Prepare, warden: Warden) -> None:
    server = start(prepare(), warden)
    with server.connect(), server.connect():
        eventually(lambda: warden.statuses()[-1] == "2 workers of generation 1, 2 connections")
    server.ask("scale", count=3)
    eventually(lambda: warden.statuses()[-1] == "3 workers of generation 1, 0 connections")


def test_signs_of_life_come_at_half_of_the_time_that_the_watchdog_gives(prepare: Prepare, warden: Warden) -> None:
    """The master's own tick is longer than this watchdog's half."""
    server = start(prepare(), warden, WATCHDOG_USEC=str(WATCHDOG_USEC))
    heard: list[float] = []

    def hear() -> bool:
        count = sum("WATCHDOG" in message for message in warden.listen())
        heard.extend([time.monotonic()] * (count - len(heard)))
        return len(heard) >= 8

    eventually(hear, every=0.01)
    gaps = sorted(after - before for before, after in pairwise(heard[1:]))
    assert gaps[len(gaps) // 2] < WATCHDOG_USEC * 0.6 / 1e6
    assert server.is_ready()


def test_a_watchdog_for_another_process_gets_nothing(prepare: Prepare, warden: Warden) -> None:
    server = start(prepare(), warden, WATCHDOG_USEC=str(WATCHDOG_USEC), WATCHDOG_PID="1")
    with server.connect():
        eventually(lambda: "2 workers of generation 1, 1 connection" in warden.statuses())
    eventually(lambda: "2 workers of generation 1, 0 connections" in warden.statuses()[-1:])
    assert not any("WATCHDOG" in message for message in warden.listen())


def test_no_program_of_the_app_is_given_a_way_to_speak_for_the_server(prepare: Prepare, warden: Warden) -> None:
    server = prepare({"app.py": SHOWS_ENVIRON})
    start(server, warden, WATCHDOG_USEC=str(WATCHDOG_USEC), WATCHDOG_PID="1")
    with server.connect() as client:
        client.sendall(b"?")
        shown = b""
        while not shown.endswith(b"END"):
            shown += client.recv(65_536)
    assert b"PATH=" in shown
    assert b"NOTIFY_SOCKET" not in shown
    assert b"WATCHDOG" not in shown


def test_a_manager_that_does_not_read_holds_nothing_up(prepare: Prepare, warden: Warden) -> None:
    """Its queue is full after some ten datagrams, net.unix.max_dgram_qlen; the rest waits for room."""
    server = start(prepare(), warden)
    for count in (1, 2, 1, 2, 1, 2, 1, 2):
        server.configure({"workers": count})
        assert server.reload()["verdict"] == "committed"
    server.send(signal.SIGTERM)
    assert server.process is not None
    assert server.process.wait(10) == 0
    assert warden.life()[:2] == ["READY", "RELOADING"]


@pytest.mark.parametrize("name", ["/nowhere/at/all", "@prefork-nobody-listens", "/" + "x" * 300, "vsock:2:1"])
def test_a_manager_that_is_not_there_is_told_of_once_and_the_server_serves(prepare: Prepare, name: str) -> None:
    server = prepare().start(environ={"NOTIFY_SOCKET": name})
    server.ask("scale", count=1)
    eventually(lambda: server.is_ready() and len(server.workers()) == 1)
    assert server.stop() == 0
    assert server.output().count("cannot notify the service manager") == 1


def test_without_a_manager_nothing_is_opened_and_nothing_is_said(prepare: Prepare) -> None:
    environ = {"WATCHDOG_USEC": str(WATCHDOG_USEC)}
    told, untold = prepare(), prepare()
    told.start(environ={**environ, "NOTIFY_SOCKET": "@prefork-nobody-listens"})
    untold.start(environ=environ)
    eventually(lambda: len(untold.open_fds()) == len(told.open_fds()) - 1)
    assert "notify" not in untold.log()


def test_a_boot_that_fails_is_never_ready(prepare: Prepare, warden: Warden) -> None:
    server = prepare({"app.py": UNTIDY})
    server.expected_errors += ["exit", "imported", "ZeroDivisionError", "Traceback", "cannot boot"]
    server.start(environ={"NOTIFY_SOCKET": warden.name}, wait=False)
    assert server.process is not None
    assert server.process.wait(20) == 3
    assert "READY" not in warden.life()
