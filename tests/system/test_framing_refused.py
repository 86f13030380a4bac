"""A framing that cannot be served is refused by `check`, at boot and at a reload, in one clear line."""

from __future__ import annotations

from typing import Any

import pytest

from tests.system.conftest import Prepare
from tests.system.remains import assert_nothing_is_left
from tests.system.running import ECHO, Running, exchange

APPS = """
import asyncio
from dataclasses import dataclass

class Bytes(asyncio.Protocol):
    pass

async def streams(reader, writer):
    pass

number = 5

async def coroutine(message):
    return message

def of_two(one, two):
    return one

@dataclass
class WithTuple:
    pair: tuple[int, int]

@dataclass
class WithUnknown:
    thing: "Nowhere"
"""
CHECKS = {
    "nowhere:check": "there is no module nowhere in",
    "app:nothing": "module 'app' has no attribute 'nothing'",
    "app:number": "cannot check messages with app:number: it is a int",
    "app:coroutine": "cannot check messages with app:coroutine: ",
    "app:of_two": "cannot check messages with app:of_two: ",
    "app:WithTuple": "cannot check messages with app:WithTuple: ",
    "app:WithUnknown": "cannot check messages with app:WithUnknown: ",
}
KINDS = {
    "Bytes": "cannot serve app app:Bytes: with a framing it needs a method frame_received(self, frame)",
    "streams": "cannot serve app app:streams: a (reader, writer) handler reads bytes, not frames",
}
VALUES: list[tuple[Any, str]] = [
    ("fixed", "fixed needs size"),
    ({"fixed": {}}, "size is missing"),
    ({"fixed": {"size": 0}}, "too small"),
    ({"length": {"bytes": 3}}, "3 cannot be used; known are 1, 2, 4, 8"),
    ({"length": {"endian": "middle"}}, "'middle' is unknown"),
    ({"length": {"over": "ignore"}}, "'ignore' is unknown"),
    ({"length": {"max": 0}}, "too small"),
    ({"length": {"delimiter": ";"}}, "unknown key 'delimiter'"),
    ({"lines": {"delimiter": ""}}, "cannot end a line"),
    ({"lines": {"delimiter": "\u2028"}}, "cannot end a line"),
    ({"lines": {"delimiter": "x" * 17}}, "cannot end a line"),
    ({"lines": {"strip": "yes"}}, "write true or false"),
    ({"json-lines": {"check": "no colon"}}, "does not name an object"),
    ({"json-lines": {"chek": "app:check"}}, "did you mean check?"),
    ({"lines": {}, "length": {}}, "it is not one framing"),
    ("netstrings", "did you mean netstring?"),
    ({"raw": {}}, "raw has no options"),
]


def config(framing: Any, app: str = "app:echo") -> dict[str, Any]:
    return {"listeners": [{"name": "echo", "bind": "tcp://127.0.0.1:0", "app": app, "framing": framing}]}


def fault_of(name: str) -> tuple[dict[str, Any], str]:
    if name in CHECKS:
        return config({"json-lines": {"check": name}}), CHECKS[name]
    return config("length", f"app:{name}"), KINDS[name]


FAULTS = [*CHECKS, *KINDS]


@pytest.mark.parametrize("name", FAULTS)
def test_check_refuses_it_with_its_place(prepare: Prepare, name: str) -> None:
    keys, wanted = fault_of(name)
    done = prepare({"app.py": ECHO + APPS}, **keys).run("check", "test.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert "test.yaml:" in done.stderr
    assert "listener echo: " in done.stderr
    assert wanted in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("preload", [True, False])
@pytest.mark.parametrize("name", ["app:nothing", "app:number", "app:WithUnknown", *KINDS])
def test_the_boot_is_refused_with_exit_3(prepare: Prepare, name: str, preload: bool) -> None:
    keys, wanted = fault_of(name)
    server = prepare({"app.py": ECHO + APPS}, preload=preload, log={"format": "text"}, **keys)
    done = server.run("run", "test.yaml", within=15)
    assert done.returncode == 3
    assert wanted in done.stderr
    assert "cannot boot: no worker was ever ready: " in done.stderr
    assert_nothing_is_left(server.folder)


def test_a_reload_is_refused_and_the_old_generation_serves_on(prepare: Prepare) -> None:
    server: Running = prepare({"app.py": ECHO + APPS}).start()
    server.expected_errors += ["reload refused", "cannot be imported", "Traceback", "test.yaml"]
    before = server.worker_pids()
    for name in ("nowhere:check", "app:number", "app:coroutine", *KINDS):
        keys, wanted = fault_of(name)
        server.configure(keys)
        verdict = server.reload()
        assert verdict["verdict"] == "refused", name
        assert wanted in verdict["reason"], name
    assert server.worker_pids() == before
    with server.connect() as client:
        assert exchange(client, b"hello") == b"hello"


@pytest.mark.parametrize(("framing", "wanted"), VALUES)
def test_an_option_that_cannot_be_is_told_with_its_place(prepare: Prepare, framing: Any, wanted: str) -> None:
    done = prepare(**config(framing)).run("check", "test.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert "test.yaml:" in done.stderr
    assert wanted in done.stderr
    assert "Traceback" not in done.stderr


def test_a_datagram_listener_has_no_framing(prepare: Prepare) -> None:
    row = {"name": "echo", "bind": "udp://127.0.0.1:0", "app": "app:echo", "framing": "length"}
    done = prepare(listeners=[row]).run("check", "test.yaml")
    assert done.returncode == 2
    assert "has no framing: a datagram is one" in done.stderr
