"""TLS is spoken on every kind of stream listener, by every kind of app, in both versions."""

from __future__ import annotations

import hashlib
import itertools
import os
import ssl
from pathlib import Path
from typing import Any

from tests.eventually import eventually
from tests.system.certificates import (
    TELLING,
    TLS_1_3,
    VERSIONS,
    Authority,
    Carried,
    connect,
    connect_path,
    counters,
    exchange_at_once,
    listener,
    told,
    wrap,
)
from tests.system.conftest import Prepare
from tests.system.processes import stopped
from tests.system.running import Running, exchange, receive

MIB = 1 << 20
KINDS = """
import asyncio, ssl

async def streams(reader, writer):
    while data := await reader.read(70_000):
        writer.write(data)
        await writer.drain()

class Protocol(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)

class Buffered(asyncio.BufferedProtocol):
    def connection_made(self, transport):
        self.transport = transport
        self.buffer = bytearray(1000)

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, count):
        self.transport.write(bytes(self.buffer[:count]))

async def lines(conn):
    async for line in conn:
        await conn.send(line.upper())

def details(transport):
    find = transport.get_extra_info
    is_same = find("sslcontext") is find("ssl_object").context
    return f"{find('cipher')[1]} {find('compression')} {find('peercert')} {is_same}".encode()

async def extra(reader, writer):
    await reader.read(1)
    writer.write(details(writer.transport))
    writer.write_eof() if writer.can_write_eof() else writer.close()

async def afterwards(conn):
    details = [conn.tls]
    await conn.read()
    conn.close()
    for _ in range(100):
        await asyncio.sleep(0)
    details.append(conn.tls)
    with open("seen", "w") as file:
        file.write(repr([tls and tls.version for tls in details]) + "\\n")

async def pieces(conn):
    await conn.read()
    for index in range(3000):
        conn.write(bytes([index % 256]) * (index % 97 + 1))
        if index % 500 == 0:
            conn.write(b"large" * 20_000)
    await conn.send(b"!")

async def file(conn):
    await conn.read()
    with open("large", "rb") as file:
        await conn.sendfile(file)
"""


def start(prepare: Prepare, authority: Authority, *rows: dict[str, Any], source: str = KINDS) -> Running:
    server = prepare({"app.py": source}, workers=1, listeners=list(rows))
    authority.issue().write(server.folder)
    return server.start()


def test_what_was_agreed_upon_is_told_on_all_kinds_of_listeners(prepare: Prepare) -> None:
    authority = Authority()
    path = Path(f"\0prefork-tls-{os.getpid()}")
    rows = [
        listener(),
        {**listener("tcp://127.0.0.1:0"), "name": "tcp"},
        {**listener(f"unix://@{str(path)[1:]}"), "name": "unix"},
        {"name": "plain", "bind": "tcp://127.0.0.1:0", "app": "app:echo"},
    ]
    server = start(prepare, authority, *rows, source=TELLING)
    for version in VERSIONS:
        context = authority.client(VERSIONS[version])
        clients = [connect(server, context), wrap(server.connect("tcp"), context), connect_path(path, context)]
        for client in clients:
            with client:
                assert_told(client, version)
    with server.connect("plain") as sock:
        assert told(sock) is None
    found = counters(server)
    assert (found["accepted"], found["handshakes"], found["unsecured"], found["resumed"]) == (7, 6, 0, 0)


def assert_told(client: ssl.SSLSocket, version: str) -> None:
    """Check that both sides say the same of what was agreed upon."""
    tls = told(client)
    assert (tls["version"], tls["server_name"], tls["alpn"]) == (version, "localhost", None)
    assert tls["cipher"] == (client.cipher() or ("",))[0]
    assert (tls["peer_certificate"], tls["is_resumed"]) == (None, False)


def test_every_kind_of_app_serves_large_and_small_messages(prepare: Prepare) -> None:
    authority = Authority()
    apps = {"echo": "prefork.apps.echo:echo", "streams": "app:streams", "a": "app:Protocol", "b": "app:Buffered"}
    server = start(prepare, authority, *({**listener(app=app), "name": name} for name, app in apps.items()))
    for name, version in itertools.product(apps, VERSIONS.values()):
        with wrap(server.connect(name), authority.client(version)) as client:
            for size in (1, 16_383, 16_384, 16_385, 65_536, 100_000):
                data = os.urandom(size)
                assert exchange(client, data) == data


def test_a_framing_cuts_what_tls_brings(prepare: Prepare) -> None:
    authority = Authority()
    server = start(prepare, authority, listener(app="app:lines", framing="lines"))
    with connect(server, authority.client()) as client:
        for part in (b"one\ntwo\nth", b"re", b"e\n"):
            client.sendall(part)
        assert receive(client, 14) == b"ONE\nTWO\nTHREE\n"


def test_much_in_both_directions_at_once_arrives_as_it_was_sent(prepare: Prepare) -> None:
    authority = Authority()
    server = start(prepare, authority, listener(app="prefork.apps.echo:echo"))
    sent = os.urandom(MIB) * 3
    for version in VERSIONS.values():
        with connect(server, authority.client(version)) as client:
            received = exchange_at_once(client, sent)
            assert hashlib.sha256(received).digest() == hashlib.sha256(sent).digest()


def test_many_small_writes_to_a_slow_reader_arrive_in_their_order(prepare: Prepare) -> None:
    """OpenSSL wants a write that was cut short again, with the same bytes and never fewer."""
    authority = Authority()
    path = Path(f"\0prefork-tls-pieces-{os.getpid()}")
    start(prepare, authority, listener(f"unix://@{str(path)[1:]}", "app:pieces"))
    wanted = b"".join(
        bytes([i % 256]) * (i % 97 + 1) + (b"large" * 20_000 if i % 500 == 0 else b"") for i in range(3000)
    )
    for version in VERSIONS.values():
        with connect_path(path, authority.client(version)) as client:
            client.sendall(b"?")
            received = bytearray()
            while data := client.recv(1000):
                received += data
        assert received == wanted + b"!"


def test_a_file_is_sent_over_tls(prepare: Prepare) -> None:
    authority = Authority()
    server = start(prepare, authority, listener(app="app:file"))
    content = os.urandom(700_000)
    (server.folder / "large").write_bytes(content)
    with connect(server, authority.client()) as client:
        client.sendall(b"?")
        assert receive(client, len(content)) == content
        assert client.recv(1) == b""


def test_asyncio_finds_what_it_knows_of_tls_transports(prepare: Prepare) -> None:
    authority = Authority()
    server = start(prepare, authority, listener(app="app:extra"))
    for version in VERSIONS:
        with connect(server, authority.client(VERSIONS[version])) as client:
            client.sendall(b"?")
            wanted = f"{version} None None True".encode()
            assert receive(client, len(wanted)) == wanted
            assert client.recv(1) == b""


def test_what_was_agreed_upon_is_still_known_when_the_connection_is_closed(prepare: Prepare) -> None:
    authority = Authority()
    server = start(prepare, authority, listener(app="app:afterwards"))
    with connect(server, authority.client(TLS_1_3)) as client:
        client.sendall(b"?")
        assert client.recv(1) == b""
    seen = server.folder / "seen"
    eventually(lambda: seen.exists() and seen.read_text().endswith("\n"))
    assert seen.read_text() == "['TLSv1.3', 'TLSv1.3']\n"


def test_a_goodbye_right_behind_a_message_is_answered(prepare: Prepare) -> None:
    """A client that says goodbye and waits for ours sends no FIN: nothing but what was read tells of it."""
    authority = Authority()
    source = "async def echo(conn):\n    async for data in conn:\n        pass\n"
    server = start(prepare, authority, listener(), source=source)
    for size in (100, 16_384, 2 * 16_384, 3 * 16_384, 4 * 16_384, 70_000):
        with server.connect(timeout=3) as sock:
            client = Carried(authority.client())
            client.start(sock)
            client.tls.write(bytes(size))
            assert not client.is_answered()
            with stopped(*server.worker_pids()):
                sock.sendall(client.words())
            while not client.is_answered():
                client.take(sock)
            assert sock.recv(1) == b""
