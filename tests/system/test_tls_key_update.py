"""A client may want fresh keys at any time, RFC 8446, 4.6.3; if it then reads nothing, no worker is kept busy."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import ssl
import struct
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from tests.eventually import eventually
from tests.system.certificates import TLS_1_3, Authority, connect, connect_path, listener
from tests.system.conftest import Prepare
from tests.system.processes import cpu_seconds
from tests.system.running import Running, exchange, receive

SOURCE = "async def echo(conn):\n    async for size in conn:\n        await conn.send(b'x' * int(size))\n"
HANDSHAKE, APPLICATION_DATA, KEY_UPDATE, REQUESTED = 22, 23, 24, 1
KEY_BYTES, SECRET_BYTES, TAG_BYTES = 32, 48, 16  # of TLS_AES_256_GCM_SHA384
QUIET_SECONDS, BUSY_SECONDS = 0.5, 0.15  # CPU that a loop with nothing to do never needs in that time


def expand(secret: bytes, label: bytes, size: int) -> bytes:
    """Return HKDF-Expand-Label with no context, RFC 8446, 7.1."""
    full = b"tls13 " + label
    info = struct.pack("!HB", size, len(full)) + full + b"\0"
    return HKDFExpand(hashes.SHA384(), size, info).derive(secret)


class Sender:
    """Sends records in a client's name, behind the back of its ssl module."""

    def __init__(self, client: ssl.SSLSocket, keylog: Path, sent: int) -> None:
        """Take over the sending; the client itself only reads from now on.

        Args:
            keylog: where its keys are.
            sent: the records that it has sent under its application keys.
        """
        cipher = client.cipher()
        assert cipher is not None
        assert cipher[0] == "TLS_AES_256_GCM_SHA384"
        lines = [line.split() for line in keylog.read_text().splitlines()]
        (self._secret,) = [bytes.fromhex(line[2]) for line in lines if line[0] == "CLIENT_TRAFFIC_SECRET_0"]
        self._sequence = sent
        self._socket = socket.socket(fileno=os.dup(client.fileno()))
        self._socket.settimeout(10)

    def _record(self, kind: int, content: bytes) -> bytes:
        plain = content + bytes((kind,))
        head = struct.pack("!BHH", APPLICATION_DATA, 0x0303, len(plain) + TAG_BYTES)
        vector = int.from_bytes(expand(self._secret, b"iv", 12), "big") ^ self._sequence
        self._sequence += 1
        key = AESGCM(expand(self._secret, b"key", KEY_BYTES))
        return head + key.encrypt(vector.to_bytes(12, "big"), plain, head)

    def say(self, data: bytes) -> None:
        self._socket.sendall(self._record(APPLICATION_DATA, data))

    def ask_for_fresh_keys(self) -> None:
        self._socket.sendall(self._record(HANDSHAKE, bytes((KEY_UPDATE, 0, 0, 1, REQUESTED))))
        self._secret = expand(self._secret, b"traffic upd", SECRET_BYTES)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()


@contextlib.contextmanager
def asking(client: ssl.SSLSocket, keylog: Path, size: int) -> Iterator[Sender]:
    """Ask for an answer of a size, and give what sends further records."""
    client.sendall(b"%d" % size)
    sender = Sender(client, keylog, 1)
    try:
        yield sender
    finally:
        sender.close()


def start(prepare: Prepare, bind: str) -> tuple[Running, ssl.SSLContext, Path]:
    server = prepare({"app.py": SOURCE}, workers=1, listeners=[listener(bind)])
    authority = Authority()
    authority.issue().write(server.folder)
    context = authority.client(TLS_1_3)
    keylog = server.folder / "keys"
    context.keylog_filename = str(keylog)
    return server.start(), context, keylog


def assert_at_rest(pid: int) -> None:
    """Check that a worker does nothing for a while."""
    begun, before = time.monotonic(), cpu_seconds(pid)
    eventually(lambda: time.monotonic() > begun + QUIET_SECONDS)
    assert cpu_seconds(pid) - before < BUSY_SECONDS


def test_a_client_that_asks_for_fresh_keys_gets_them(prepare: Prepare) -> None:
    server, context, keylog = start(prepare, "tls://127.0.0.1:0")
    with connect(server, context) as client, asking(client, keylog, 5) as sender:
        assert receive(client, 5) == b"xxxxx"
        for _ in range(40):
            sender.ask_for_fresh_keys()
            sender.say(b"3")
            assert receive(client, 3) == b"xxx"


@pytest.mark.parametrize("count", [1, 200])
def test_a_client_that_asks_and_reads_nothing_keeps_no_worker_busy(prepare: Prepare, count: int) -> None:
    """More than one behind an answer that is stuck, and OpenSSL ends the connection: that client's own concern."""
    server, context, keylog = start(prepare, "tls://127.0.0.1:0")
    (pid,) = server.worker_pids()
    with connect(server, context) as client, asking(client, keylog, 8_000_000) as sender:
        context.keylog_filename = "/dev/null"
        assert client.recv(1) == b"x"
        with contextlib.suppress(ConnectionError):
            for _ in range(count):
                sender.ask_for_fresh_keys()
        assert_at_rest(pid)
        with connect(server, context) as other:
            assert exchange(other, b"7")[:1] == b"x"
        if count == 1:
            assert len(receive(client, 7_999_999)) == 7_999_999
            sender.say(b"3")
            assert receive(client, 3) == b"xxx"
    assert server.worker_pids() == {pid}


def unread(sock: socket.socket) -> int:
    """Return how many bytes wait in a socket, FIONREAD of ioctl_list(2)."""
    return int.from_bytes(fcntl.ioctl(sock, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_fresh_keys_are_given_when_there_is_just_no_room_to_say_so(prepare: Prepare) -> None:
    """The number of full records at which the buffer of a unix socket is full is among these."""
    path = Path(f"\0prefork-tls-keys-{os.getpid()}")
    server, context, keylog = start(prepare, f"unix://@{str(path)[1:]}")
    (pid,) = server.worker_pids()
    for count in range(11, 16):
        size = count * 16_384
        keylog.unlink()
        context.keylog_filename = str(keylog)
        with connect_path(path, context) as client, asking(client, keylog, size) as sender:
            context.keylog_filename = "/dev/null"
            with connect_path(path, context) as other:
                assert exchange(other, b"7")[:1] == b"x"  # the worker has seen the first one meanwhile
            is_written = unread(client) >= size
            for _ in range(3 if is_written else 1):  # see above
                sender.ask_for_fresh_keys()
            assert_at_rest(pid)
            assert len(receive(client, size)) == size
            sender.say(b"3")
            assert receive(client, 3) == b"xxx"
