"""TLS begun by asyncio's own calls, with a context of the user's, on a listener that knows nothing of it."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from typing import Any

from tests.eventually import eventually
from tests.system.certificates import VERSIONS, Authority, Carried, ask, counters, listener, read_to_the_end, wrap
from tests.system.conftest import Prepare
from tests.system.running import Running, receive

SOURCE = """
import asyncio, hashlib, ssl

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("server.pem", "server.key")
context.set_alpn_protocols(["echo"])

def details(transport):
    tls = transport.get_extra_info("ssl_object")
    return f"{tls.version()} {tls.selected_alpn_protocol()} {transport.get_extra_info('sslcontext') is context}\\n"

async def streams(reader, writer):
    while (line := await reader.readline()) not in (b"STARTTLS\\n", b""):
        writer.write(b"plain " + line)
    writer.write(b"go\\n")
    await writer.start_tls(context)
    writer.write(details(writer).encode())
    while line := await reader.readline():
        writer.write(b"secret " + line)
        await writer.drain()

async def upload(reader, writer):
    await reader.readline()
    writer.write(b"go\\n")
    await writer.start_tls(context)
    size = int(await reader.readline())
    await asyncio.sleep(0)
    digest = hashlib.sha256(await reader.readexactly(size))
    writer.write(digest.digest())
    await writer.drain()

async def unread(reader, writer):
    await reader.readline()
    writer.write(b"go\\n")
    await writer.start_tls(context)
    writer.write(b"got " + await reader.readline())

CONTEXTS = {
    b"client": ssl.create_default_context(),
    b"unchecked": ssl._create_unverified_context(),
    b"bare": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    b"none": "server.pem",
    b"good": context,
}

async def wrong(conn):
    context = CONTEXTS[await conn.read()]
    await conn.send(b"go\\n")
    await conn.start_tls(context)
    await conn.send(b"secret")

async def wrong_streams(reader, writer):
    context = CONTEXTS[await reader.read(100)]
    writer.write(b"go\\n")
    await writer.start_tls(context)
    writer.write(b"secret")

class Protocol(asyncio.Protocol):
    word = b"plain "

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        if data == b"STARTTLS\\n":
            self.transport.write(b"go\\n")
            self.task = asyncio.get_running_loop().create_task(self.secure())
        else:
            self.transport.write(self.word + data)

    async def secure(self):
        loop = asyncio.get_running_loop()
        try:
            self.transport = await loop.start_tls(self.transport, self, context, server_side=True)
        except OSError:
            return
        self.word = b"secret "
        self.transport.write(details(self.transport).encode())

    def eof_received(self):
        return False

    def connection_lost(self, error):
        pass

class Raising(Protocol):
    def connection_lost(self, error):
        raise ValueError("on purpose")

class Framed(asyncio.Protocol):
    word = b"plain "

    def connection_made(self, transport):
        self.transport = transport

    def frame_received(self, frame):
        if frame == b"STARTTLS":
            self.transport.write_frame(b"go")
            self.task = asyncio.get_running_loop().create_task(self.secure())
        else:
            self.transport.write_frame(self.word + frame)

    async def secure(self):
        loop = asyncio.get_running_loop()
        self.transport = await loop.start_tls(self.transport, self, context, server_side=True)
        self.word = b"secret "
        self.transport.write_frame(details(self.transport).strip().encode())
"""


def start(prepare: Prepare, *apps: str, **more: Any) -> tuple[Running, Authority]:
    """Start a server with a listener for each app, of its name; those that know nothing of frames get none."""
    authority = Authority()
    rows = []
    for app in apps:
        framing = "lines" if app == "Framed" else "raw"
        row = {**listener("tcp://127.0.0.1:0", f"app:{app}", framing=framing), "name": app, **more}
        del row["tls"]  # the app has its own
        rows.append(row)
    server = prepare({"app.py": SOURCE}, workers=1, listeners=rows)
    authority.issue().write(server.folder)
    return server.start(), authority


def test_plain_before_and_secret_after(prepare: Prepare) -> None:
    apps = ("streams", "Protocol", "Framed")
    server, authority = start(prepare, *apps)
    for app, version in itertools.product(apps, VERSIONS):
        with server.connect(app) as sock:
            ask(sock, b"one\n", b"plain one\n")
            ask(sock, b"STARTTLS\n", b"go\n")
            with wrap(sock, authority.client(VERSIONS[version], ("echo",))) as client:
                ask(client, b"", f"{version} echo True\n".encode())
                ask(client, b"two\n", b"secret two\n")
                ask(client, b"three\n", b"secret three\n")
    found = counters(server)
    assert (found["accepted"], found["handshakes"], found["errors"], found["unsecured"]) == (6, 6, 0, 0)


def test_an_upload_larger_than_the_readers_limit_arrives_whole(prepare: Prepare) -> None:
    """The reader asks the transport that it was made with to pause: that is the plain one, up to Python 3.11."""
    server, authority = start(prepare, "upload", limits={"frame": "64KiB"})
    content = os.urandom(3_000_000)
    with server.connect("upload") as sock, wrap(ask(sock, b"STARTTLS\n", b"go\n"), authority.client()) as client:
        client.sendall(b"%d\n" % len(content) + content)
        assert len(receive(client, 32)) == 32
        assert client.recv(1) == b""
    assert counters(server)["errors"] == 0


def test_a_handshake_that_fails_costs_that_connection_alone(prepare: Prepare) -> None:
    apps = ("streams", "Protocol")
    server, authority = start(prepare, *apps)
    pids = server.worker_pids()
    failing = (b"", b"EHLO example.org\r\n", b"\x16\x03\x01\x02\x00\x01")
    for app, words in itertools.product(apps, failing):
        with server.connect(app) as sock:
            ask(sock, b"STARTTLS\n", b"go\n").sendall(words)
            sock.shutdown(socket.SHUT_WR)
            read_to_the_end(sock)
    eventually(lambda: counters(server)["unsecured"] == 6)
    for app in apps:
        with server.connect(app) as sock, wrap(ask(sock, b"STARTTLS\n", b"go\n"), authority.client()) as client:
            assert client.recv(100).startswith(b"TLSv1.3 None")
    assert server.worker_pids() == pids
    assert counters(server)["errors"] == 0


def test_a_protocol_that_raises_when_its_handshake_has_failed_costs_no_worker(prepare: Prepare) -> None:
    server, _ = start(prepare, "Raising", limits={"handshake": "0.3s"})
    server.expected_errors += ["the app failed on connection", "Traceback"]
    pids = server.worker_pids()
    for words in (b"this is no TLS", b"\x16"):  # one ends by what it says, one by the limit
        with server.connect("Raising", timeout=4) as sock:
            ask(sock, b"STARTTLS\n", b"go\n").sendall(words)
            read_to_the_end(sock)
    eventually(lambda: counters(server)["errors"] == 2)
    assert server.worker_pids() == pids
    with server.connect("Raising") as sock:
        ask(sock, b"one\n", b"plain one\n")


def test_a_context_that_is_a_clients_or_none_costs_that_connection_alone(prepare: Prepare) -> None:
    apps = ("wrong", "wrong_streams")
    server, authority = start(prepare, *apps)
    server.expected_errors += ["the app failed on connection", "Traceback"]
    pids = server.worker_pids()
    for app, which in itertools.product(apps, (b"client", b"unchecked", b"bare", b"none")):
        with server.connect(app, timeout=3) as sock:
            ask(sock, which, b"go\n").sendall(Carried(authority.client()).hello)
            read_to_the_end(sock)
    assert server.worker_pids() == pids
    eventually(lambda: counters(server)["closed"] == 8)
    found = counters(server)
    assert (found["errors"], found["unsecured"]) == (8, 0)  # a fault of ours, not of the peers
    for app in apps:
        with server.connect(app) as sock, wrap(ask(sock, b"good", b"go\n"), authority.client()) as client:
            assert receive(client, 6) == b"secret"


def test_plain_bytes_behind_the_request_never_look_secret(prepare: Prepare) -> None:
    """A third party in the middle may add them: CVE-2011-0411."""
    server, authority = start(prepare, "unread")
    answer = b""
    with server.connect("unread") as sock:
        sock.sendall(b"STARTTLS\nMAIL FROM:<evil>\n")
        with contextlib.suppress(OSError):  # refused: that is what should be
            answer = sock.recv(100)
            with wrap(sock, authority.client()) as client:
                client.sendall(b"MAIL FROM:<me>\n")
                answer = client.recv(100)
    assert b"evil" not in answer


def test_the_context_of_the_user_serves_others_as_before(prepare: Prepare) -> None:
    """What prefork needs of a context is its own concern: asyncio may use it for a server of its own."""
    source = (
        SOURCE
        + """
import contextlib

@contextlib.asynccontextmanager
async def lifespan():
    async def other(reader, writer):
        writer.write(b"other " + await reader.readline())
        writer.close()
    server = await asyncio.start_server(other, "127.0.0.1", 0, ssl=context)
    with open("port", "w") as file:
        file.write(str(server.sockets[0].getsockname()[1]))
    async with server:
        yield

async def blocking(reader, writer):
    import socket
    await reader.readline()
    writer.write(b"go\\n")
    await writer.start_tls(context)
    writer.write(context.sslsocket_class.__name__.encode())
"""
    )
    authority = Authority()
    row = {"name": "echo", "bind": "tcp://127.0.0.1:0", "app": "app:blocking"}
    server = prepare({"app.py": source}, workers=1, listeners=[row], lifespan="app:lifespan")
    authority.issue().write(server.folder)
    server.start()
    for _ in range(2):
        with server.connect() as sock, wrap(ask(sock, b"S\n", b"go\n"), authority.client()) as client:
            assert receive(client, 9) == b"SSLSocket"
        port = int((server.folder / "port").read_text())
        with wrap(socket.create_connection(("127.0.0.1", port), timeout=10), authority.client()) as client:
            ask(client, b"hello\n", b"other hello\n")
