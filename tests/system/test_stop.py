"""The server stops: what was begun is finished, what is idle does not delay it, nothing is left behind."""

from __future__ import annotations

import os
import re
import signal
import time

import pytest

from tests.eventually import eventually
from tests.system.conftest import Prepare
from tests.system.processes import is_gone, stopped
from tests.system.running import Running, exchange
from tests.system.traffic import Crowd, Stream, answers, dial, send_all

SLOW = """
import asyncio

async def echo(conn):
    async for data in conn:
        await asyncio.sleep(1)
        await conn.send(data * 1000)

async def endless(conn):
    async for data in conn:
        await asyncio.sleep(1000)
"""
KINDS = """
import asyncio

class Protocol(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)

async def streams(reader, writer):
    while data := await reader.read(1000):
        writer.write(data)
        await writer.drain()

async def handler(conn):
    async for data in conn:
        await conn.send(data)
"""


def where(server: Running) -> tuple[str, int]:
    return "127.0.0.1", server.port()


def test_connections_in_the_accept_queues_at_term_are_served(server: Running) -> None:
    with Crowd() as crowd:
        with stopped(*server.worker_pids()):
            clients = send_all(crowd.come(where(server), 200))
            server.send(signal.SIGTERM)
            eventually(lambda: server.status()["state"] == "stopping")
        assert answers(clients, 5) == [b"hello"] * 200
    assert server.process is not None
    assert server.process.wait(10) == 0


@pytest.mark.parametrize("kind", ["handler", "streams", "Protocol"])
def test_idle_clients_do_not_delay_the_stop(prepare: Prepare, kind: str) -> None:
    listener = {"name": "echo", "bind": "tcp://127.0.0.1:0", "app": f"app:{kind}"}
    timeouts = {"boot": "20s", "beat": "20s", "drain": "8s"}
    server = prepare({"app.py": KINDS}, listeners=[listener], timeouts=timeouts).start()
    with Crowd() as crowd:
        quiet, talkative = crowd.come(where(server), 10), crowd.come(where(server), 10)
        assert answers(send_all(talkative), 5) == [b"hello"] * 10
        begun = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begun < 8
        assert answers([*quiet, *talkative], 1) == [b""] * 20
    assert "cut" not in server.log()


def test_idle_clients_are_cut_at_the_end_of_the_drain_at_the_latest(prepare: Prepare) -> None:
    server = prepare(timeouts={"boot": "20s", "beat": "20s", "drain": "0.2s"}).start()
    with Crowd() as crowd:
        crowd.come(where(server), 10)
        begun = time.monotonic()
        assert server.stop() == 0
    assert time.monotonic() - begun < 0.2 + 1


def test_a_request_that_is_under_way_at_term_gets_its_whole_answer(prepare: Prepare) -> None:
    server = prepare({"app.py": SLOW}).start()
    with Crowd() as crowd:
        clients = send_all(crowd.come(where(server), 20))
        eventually(lambda: server.status()["counters"]["accepted"] == 20)
        server.send(signal.SIGTERM)
        assert answers(clients, 5000) == [b"hello" * 1000] * 20
        assert answers(clients, 1) == [b""] * 20
    assert server.process is not None
    assert server.process.wait(10) == 0


def test_what_does_not_finish_within_the_drain_is_cut_and_counted(prepare: Prepare) -> None:
    listener = {"name": "echo", "bind": "tcp://127.0.0.1:0", "app": "app:endless"}
    timeouts = {"boot": "20s", "beat": "20s", "drain": "1s"}
    server = prepare({"app.py": SLOW}, workers=1, listeners=[listener], timeouts=timeouts).start()
    with Crowd() as crowd:
        clients = send_all(crowd.come(where(server), 7))
        eventually(lambda: server.workers()[0]["connections"] == 7)
        old = server.worker_pids()
        server.reload()
        eventually(lambda: not server.worker_pids("draining") and not server.worker_pids() & old)
        assert answers(clients, 1) == [b"ConnectionResetError"] * 7
        assert server.status()["counters"]["cut"] == 7
        assert "cut 7 connections" in server.log()
        again = send_all(crowd.come(where(server), 1))
        eventually(lambda: server.workers()[0]["connections"] == 1)
        begun = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begun < 1 + 1
        assert answers(again, 1) == [b"ConnectionResetError"]


def test_a_second_term_ends_it_at_once_and_with_exit_0(prepare: Prepare) -> None:
    listener = {"name": "echo", "bind": "tcp://127.0.0.1:0", "app": "app:endless"}
    server = prepare({"app.py": SLOW}, listeners=[listener]).start()
    with Crowd() as crowd:
        send_all(crowd.come(where(server), 5))
        eventually(lambda: server.status()["counters"]["accepted"] == 5)
        server.send(signal.SIGTERM)
        eventually(lambda: server.status()["state"] == "stopping")
        begun = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begun < 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT])
def test_signals_up_to_the_last_moment_do_not_change_the_exit_status(server: Running, number: int) -> None:
    server.expected_errors.append("reload refused: generation 1 serves on: the server stops")
    server.send(signal.SIGTERM)
    assert server.process is not None
    while server.process.poll() is None:
        server.process.send_signal(number)
    assert server.process.returncode == 0


def test_int_ends_it_at_once(prepare: Prepare) -> None:
    listener = {"name": "echo", "bind": "tcp://127.0.0.1:0", "app": "app:endless"}
    server = prepare({"app.py": SLOW}, listeners=[listener]).start()
    with Crowd() as crowd:
        send_all(crowd.come(where(server), 5))
        begun = time.monotonic()
        assert server.stop(signal.SIGINT) == 0
        assert time.monotonic() - begun < 1


def test_control_c_to_the_whole_process_group_leaves_nothing_behind(prepare: Prepare) -> None:
    server = prepare().start_by(os.setsid)
    below = server.descendants()
    assert len(below) >= 3
    os.killpg(server.pid, signal.SIGINT)
    assert server.process is not None
    assert server.process.wait(5) == 0
    eventually(lambda: all(is_gone(pid) for pid in below), within=2)


def test_term_to_the_whole_process_group_finishes_what_is_under_way(prepare: Prepare) -> None:
    server = prepare({"app.py": SLOW}).start_by(os.setsid)
    with Crowd() as crowd:
        clients = send_all(crowd.come(where(server), 10))
        eventually(lambda: server.status()["counters"]["accepted"] == 10)
        os.killpg(server.pid, signal.SIGTERM)
        assert answers(clients, 5000) == [b"hello" * 1000] * 10
    assert server.process is not None
    assert server.process.wait(10) == 0


def test_during_the_delay_it_is_not_ready_and_still_accepts(prepare: Prepare) -> None:
    timeouts = {"boot": "20s", "beat": "20s", "drain": "2s", "delay": "1s"}
    server = prepare(timeouts=timeouts).start()
    address = where(server)
    begun = time.monotonic()
    server.send(signal.SIGTERM)
    eventually(lambda: server.status()["state"] == "stopping")
    health = server.run("health", "--control", str(server.control))
    assert (health.returncode, health.stderr) == (3, "not ready: the server stops\n")
    with dial(address) as late:
        assert exchange(late, b"hello") == b"hello"
    assert server.process is not None
    assert server.process.wait(10) == 0
    assert time.monotonic() - begun > 1


def test_a_stream_of_clients_sees_a_refusal_and_no_reset(server: Running) -> None:
    with Stream(where(server)) as stream:
        eventually(lambda: stream.answered > 20)
        assert server.stop() == 0
        eventually(lambda: stream.failures)
    assert {re.sub(r":.*", "", text) for text in stream.failures} == {"ConnectionRefusedError"}


@pytest.mark.parametrize("arguments", [(), ("--now",)])
def test_the_command_stop_returns_when_the_port_is_free(server: Running, arguments: tuple[str, ...]) -> None:
    address = where(server)
    with dial(address) as client:
        assert exchange(client, b"hello") == b"hello"
        answer = server.run("stop", "--control", str(server.control), *arguments)
        assert (answer.returncode, answer.stderr) == (0, "")
        with pytest.raises(ConnectionRefusedError):
            dial(address)
    assert server.process is not None
    assert server.process.wait(2) == 0


def test_stop_now_does_not_wait_for_a_request(prepare: Prepare) -> None:
    listener = {"name": "echo", "bind": "tcp://127.0.0.1:0", "app": "app:endless"}
    server = prepare({"app.py": SLOW}, listeners=[listener]).start()
    with dial(where(server)) as client:
        client.sendall(b"hello")
        eventually(lambda: server.status()["counters"]["accepted"] == 1)
        begun = time.monotonic()
        assert server.run("stop", "--now", "--control", str(server.control)).returncode == 0
        assert time.monotonic() - begun < 2
        assert answers([client], 1) in ([b""], [b"ConnectionResetError"])
