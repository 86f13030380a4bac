"""Datagram apps of each kind are served on each kind of datagram socket, and a failure costs one datagram."""

from __future__ import annotations

import os
import random
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.eventually import eventually
from tests.system.conftest import Prepare
from tests.system.datagrams import Where, call, caller, take
from tests.system.processes import stopped
from tests.system.running import Running
from tests.system.sources import noted

APPS = """
import asyncio

def function(data, peer, reply):
    reply(data)

async def coroutine(data, peer, reply):
    await asyncio.sleep(0)
    reply(data)

class Protocol(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        self.transport.sendto(data, addr)

def factory():
    return Protocol()

class Callable:
    def __call__(self, data, peer, reply):
        reply(data)

instance = Callable()
"""
KINDS = ("function", "coroutine", "Protocol", "factory", "instance")
SCHEMES = ("udp", "udp6", "unixgram", "abstract")
FAILING = """
import asyncio

def function(data, peer, reply):
    if data.startswith(b"raise"):
        raise ValueError(data)
    if data == b"exit":
        raise SystemExit(3)
    reply(data)

async def coroutine(data, peer, reply):
    await asyncio.sleep(0)
    function(data, peer, reply)

class Protocol(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        function(data, addr, lambda answer: self.transport.sendto(answer, addr))
"""
LATER = '''
import asyncio, os

kept = []

def keep(data, peer, reply):
    """Answer all that were kept, and this one, when one asks for it."""
    kept.append(reply)
    if data == b"now":
        for number, each in enumerate(kept):
            each(b"%d" % number)
            each.many([b"and", b"many", b"more"])
        kept.clear()

async def wait(data, peer, reply):
    with open("begun", "a") as file:
        file.write("+")
    while not os.path.exists("gate"):
        await asyncio.sleep(0.005)
    reply(data + b" at last")
'''


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose paths are short enough for sun_path, unix(7)."""
    with TemporaryDirectory(prefix="d") as name:
        yield Path(name)
        assert not os.listdir(name), "a file was left behind"


def bind_of(scheme: str, folder: Path, name: str) -> str:
    binds = {"udp": "udp://127.0.0.1:0", "udp6": "udp://[::1]:0", "unixgram": f"unixgram://{folder}/{name}"}
    return binds.get(scheme, f"unixgram://@{folder.name}-{name}")


def where(server: Running, scheme: str, folder: Path, name: str) -> Where:
    """Return where a client of a listener goes."""
    if scheme in ("udp", "udp6"):
        return ("127.0.0.1" if scheme == "udp" else "::1", server.port(f"{scheme}.{name}"))
    return f"{folder}/{name}" if scheme == "unixgram" else f"\0{folder.name}-{name}"


def rows(folder: Path, scheme: str, *names: str) -> list[dict[str, Any]]:
    return [
        {"name": f"{scheme}.{name}", "bind": bind_of(scheme, folder, name), "app": f"app:{name}"} for name in names
    ]


def count(server: Running, counter: str) -> int:
    return int(server.status()["counters"][counter])


def test_apps_of_each_kind_are_served_on_sockets_of_each_kind(folder: Path, prepare: Prepare) -> None:
    listeners = [row for scheme in SCHEMES for row in rows(folder, scheme, *KINDS)]
    server = prepare({"app.py": APPS}, listeners=listeners).start()
    sizes = (0, 1, 1472, 9000, 65_507)
    for scheme, name in product(SCHEMES, KINDS):
        with caller(where(server, scheme, folder, name)) as sock:
            for size in sizes:
                assert call(sock, b"x" * size) == b"x" * size, (scheme, name, size)
    assert [row["name"] for row in server.status()["listeners"]] == [row["name"] for row in listeners]
    eventually(lambda: count(server, "datagrams") == len(listeners) * len(sizes))
    assert count(server, "errors") == 0


def test_the_check_says_what_it_found_and_without_preload_it_is_served_too(folder: Path, prepare: Prepare) -> None:
    server = prepare({"app.py": APPS}, listeners=rows(folder, "udp", *KINDS), preload=False)
    done = server.run("check", "test.yaml")
    assert done.returncode == 0, done.stderr
    assert "a datagram handler, def f(data, peer, reply)" in done.stdout
    assert "a datagram handler, async def f(data, peer, reply)" in done.stdout
    server.start()
    for name in KINDS:
        with caller(where(server, "udp", folder, name)) as sock:
            assert call(sock, b"hello") == b"hello"


WRONG = {
    "def f(data, peer, reply)": "def app(data, peer):\n    pass\n",
    "is not an asyncio.DatagramProtocol": "import asyncio\nclass app(asyncio.Protocol):\n    pass\n",
}


@pytest.mark.parametrize("words", WRONG)
def test_an_app_that_is_not_for_datagrams_is_refused(folder: Path, prepare: Prepare, words: str) -> None:
    server = prepare({"app.py": WRONG[words]}, listeners=rows(folder, "udp", "app"))
    assert server.run("run", "test.yaml").returncode == 3
    assert words in server.log()


def test_an_exception_costs_one_datagram_one_record_and_one_count(folder: Path, prepare: Prepare) -> None:
    places = list(product(("udp", "unixgram"), ("function", "coroutine", "Protocol")))
    listeners = [row for scheme, name in places for row in rows(folder, scheme, name)]
    server = prepare({"app.py": FAILING}, workers=1, listeners=listeners).start()
    server.expected_errors += ["the app failed on a datagram", "Traceback", "ValueError", "SystemExit", "sys.exit"]
    workers = server.worker_pids()
    for scheme, name in places:
        with caller(where(server, scheme, folder, name)) as sock:
            for data in (b"raise 1", b"raise 2", b"exit"):
                sock.send(data)
                assert call(sock, b"hello") == b"hello"
    eventually(lambda: count(server, "errors") == 3 * len(places))
    records = [line for line in server.log().splitlines() if "the app failed on a datagram" in line]
    assert len(records) == 3 * len(places)
    assert sum("ValueError" in line for line in records) == 2 * len(places)
    assert server.worker_pids() == workers
    eventually(lambda: count(server, "datagrams") == 6 * len(places))


def test_a_name_of_a_peer_adds_no_line_to_the_log(folder: Path, prepare: Prepare) -> None:
    server = prepare({"app.py": FAILING}, listeners=rows(folder, "unixgram", "function")).start()
    server.expected_errors += ["the app failed on a datagram", "Traceback", "ValueError"]
    evil = f"{folder}/x\n00:00:00.000 error   master (1) prefork: all is lost\x1b[2J"
    for name in (evil, "\0" + evil):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.bind(name)
            sock.settimeout(10)
            sock.connect(f"{folder}/function")
            sock.send(b"raise")
            assert call(sock, b"hello") == b"hello"
    Path(evil).unlink()
    assert not [line for line in server.log().splitlines() if line.startswith("00:00:00.000")]
    assert "\x1b" not in server.log()
    eventually(lambda: count(server, "errors") == 2)


def test_a_reply_may_be_kept_and_used_later_and_more_than_once(folder: Path, prepare: Prepare) -> None:
    keep = {**rows(folder, "udp", "keep")[0], "limits": {"amplification": 0}}
    server = prepare({"app.py": LATER}, workers=1, listeners=[keep]).start()
    to = where(server, "udp", folder, "keep")
    with caller(to) as one, caller(to) as other, caller(to) as last:
        one.send(b"wait")
        eventually(lambda: count(server, "datagrams") == 1)
        other.send(b"wait")
        eventually(lambda: count(server, "datagrams") == 2)
        last.send(b"now")
        for number, sock in enumerate((one, other, last)):
            assert take(sock, 4) == [b"%d" % number, b"and", b"many", b"more"]


@pytest.mark.parametrize("how", ["reload", "stop", "scale", "TERM of the workers"])
def test_coroutines_that_are_at_work_are_finished(folder: Path, prepare: Prepare, how: str) -> None:
    listeners = [row for scheme in SCHEMES for row in rows(folder, scheme, "wait")]
    server = prepare({"app.py": LATER}, listeners=listeners).start()
    with ExitStack() as stack:
        socks = [stack.enter_context(caller(where(server, scheme, folder, "wait"))) for scheme in SCHEMES]
        for sock, number in product(socks, range(3)):
            sock.send(b"%d" % number)
        eventually(lambda: len(noted(server.folder, "begun")) == 12)
        leave(server, how)
        server.write("gate", "")
        for sock in socks:
            assert sorted(take(sock, 3)) == [b"%d at last" % number for number in range(3)]
    if how == "stop":
        assert server.process is not None
        assert server.process.wait(10) == 0


def leave(server: Running, how: str) -> None:
    """Have the workers that are at work drain."""
    old = server.worker_pids()
    if how == "reload":
        assert server.reload()["verdict"] == "committed"
    elif how == "stop":
        server.send(signal.SIGTERM)
        eventually(lambda: server.status()["state"] == "stopping")
    elif how == "scale":
        server.ask("scale", count=1)
        eventually(lambda: len(server.worker_pids()) == 1)
    else:
        for pid in old:
            os.kill(pid, signal.SIGTERM)
        eventually(lambda: len(server.worker_pids() - old) == 2)


def test_datagrams_that_wait_at_term_are_answered(folder: Path, prepare: Prepare) -> None:
    server = prepare({"app.py": APPS}, listeners=rows(folder, "udp", "function", "coroutine")).start()
    with (
        caller(where(server, "udp", folder, "function")) as one,
        caller(where(server, "udp", folder, "coroutine")) as other,
    ):
        with stopped(*server.worker_pids()):
            for number in range(100):
                one.send(b"%d" % number)
                other.send(b"%d" % number)
            server.send(signal.SIGTERM)
            eventually(lambda: server.status()["state"] == "stopping")
        assert take(one, 100) == take(other, 100) == [b"%d" % number for number in range(100)]


def test_twenty_thousand_random_datagrams_change_nothing(folder: Path, prepare: Prepare) -> None:
    places = list(product(("udp", "udp6"), ("function", "coroutine", "Protocol")))
    listeners = [row for scheme, name in places for row in rows(folder, scheme, name)]
    server = prepare({"app.py": APPS}, listeners=listeners).start()
    workers, dice, sent = server.worker_pids(), random.Random(11), 0
    with ExitStack() as stack:
        socks = [stack.enter_context(caller(where(server, scheme, folder, name))) for scheme, name in places * 2]
        for sock in socks * 40:
            asked = [dice.randbytes(dice.choice((0, 0, 1, 2, 7, 100, 600))) for _ in range(42)]
            for data in asked:
                sock.send(data)
            assert sorted(take(sock, len(asked))) == sorted(asked)
            sent += len(asked)
    assert sent > 20_000
    assert server.worker_pids() == workers
    eventually(lambda: count(server, "datagrams") == sent)
    assert count(server, "errors") == count(server, "dropped") == 0
