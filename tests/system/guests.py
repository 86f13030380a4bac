"""Source texts of apps that bring a library of asyncio along, as its users would write them, and a server for
those that go out as clients.

Each app says WORD when it is asked who it is, so that a client knows which generation it talks to.

Knows: the libraries. Does not know: prefork, tests.
"""

from __future__ import annotations

import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme

TLS_HANDSHAKE = b"\x16"  # the first byte of a record with a ClientHello: RFC 8446, 5.1


@dataclass(frozen=True, slots=True)
class Guest:
    """An app's source text, and what the config file says of it."""

    source: str
    framing: str = "raw"
    lifespan: str | None = None

    def saying(self, word: str) -> str:
        """Return the source text of an app that says a word."""
        return f"WORD = {word!r}\n{self.source}"

    def config(self) -> dict[str, Any]:
        """Return the config of a server that has prefork's own echo beside the guest.

        The second half of a drain ends connections; a minute keeps that out of a test on a busy machine.
        """
        listener = {"name": "guest", "bind": "tcp://127.0.0.1:0", "app": "app:app", "framing": self.framing}
        echo = {"name": "echo", "bind": "tcp://127.0.0.1:0", "app": "prefork.apps.echo:echo"}
        return {
            "listeners": [listener, echo],
            "lifespan": self.lifespan,
            "timeouts": {"boot": "20s", "beat": "20s", "drain": "60s"},
        }


MAIL = Guest(
    source="""
import hashlib, ssl
from aiosmtpd.smtp import SMTP

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("server.pem")

class Mailbox:
    async def handle_DATA(self, server, session, envelope):
        way = "plainly" if session.ssl is None else "secretly"
        return f"250 {WORD} {way} {hashlib.sha256(envelope.content).hexdigest()}"

def app():
    return SMTP(Mailbox(), hostname="localhost", tls_context=context)
"""
)

WEBSOCKET = Guest(
    lifespan="app:lifespan",
    source="""
import asyncio, contextlib
from websockets.asyncio.server import ServerConnection, serve
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.server import ServerProtocol

state = {}

async def talk(websocket):
    async for message in websocket:
        if message == "bye":
            await websocket.close(1000, "bye")
        else:
            await websocket.send(WORD if message == "who?" else message)

@contextlib.asynccontextmanager
async def lifespan():
    async with serve(talk, "127.0.0.1", 0) as server:  # its own port is not used
        state["server"] = server
        yield

def app(kind=ServerConnection):
    protocol = ServerProtocol(extensions=[ServerPerMessageDeflateFactory()], max_size=2 << 20)
    return kind(protocol, state["server"])
""",
)

POLITE_WEBSOCKET = Guest(
    lifespan="app:lifespan",
    source=f"""{WEBSOCKET.source}
class Polite(ServerConnection):
    def drain_requested(self):
        state["farewell"] = asyncio.create_task(self.close(1001, "the server has new code"))

whole = app

def app():
    return whole(Polite)
""",
)

STORE = Guest(
    framing="lines",
    lifespan="app:lifespan",
    source="""
import contextlib, os
from redis.asyncio import Redis

state = {}

@contextlib.asynccontextmanager
async def lifespan():
    async with Redis(unix_socket_path="../redis.sock") as redis:
        state["redis"] = redis
        await redis.ping()
        yield

async def count(redis, key):
    return await redis.incr(key)

async def keep(redis, key):
    value = os.urandom(1 << 20)
    async with redis.pipeline(transaction=True) as pipeline:
        kept = await pipeline.set(key, value).get(key).execute()
    return kept == [True, value]

async def wait(redis, key):
    _, value = await redis.blpop([key], timeout=30)
    return value.decode()

async def push(redis, key):
    return await redis.rpush(key, "a present")

async def publish(redis, channel):
    return await redis.publish(channel, "the news")

async def app(conn):
    redis = state["redis"]
    async for line in conn:
        verb, _, key = line.decode().partition(" ")
        if verb == "who?":
            await redis.ping()
            await conn.send(WORD.encode())
        elif verb == "hear":
            async with redis.pubsub() as pubsub:
                await pubsub.subscribe(key)
                async for message in pubsub.listen():
                    await conn.send(message["type"].encode())
                    if message["type"] == "message":
                        await conn.send(message["data"])
                        break
        else:
            await conn.send(str(await globals()[verb](redis, key)).encode())
""",
)

ERRANDS = Guest(
    framing="lines",
    source="""
import asyncio, socket, ssl, threading

MANY = bytes(range(256)) * 4096
context = ssl.create_default_context(cafile="ca.pem")

async def serve(port):
    async def turn(reader, writer):
        writer.write((await reader.read())[::-1])
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(turn, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(MANY)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    return answer == MANY[::-1]

async def run(port):
    pipe = asyncio.subprocess.PIPE
    cat = await asyncio.create_subprocess_exec("cat", stdin=pipe, stdout=pipe)
    output, _ = await cat.communicate(MANY)
    failing = await asyncio.create_subprocess_exec("sh", "-c", "exit 7")
    return (output == MANY, cat.returncode, await failing.wait()) == (True, 0, 7)

async def think(port):
    return await asyncio.to_thread(threading.current_thread) is not threading.current_thread()

async def wait(port):
    try:
        async with asyncio.timeout(0.01):
            await asyncio.Event().wait()
    except TimeoutError:
        return True

async def share(port):
    first, second = asyncio.Queue(), asyncio.Queue()

    async def carry(here, there):
        await there.put(await here.get() + 1)

    async with asyncio.TaskGroup() as group:
        group.create_task(carry(second, first))
        group.create_task(carry(first, second))
        first.put_nowait(1)
    return first.get_nowait() == 3

async def fail(port):
    never = asyncio.get_running_loop().create_future()

    async def stumble():
        raise ValueError("on purpose")

    async def hold():
        await never

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(hold())
            group.create_task(stumble())
    except* ValueError as found:
        failures = found.exceptions
    return len(failures) == 1 and never.cancelled()

async def resolve(port):
    found = await asyncio.get_running_loop().getaddrinfo("localhost", port, type=socket.SOCK_STREAM)
    return {address[1] for *_, address in found} == {port}

async def call(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    writer.write(MANY)
    answer = await reader.readexactly(len(MANY))
    writer.close()
    await writer.wait_closed()
    return answer == MANY

class Caller(asyncio.Protocol):
    def __init__(self):
        self.received = asyncio.Queue()
        self.lost = asyncio.get_running_loop().create_future()

    def data_received(self, data):
        self.received.put_nowait(data)

    def connection_lost(self, error):
        self.lost.set_result(error)

async def upgrade(port):
    loop = asyncio.get_running_loop()
    plain, caller = await loop.create_connection(Caller, "127.0.0.1", port)
    plain.write(b"starttls\\n")
    agreed = await caller.received.get() == b"go\\n"
    secret = await loop.start_tls(plain, caller, context, server_hostname="localhost")
    secret.write(b"hello")
    answer = await caller.received.get()
    secret.close()
    return agreed and answer == b"hello" and await caller.lost is None

async def app(conn):
    async for line in conn:
        verb, _, port = line.decode().partition(" ")
        answer = WORD if verb == "who?" else str(await globals()[verb](int(port)))
        await conn.send(answer.encode())
""",
)

BUFFERED = Guest(
    source="""
import asyncio, hashlib

class app(asyncio.BufferedProtocol):  # records: 4 bytes of length, then so many bytes
    def connection_made(self, transport):
        self.transport = transport
        self.expect(4, is_length=True)

    def expect(self, count, is_length):
        self.record, self.filled, self.is_length = bytearray(count), 0, is_length

    def get_buffer(self, sizehint):
        return memoryview(self.record)[self.filled:]

    def buffer_updated(self, count):
        self.filled += count
        if self.filled < len(self.record):
            return
        if self.is_length:
            self.expect(int.from_bytes(self.record, "big"), is_length=False)
        else:
            self.transport.write(f"{WORD} {hashlib.sha256(self.record).hexdigest()}\\n".encode())
            self.expect(4, is_length=True)
"""
)

STREAMS = Guest(
    source="""
import asyncio, hashlib

def note(name, text):
    with open(name, "a") as file:
        file.write(text)

async def give(writer):
    \"\"\"Send until the client has to be waited for; tell how much that was, and how much of it waited here.\"\"\"
    _, high = writer.transport.get_write_buffer_limits()
    sent = peak = 0
    while peak <= high:
        writer.write(b"x" * 65_536)
        sent += 65_536
        peak = writer.transport.get_write_buffer_size()
        if peak > high:
            note("full", "+")
        await writer.drain()
    writer.write(b"\\n%d %d %d\\n" % (sent, peak, writer.transport.get_write_buffer_size()))

async def app(reader, writer):
    while True:
        try:
            verb, _, count = (await reader.readuntil(b"\\r\\n")).decode().strip().partition(" ")
        except asyncio.IncompleteReadError:
            return
        if verb == "who?":
            writer.write(WORD.encode() + b"\\n")
        elif verb == "take":
            writer.write(hashlib.sha256(await reader.readexactly(int(count))).hexdigest().encode() + b"\\n")
        elif verb == "give":
            await give(writer)
        elif verb == "bye":
            writer.write(b"bye\\n")
            writer.write_eof()
            note("rest", str(len(await reader.read())))
        await writer.drain()
"""
)


def certify() -> dict[str, str]:
    """Return two files by name: the certificate of an authority, and that of a server with its key."""
    authority = trustme.CA()
    leaf = authority.issue_cert("localhost", "127.0.0.1")
    return {
        "ca.pem": authority.cert_pem.bytes().decode(),
        "server.pem": leaf.private_key_and_cert_chain_pem.bytes().decode(),
    }


class TlsEcho(socketserver.StreamRequestHandler):
    """Echoes over TLS, which begins at once or after a line that asks for it."""

    timeout = 30.0

    def handle(self) -> None:
        assert isinstance(self.server, TlsServer)
        if self.request.recv(1, socket.MSG_PEEK) != TLS_HANDSHAKE:
            assert self.rfile.readline() == b"starttls\n"
            self.wfile.write(b"go\n")
        with self.server.context.wrap_socket(self.request, server_side=True) as secret:
            while data := secret.recv(65_536):
                secret.sendall(data)


class TlsServer(socketserver.ThreadingTCPServer):
    """The server that errands go to."""

    request_queue_size = 100

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context
        super().__init__(("127.0.0.1", 0), TlsEcho)


@contextmanager
def serve_tls(certificate: Path) -> Iterator[int]:
    """Run a server that echoes over TLS; return its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with TlsServer(context) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
