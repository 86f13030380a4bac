"""The end of TLS connections: whole answers, and a goodbye at their end, never a cut that looks like an attack."""

from __future__ import annotations

import itertools
import os
import select
import signal
import socket
import ssl
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.eventually import eventually
from tests.system.certificates import (
    NAME,
    VERSIONS,
    Authority,
    connect,
    connect_path,
    counters,
    listener,
)
from tests.system.conftest import Prepare
from tests.system.running import Running, exchange, receive
from tests.system.traffic import Stream

MIB = 1 << 20
SOURCE = """
import asyncio, os

async def gated(conn):
    data = await conn.read()
    with open("begun", "a") as file:
        file.write("+")
    while not os.path.exists("gate"):
        await asyncio.sleep(0.005)
    await conn.send(data * 100_000)

async def echo(conn):
    async for data in conn:
        await conn.send(data)

async def large(conn):
    await conn.read()
    await conn.send(b"x" * (1 << 20))

async def sized(conn):
    size = int(await conn.read())
    await conn.send(b"x" * size)

async def parts(reader, writer):
    await reader.read(1)
    for _ in range(64):
        writer.write(b"x" * 16_384)
        await writer.drain()

class Flowing(asyncio.Protocol):
    left, is_paused = 64, False

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.send()

    def send(self):
        while self.left and not self.is_paused:
            self.left -= 1
            self.transport.write(b"x" * 16_384)
        if not self.left:
            self.transport.close()

    def pause_writing(self):
        self.is_paused = True

    def resume_writing(self):
        self.is_paused = False
        self.send()

async def paused(reader, writer):
    await reader.read(1)
    writer.write(b"one ")
    while not os.path.exists("gate"):
        await asyncio.sleep(0.005)
    writer.write(b"two")

async def endless(conn):
    async for data in conn:
        await conn.send(data)
        await asyncio.sleep(3600)
"""


def start(prepare: Prepare, app: str, bind: str = "tls://127.0.0.1:0", **config: Any) -> tuple[Running, Authority]:
    rows = [listener(bind, f"app:{app}")]
    server = prepare({"app.py": SOURCE}, workers=config.pop("workers", 1), listeners=rows, **config)
    authority = Authority()
    authority.issue().write(server.folder)
    return server.start(), authority


def read_to_the_goodbye(client: ssl.SSLSocket) -> bytes:
    """Return all that comes; an end without a goodbye raises, as `suppress_ragged_eofs` is off."""
    received = bytearray()
    while data := client.recv(65_536):
        received += data
    return bytes(received)


@pytest.mark.parametrize("by", [signal.SIGHUP, signal.SIGTERM])
def test_an_answer_that_is_under_way_arrives_whole_and_ends_by_a_goodbye(prepare: Prepare, by: int) -> None:
    server, authority = start(prepare, "gated", workers=2)
    with ExitStack() as stack:
        clients = [
            stack.enter_context(connect(server, authority.client(version)))
            for version in VERSIONS.values()
            for _ in range(3)
        ]
        for client in clients:
            client.sendall(b"hello")
        eventually(lambda: len(noted(server, "begun")) == len(clients))
        server.send(by)
        if by == signal.SIGHUP:
            eventually(lambda: server.workers("draining"))
        else:
            eventually(lambda: server.status()["state"] == "stopping")
        server.write("gate", "")
        answers = [read_to_the_goodbye(client) for client in clients]
    assert [answer == b"hello" * 100_000 for answer in answers] == [True] * len(clients)
    if by == signal.SIGTERM:
        assert server.process is not None
        assert server.process.wait(10) == 0
    else:
        assert counters(server)["cut"] == 0


def noted(server: Running, name: str) -> str:
    path = server.folder / name
    return path.read_text() if path.exists() else ""


def test_idle_clients_get_a_goodbye_when_the_server_stops(prepare: Prepare) -> None:
    times = {"boot": "20s", "beat": "20s", "drain": "2s"}
    server, authority = start(prepare, "echo", timeouts=times)
    with connect(server, authority.client()) as spoken, connect(server, authority.client()) as silent:
        assert exchange(spoken, b"hello") == b"hello"
        server.send(signal.SIGTERM)
        assert read_to_the_goodbye(spoken) == read_to_the_goodbye(silent) == b""
    assert server.process is not None
    assert server.process.wait(10) == 0


def test_a_client_that_shakes_hands_while_the_server_stops_is_served_or_told(prepare: Prepare) -> None:
    """Its connection was accepted before: so it is not to be lost."""
    times = {"boot": "20s", "beat": "20s", "drain": "3s"}
    server, authority = start(prepare, "echo", timeouts=times)
    with server.connect() as sock:
        eventually(lambda: server.workers()[0]["connections"] == 1)
        server.send(signal.SIGTERM)
        eventually(lambda: server.status()["state"] == "stopping")
        context = authority.client()
        with context.wrap_socket(sock, server_hostname=NAME, suppress_ragged_eofs=False) as client:
            assert exchange(client, b"hello") == b"hello"
            assert read_to_the_goodbye(client) == b""
    assert server.process is not None
    assert server.process.wait(10) == 0


def test_handshakes_that_never_end_do_not_outlive_the_drain(prepare: Prepare) -> None:
    times = {"boot": "20s", "beat": "20s", "drain": "1s"}
    server, _ = start(prepare, "echo", timeouts=times)
    with server.connect() as sock:
        eventually(lambda: server.workers()[0]["connections"] == 1)
        assert server.stop(within=4) == 0
        assert sock.recv(100) == b""


def test_what_is_cut_at_the_end_of_the_drain_is_counted(prepare: Prepare) -> None:
    times = {"boot": "20s", "beat": "20s", "drain": "0.5s"}
    server, authority = start(prepare, "endless", timeouts=times)
    with connect(server, authority.client()) as client:
        assert exchange(client, b"hello") == b"hello"
        assert server.reload()["verdict"] == "committed"
        eventually(lambda: counters(server)["cut"] == 1)
        with pytest.raises((ConnectionError, ssl.SSLError)):
            read_to_the_goodbye(client)


class SecureStream(Stream):
    """A steady stream of clients over TLS."""

    def __init__(self, where: tuple[str, int], context: ssl.SSLContext) -> None:
        super().__init__(where)
        self._address = where
        self._context = context

    def run(self) -> None:
        while not self.failures:
            try:
                self._exchange()
                self.answered += 1
            except (OSError, EOFError) as error:
                self.failures.append(type(error).__name__)

    def _exchange(self) -> None:
        with (
            socket.create_connection(self._address, timeout=10) as sock,
            self._context.wrap_socket(sock, server_hostname=NAME, suppress_ragged_eofs=False) as client,
        ):
            if exchange(client, b"hello") != b"hello":
                raise EOFError


def test_a_stream_of_clients_sees_a_refusal_and_no_broken_handshake(prepare: Prepare) -> None:
    server, authority = start(prepare, "echo", workers=2)
    with ExitStack() as stack:
        where = ("127.0.0.1", server.port())
        streams = [stack.enter_context(SecureStream(where, authority.client())) for _ in range(3)]
        eventually(lambda: all(stream.answered > 10 for stream in streams))
        assert server.stop() == 0
        eventually(lambda: all(stream.failures for stream in streams))
    assert {failure for stream in streams for failure in stream.failures} == {"ConnectionRefusedError"}


def test_a_slow_answer_arrives_whole_while_the_server_stops(prepare: Prepare) -> None:
    """Neither a client with a full buffer before it nor a handler that works has come to an end by its silence."""
    apps = ("parts", "Flowing", "paused")
    paths = {app: Path(f"\0prefork-tls-{app}-{os.getpid()}") for app in apps}
    rows = [{**listener(f"unix://@{str(paths[app])[1:]}", f"app:{app}"), "name": app} for app in apps]
    times = {"boot": "20s", "beat": "20s", "drain": "4s"}
    server = prepare({"app.py": SOURCE}, workers=1, listeners=rows, timeouts=times)
    authority = Authority()
    authority.issue().write(server.folder)
    server.start()
    with ExitStack() as stack:
        context = authority.client()
        clients = [(app, stack.enter_context(connect_path(paths[app], context))) for app in apps * 5]
        for _, client in clients:
            client.sendall(b"?")
            assert client.recv(1) in b"xo"
        begun = time.monotonic()
        server.send(signal.SIGTERM)
        eventually(lambda: time.monotonic() > begun + 3)
        server.write("gate", "")
        answers = [(app, len(read_to_the_goodbye(client))) for app, client in clients]
    wanted = {"parts": MIB - 1, "Flowing": MIB - 1, "paused": len("ne two")}
    assert answers == [(app, wanted[app]) for app, _ in clients]
    assert server.process is not None
    assert server.process.wait(10) == 0


# --- closing ---


def test_a_large_last_answer_arrives_whole_though_the_client_sent_more_than_was_read(prepare: Prepare) -> None:
    server, authority = start(prepare, "large")
    for version in [*VERSIONS.values()] * 4:
        with connect(server, authority.client(version)) as client:
            client.sendall(b"y" * 100_000)
            assert len(read_to_the_goodbye(client)) == MIB
    assert counters(server)["errors"] == 0


def test_the_goodbye_comes_though_there_is_just_no_room_for_it(prepare: Prepare) -> None:
    """The number of full records at which the buffer of a unix socket is full is among these."""
    path = Path(f"\0prefork-tls-drain-{os.getpid()}")
    server, authority = start(prepare, "sized", f"unix://@{str(path)[1:]}")
    for count, version in itertools.product(range(10, 16), VERSIONS.values()):
        with connect_path(path, authority.client(version)) as client:
            client.sendall(b"%d" % (count * 16_384))
            ended = select.poll()
            ended.register(client, select.POLLRDHUP)
            ended.poll(200)  # ms; an answer for which there is no room has no end yet
            assert len(read_to_the_goodbye(client)) == count * 16_384
    eventually(lambda: server.workers()[0]["connections"] == 0)


def test_a_client_that_ends_without_a_goodbye_still_gets_its_answer(prepare: Prepare) -> None:
    """As many clients do: the FIN alone says that the request is over."""
    server, authority = start(prepare, "large")
    with connect(server, authority.client()) as client:
        client.sendall(b"?")
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        socket.socket.shutdown(client, socket.SHUT_WR)
        assert len(receive(client, MIB)) == MIB
