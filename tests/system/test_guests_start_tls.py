"""Guests that begin TLS in mid-connection, by asyncio's own means; what a peer does wrong then is its fault."""

from __future__ import annotations

import hashlib
import random
import socket
import ssl
from collections.abc import Callable

import pytest

from tests.eventually import eventually
from tests.system.conftest import Prepare
from tests.system.guests import certify
from tests.system.running import Running, receive

SECONDS = 10.0
NOISE = random.Random(7).randbytes(1 << 20)
SOURCE = """
import asyncio, hashlib, ssl
from aiosmtpd.smtp import SMTP

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("server.pem")

async def streams(reader, writer):
    await reader.readline()
    writer.write(b"go\\n")
    await writer.start_tls(context)
    while line := await reader.readline():
        writer.write(hashlib.sha256(await reader.readexactly(int(line))).hexdigest().encode())
        await writer.drain()

async def hasty(reader, writer):
    await reader.readline()
    writer.write(b"go\\n")
    try:
        async with asyncio.timeout(0.01):
            await writer.start_tls(context)
    except TimeoutError:
        writer.close()
        open("given up", "w").close()

class Calm:
    async def handle_exception(self, error):
        return "454 TLS not available"

def mail():
    return SMTP(Calm(), hostname="localhost", tls_context=context)
"""


def start(prepare: Prepare, app: str) -> Running:
    listener = {"name": "echo", "bind": "tcp://127.0.0.1:0", "app": f"app:{app}"}
    return prepare({"app.py": SOURCE, **certify()}, workers=1, listeners=[listener]).start()


def trusting(server: Running) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(server.folder / "ca.pem"))


def ask_for_tls(server: Running, question: bytes = b"tls\r\n", answer: bytes = b"go\n") -> socket.socket:
    client = server.connect(timeout=SECONDS)
    client.sendall(question)
    received = b""
    while not received.endswith(answer):
        data = client.recv(1000)
        assert data, received
        received += data
    return client


def test_streams_that_begin_tls_hold_a_fast_client_back(prepare: Prepare) -> None:
    server = start(prepare, "streams")
    with trusting(server).wrap_socket(ask_for_tls(server), server_hostname="localhost") as client:
        client.settimeout(SECONDS)
        for size in (10, len(NOISE)):
            client.sendall(b"%d\n" % size + NOISE[:size])
            assert receive(client, 64).decode() == hashlib.sha256(NOISE[:size]).hexdigest()


def test_a_connection_whose_handler_gave_tls_up_is_closed(prepare: Prepare) -> None:
    server = start(prepare, "hasty")
    with ask_for_tls(server) as client:
        eventually((server.folder / "given up").exists)
        try:
            with trusting(server).wrap_socket(client, server_hostname="localhost") as secret:
                assert secret.recv(1) == b""
        except (ssl.SSLError, ConnectionError):  # it was closed before TLS was agreed upon
            pass
    eventually(lambda: server.workers()[0]["connections"] == 0, within=SECONDS)


def fail_by_mistrust(client: socket.socket) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        ssl.create_default_context().wrap_socket(client, server_hostname="localhost")


def fail_by_clear_text(client: socket.socket) -> None:
    with client:
        client.sendall(b"MAIL FROM:<sender@example.org>\r\n")
        try:
            while client.recv(100):  # an alert, perhaps
                pass
        except ConnectionResetError:  # as good an end as any
            pass


@pytest.mark.parametrize("fail", [fail_by_mistrust, fail_by_clear_text])
def test_a_client_that_fails_the_handshake_of_a_library_is_no_fault_of_the_app(
    prepare: Prepare, fail: Callable[[socket.socket], None]
) -> None:
    server = start(prepare, "mail")
    fail(ask_for_tls(server, b"EHLO client\r\nSTARTTLS\r\n", b"220 Ready to start TLS\r\n"))
    eventually(lambda: server.workers()[0]["connections"] == 0, within=SECONDS)
    assert server.status()["counters"]["errors"] == 0
