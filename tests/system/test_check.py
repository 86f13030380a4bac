"""`prefork check` says what is wrong with a config and its apps, and touches nothing that runs."""

from __future__ import annotations

import socket

import pytest

from tests.system.conftest import Prepare
from tests.system.remains import assert_nothing_is_left
from tests.system.running import ECHO, Running, listeners
from tests.system.storm import Storm

KINDS = """
import asyncio, functools
async def connection(conn): pass
async def optional(conn, more=None, *, other=1): pass
async def streams(reader, writer): pass
class Object:
    async def __call__(self, conn): pass
an_object = Object()
class Protocol(asyncio.Protocol): pass
class Buffered(asyncio.BufferedProtocol): pass
def factory(): return Protocol()
class Space:
    @staticmethod
    async def handler(conn): pass
"""
CONNECTION = "a coroutine handler, async def f(conn)"
ANSWERS = {
    "connection": CONNECTION,
    "optional": CONNECTION,
    "an_object": CONNECTION,
    "Space.handler": CONNECTION,
    "streams": "a coroutine handler, async def f(reader, writer)",
    "Protocol": "an asyncio protocol class",
    "Buffered": "an asyncio protocol class",
    "factory": "a factory of asyncio protocols",
}


def test_check_says_what_kind_each_app_is(prepare: Prepare) -> None:
    rows = [(name, "tcp://127.0.0.1:0", f"app:{name}") for name in ANSWERS]
    done = prepare({"app.py": KINDS}, listeners=listeners(*rows)).run("check", "test.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [f"{name}: tcp://127.0.0.1:0 -> app:{name}, {kind}" for name, kind in ANSWERS.items()]
    assert done.stdout.splitlines() == ["test.yaml: good", *lines]


def test_a_needed_key_that_is_misspelt_is_one_mistake(prepare: Prepare) -> None:
    done = prepare(listeners=[{"bnd": "tcp://127.0.0.1:1", "app": "a:b"}]).run("check", "test.yaml")
    assert done.returncode == 2
    assert done.stderr.count("prefork: ") == 1
    assert "listeners.0: unknown key 'bnd'; did you mean bind?" in done.stderr


def test_check_binds_nothing_and_leaves_nothing(prepare: Prepare) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        server = prepare(listeners=listeners(("echo", bind, "app:echo")), pidfile="server.pid")
        assert server.run("check", "test.yaml").returncode == 0
    assert_nothing_is_left(server.folder)
    assert not server.log_file.exists()


def test_check_beside_a_running_server_disturbs_no_client(server: Running) -> None:
    server.configure({"listeners": listeners(("echo", f"tcp://127.0.0.1:{server.port()}", "app:echo"))})
    before = server.worker_pids()
    with Storm(server.port()) as storm:
        for _ in range(3):
            assert server.run("check", "test.yaml").returncode == 0
            storm.wait_for_more()
    assert not storm.failures
    assert server.worker_pids() == before


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("def echo(:\n", "SyntaxError"),
        ("import there_is_none\n", "No module named 'there_is_none'"),
        ("raise RuntimeError('no licence')\n", "RuntimeError: no licence"),
        ("import sys\nsys.exit('I give up')\n", "SystemExit: I give up"),
        ("pass\n", "has no attribute 'echo'"),
        ("def echo(conn): pass\n", "write async def f(conn)"),
    ],
)
def test_an_app_that_cannot_be_served_is_told_with_its_listener(prepare: Prepare, text: str, wanted: str) -> None:
    done = prepare({"app.py": text}).run("check", "test.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert "test.yaml:3:8: listener echo: " in done.stderr
    assert wanted in done.stderr


def test_all_apps_that_cannot_be_served_are_told_at_once(prepare: Prepare) -> None:
    rows = listeners(("a", "tcp://127.0.0.1:0", "app:a"), ("b", "tcp://127.0.0.1:0", "none:b"))
    done = prepare({"app.py": ECHO}, listeners=rows, lifespan="app:away").run("check", "test.yaml")
    assert done.returncode == 2
    for name in ("listener a", "listener b", "app:away"):
        assert name in done.stderr


def test_check_tells_of_a_variable_of_the_environment_that_names_no_key(
    prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFORK_WOKERS", "3")
    done = prepare().run("check", "test.yaml")
    assert done.returncode == 0
    assert "PREFORK_WOKERS" in done.stderr
    assert "did you mean workers?" in done.stderr


def test_flags_are_checked_too(prepare: Prepare) -> None:
    done = prepare().run("check", "test.yaml", "--set", "workers=many")
    assert done.returncode == 2
    assert "--set workers=many" in done.stderr
