"""Every kind of app serves; what goes wrong on a connection costs that connection, and is told once."""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest

from tests.eventually import eventually
from tests.system.conftest import Prepare
from tests.system.running import Running, exchange, parse_json_lines, receive
from tests.system.traffic import Crowd, answers, send_all

NO_LINGER = struct.pack("ii", 1, 0)
KINDS = """
import asyncio, hashlib, threading

async def handler(conn):
    async for data in conn:
        await conn.send(data)

async def streams(reader, writer):
    while data := await reader.read(1000):
        writer.write(data)
        await writer.drain()

class Protocol(asyncio.Protocol):
    def __init__(self, prefix=b""):
        self.prefix = prefix

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(self.prefix + data)

class Buffered(asyncio.BufferedProtocol):
    def connection_made(self, transport):
        self.transport = transport
        self.buffer = bytearray(3)

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, count):
        self.transport.write(bytes(self.buffer[:count]))

def factory():
    return Protocol()

async def blocking(conn):
    def where(data):
        return data if threading.current_thread() is not threading.main_thread() else b"main!"
    async for data in conn:
        await conn.send(await conn.run_blocking(where, data))

async def upper(conn):
    async for line in conn:
        await conn.send(line.upper())
"""
FAILING = """
import asyncio

async def handler(conn):
    async for data in conn:
        if data == b"error":
            raise ValueError("on purpose")
        if data == b"exit":
            raise SystemExit(7)
        await conn.send(data)

async def streams(reader, writer):
    while data := await reader.read(100):
        if data == b"error":
            raise ValueError("on purpose")
        if data == b"exit":
            raise SystemExit(7)
        writer.write(data)

class Protocol(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        if data == b"error":
            raise ValueError("on purpose")
        if data == b"exit":
            raise SystemExit(7)
        self.transport.write(data)
"""

LATE = """
import asyncio, sys

async def answer(data):
    await asyncio.sleep(0.01)
    if data == b"exit":
        sys.exit(7)
    if data.startswith(b"port"):
        await asyncio.open_connection("127.0.0.1", int(data[4:]))
    return data

async def handler(conn):
    async for data in conn:
        await conn.send(await answer(data))

async def streams(reader, writer):
    while data := await reader.read(100):
        writer.write(await answer(data))
"""


def start(prepare: Prepare, source: str, app: str, **more: Any) -> Running:
    listener = {"name": "echo", "bind": "tcp://127.0.0.1:0", "app": f"app:{app}", **more}
    server = prepare({"app.py": source}, workers=1, listeners=[listener])
    server.configure(
        {
            "workers": 1,
            "listeners": [listener],
            "log": {"format": "json", "level": "debug", "file": str(server.log_file)},
        }
    )
    return server.start()


def counters(server: Running) -> dict[str, int]:
    found: dict[str, int] = server.status()["counters"]
    return found


def closed_port() -> int:
    """Return a port at which nobody listens: it was one a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def about(server: Running, text: str) -> list[dict[str, Any]]:
    """Return the records of the log whose message has a text."""
    return [row for row in parse_json_lines(server.log()) if text in row["msg"]]


@pytest.mark.parametrize("app", ["handler", "streams", "Protocol", "Buffered", "factory", "blocking"])
def test_every_kind_of_app_serves(prepare: Prepare, app: str) -> None:
    server = start(prepare, KINDS, app)
    with server.connect() as client:
        assert exchange(client, b"hello") == b"hello"
        assert exchange(client, b"x" * 100_000) == b"x" * 100_000
        client.shutdown(socket.SHUT_WR)
        assert client.recv(10) == b""


def test_framing_by_lines_gives_a_line_at_a_time(prepare: Prepare) -> None:
    server = start(prepare, KINDS, "upper", framing="lines")
    with server.connect() as client:
        for part in (b"one\ntwo\nth", b"re", b"e\n"):
            client.sendall(part)
        assert receive(client, 14) == b"ONE\nTWO\nTHREE\n"


@pytest.mark.parametrize("app", ["handler", "streams", "Protocol"])
@pytest.mark.parametrize("fault", ["error", "exit"])
def test_a_handler_that_raises_costs_one_connection_one_record_and_one_count(
    prepare: Prepare, app: str, fault: str
) -> None:
    server = start(prepare, FAILING, app)
    server.expected_errors += ["the app failed on connection", "Traceback"]
    with Crowd() as crowd:
        other, bad = crowd.come(("127.0.0.1", server.port()), 2)
        assert exchange(other, b"hello") == b"hello"
        bad.sendall(fault.encode())
        assert answers([bad], 1) == [b""]
        assert exchange(other, b"hello") == b"hello"
        pids = server.worker_pids()
    rows = about(server, "the app failed on connection")
    assert len(rows) == 1, rows
    (row,) = rows
    assert row["level"] == "error"
    assert f"echo-0.g1.{pids.pop()}-2 from" in row["msg"]
    assert ("ValueError: on purpose" if fault == "error" else "SystemExit: 7") in row["detail"]
    eventually(lambda: counters(server)["closed"] == 2)
    assert (counters(server)["errors"], counters(server)["broken"]) == (1, 0)


@pytest.mark.parametrize("app", ["handler", "streams", "Protocol"])
def test_a_peer_that_resets_is_one_line_and_one_count(prepare: Prepare, app: str) -> None:
    server = start(prepare, KINDS, app)
    with server.connect() as client:
        assert exchange(client, b"hello") == b"hello"
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
    eventually(lambda: counters(server)["closed"] == 1)
    rows = about(server, "ended:")
    assert len(rows) == 1, rows
    (row,) = rows
    assert row["level"] == "debug"
    assert "ConnectionResetError" in row["msg"]
    assert "echo-0.g1." in row["msg"]
    assert "-1 from" in row["msg"]
    assert "detail" not in row
    assert (counters(server)["errors"], counters(server)["broken"]) == (0, 1)


@pytest.mark.parametrize("app", ["handler", "streams"])
def test_sys_exit_after_a_wait_costs_one_connection_too(prepare: Prepare, app: str) -> None:
    server = start(prepare, LATE, app)
    server.expected_errors += ["the app failed on connection", "Traceback"]
    workers = server.worker_pids()
    with server.connect() as other, server.connect() as bad:
        assert exchange(other, b"hello") == b"hello"
        bad.sendall(b"exit")
        assert answers([bad], 1) == [b""]
        assert exchange(other, b"hello") == b"hello"
    assert server.worker_pids() == workers
    assert len(about(server, "the app failed on connection")) == 1


@pytest.mark.parametrize("app", ["handler", "streams"])
def test_the_fault_of_another_server_is_not_taken_for_one_of_the_peer(prepare: Prepare, app: str) -> None:
    server = start(prepare, LATE, app)
    server.expected_errors += ["the app failed on connection", "Traceback"]
    with server.connect() as client:
        client.sendall(b"port %d" % closed_port())
        assert answers([client], 1) == [b""]
    rows = about(server, "the app failed on connection")
    assert len(rows) == 1, server.log()
    assert "ConnectionRefusedError" in rows[0]["detail"]
    assert counters(server)["errors"] == 1


@pytest.mark.parametrize("app", ["handler", "streams", "Protocol"])
def test_accepted_less_closed_is_open(prepare: Prepare, app: str) -> None:
    server = start(prepare, FAILING, app)
    server.expected_errors += ["the app failed on connection", "Traceback"]
    with Crowd() as crowd:
        clients = crowd.come(("127.0.0.1", server.port()), 20)
        assert answers(send_all(clients), 5) == [b"hello"] * 20
        for client in clients[:5]:
            client.close()
        for client in clients[5:8]:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            client.close()
        assert answers(send_all(clients[8:10], b"error"), 1) == [b"", b""]
        for client in clients[8:10]:
            client.close()
        eventually(lambda: server.workers()[0]["connections"] == 10)
        found = counters(server)
        assert (found["accepted"], found["closed"]) == (20, 10)
    eventually(lambda: counters(server)["closed"] == 20)
    assert server.workers()[0]["connections"] == 0


def test_more_blocking_calls_than_threads_wait_for_each_other(prepare: Prepare) -> None:
    source = """
import time

def work(data):
    time.sleep(0.01)
    return data

async def echo(conn):
    async for data in conn:
        await conn.send(await conn.run_blocking(work, data))
"""
    server = start(prepare, source, "echo")
    with Crowd() as crowd:
        clients = crowd.come(("127.0.0.1", server.port()), 60)
        assert answers(send_all(clients), 5) == [b"hello"] * 60
