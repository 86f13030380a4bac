"""Certificates for tests, from authorities of our own, and clients that trust them.

Knows: trustme, the client's side of the ssl module. Does not know: prefork's own TLS, what a test is about.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import select
import socket
import ssl
import tempfile
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme
from cryptography.hazmat.primitives import serialization

from tests.system.running import Running, receive
from tests.system.traffic import dial

NAME = "localhost"
MIB = 1 << 20
RECORD_BYTES = 16_384  # a record is sent whole or not at all
DAY = datetime.timedelta(days=1)
TLS_1_2, TLS_1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
VERSIONS = {"TLSv1.2": TLS_1_2, "TLSv1.3": TLS_1_3}


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with its chain, and its key, both PEM."""

    cert: bytes
    key: bytes

    def write(self, folder: Path, stem: str = "server") -> Pair:
        """Write `STEM.pem` and `STEM.key`, for their owner alone, each exchanged in one step."""
        for name, content in ((f"{stem}.pem", self.cert), (f"{stem}.key", self.key)):
            new = folder / f"{name}.new"
            new.touch(mode=0o600)
            new.write_bytes(content)
            new.rename(folder / name)
        return self

    def encrypted(self, passphrase: bytes = b"secret") -> Pair:
        """Return the pair with a key that needs a passphrase."""
        key = serialization.load_pem_private_key(self.key, None)
        locked = serialization.BestAvailableEncryption(passphrase)
        form = serialization.PrivateFormat.PKCS8
        return Pair(self.cert, key.private_bytes(serialization.Encoding.PEM, form, locked))

    @property
    def der(self) -> bytes:
        """The certificate as a peer is shown it."""
        end = b"-----END CERTIFICATE-----"
        return ssl.PEM_cert_to_DER_cert((self.cert.partition(end)[0] + end).decode())

    def show(self, context: ssl.SSLContext) -> ssl.SSLContext:
        """Let a context show this certificate; return it."""
        with tempfile.TemporaryDirectory() as folder:
            self.write(Path(folder))
            context.load_cert_chain(Path(folder, "server.pem"), Path(folder, "server.key"))
        return context


class Authority:
    """Issues certificates; clients of its making trust it and nobody else."""

    def __init__(self) -> None:
        self._ca = trustme.CA()

    @property
    def pem(self) -> bytes:
        return self._ca.cert_pem.bytes()

    def own(self) -> Pair:
        """Return the certificate of the authority itself."""
        return Pair(self.pem, self._ca.private_key_pem.bytes())

    def issue(self, *names: str, days: float = 90.0, kind: trustme.KeyType = trustme.KeyType.ECDSA) -> Pair:
        """Return a new certificate.

        Args:
            names: of the server or client; none: localhost.
            days: until it ends; negative: since it has ended.
        """
        now = datetime.datetime.now(datetime.UTC)
        leaf = self._ca.issue_cert(
            *(names or (NAME,)),
            not_before=now - 400 * DAY,
            not_after=now + days * DAY,
            key_type=kind,
        )
        chain = b"".join(part.bytes() for part in leaf.cert_chain_pems)
        return Pair(chain, leaf.private_key_pem.bytes())

    def client(
        self, version: ssl.TLSVersion | None = None, alpn: tuple[str, ...] = (), shown: Pair | None = None
    ) -> ssl.SSLContext:
        """Return the context of a client that checks the server's certificate.

        Args:
            version: the only one that it speaks; None: any.
            alpn: the protocols that it offers.
            shown: its own certificate.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self.pem.decode())
        if version is not None:
            context.minimum_version = context.maximum_version = version
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context if shown is None else shown.show(context)


def listener(bind: str = "tls://127.0.0.1:0", app: str = "app:echo", **tls: Any) -> dict[str, Any]:
    """Return the config of a listener `echo` with `server.pem` and `server.key`.

    Args:
        tls: what else its section `tls` is to have; `limits` and `framing` are the listener's own.
    """
    limits = {**tls.pop("limits", {})}  # a copy: PyYAML would write an alias for the same again
    framing = tls.pop("framing", "raw")
    section = {"cert": "server.pem", "key": "server.key", **tls}
    return {"name": "echo", "bind": bind, "app": app, "framing": framing, "tls": section, "limits": limits}


def wrap(sock: socket.socket, context: ssl.SSLContext, name: str | None = NAME, **more: Any) -> ssl.SSLSocket:
    """Speak TLS on a connection; it is closed if that fails. The end must be told: a cut is an error."""
    try:
        return context.wrap_socket(sock, server_hostname=name, suppress_ragged_eofs=False, **more)
    except BaseException as error:
        sock.close()
        # SSLSocket._create() leaves itself open when the peer's reset has come before it.
        for frame, _ in traceback.walk_tb(error.__traceback__):
            half_made = frame.f_locals.get("self")
            if isinstance(half_made, ssl.SSLSocket):
                half_made.close()
        raise


def connect(server: Running, context: ssl.SSLContext, name: str = NAME, **more: Any) -> ssl.SSLSocket:
    """Return a client's connection to the listener `echo` over TLS."""
    return wrap(server.connect(), context, name, **more)


def connect_path(path: Path, context: ssl.SSLContext) -> ssl.SSLSocket:
    """Return a client's connection to a unix socket over TLS."""
    return wrap(dial(os.fspath(path)), context)


def refusal(server: Running, context: ssl.SSLContext, name: str = NAME) -> str:
    """Return why a client cannot get through, in its library's words; TLS 1.3 tells with the first read."""
    try:
        with connect(server, context, name) as client:
            client.sendall(b"hello")
            return f"answered {client.recv(100)!r}"
    except ssl.SSLError as error:
        return re.sub(r"^\[.*?\] | \(_ssl.*\)$", "", str(error.args[-1]))
    except OSError as error:
        return type(error).__name__


def exchange_at_once(client: ssl.SSLSocket, data: bytes) -> bytes:
    """Send bytes and read as many meanwhile; one thread, since OpenSSL's connections are not for two."""
    client.setblocking(False)
    received, sent = bytearray(), 0
    while len(received) < len(data):
        wants: set[int | None] = set()
        try:
            if sent < len(data):
                sent += client.send(data[sent : sent + RECORD_BYTES])
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError) as want:
            wants.add(want.errno)
        try:
            received += client.recv(MIB)
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError) as want:
            wants.add(want.errno)
            is_stuck = len(wants) == 2 or sent == len(data)
            sender = [client] if sent < len(data) else []
            if is_stuck and not any(select.select([client], sender, [], 10.0)):
                break
    client.setblocking(True)
    return bytes(received)


def ask(sock: socket.socket, text: bytes, answer: bytes) -> socket.socket:
    """Send a text; check the answer; return the connection."""
    sock.sendall(text)
    assert receive(sock, len(answer)) == answer
    return sock


def first_record(server: Running, words: bytes, name: str = "echo") -> tuple[int, bytes]:
    """Send a client's first words; return kind and content of the first record of the answer."""
    with server.connect(name) as sock, sock.makefile("rb") as answers:
        sock.sendall(words)
        head = answers.read(5)
        return head[0], answers.read(int.from_bytes(head[3:5], "big"))


def read_to_the_end(sock: socket.socket) -> None:
    """Read what a server still says, an alert or nothing, up to its end."""
    try:
        while sock.recv(65_536):
            pass
    except ConnectionError:  # it ended before all was said
        pass


def counters(server: Running) -> Mapping[str, int]:
    """Return the counters of `status --json`."""
    found: dict[str, int] = server.status()["counters"]
    return found


def refusals(server: Running) -> list[str]:
    """Return the lines of the log that tell of connections that were refused."""
    return [line for line in server.log().splitlines() if " refused: " in line]


TELLING = """
import json

async def echo(conn):
    async for data in conn:
        tls = conn.tls
        told = None if tls is None else {name: getattr(tls, name) for name in tls.__slots__}
        await conn.send(json.dumps(told).encode() + b"\\n")
"""


def told(client: socket.socket) -> Any:
    """Ask an app of this source what was agreed upon with this client; None: nothing, it is plain."""
    client.sendall(b"?")
    answer = b""
    while not answer.endswith(b"\n") and (data := client.recv(65_536)):
        answer += data
    return json.loads(answer)


class Carried:
    """A TLS client in memory, whose bytes the test carries to the server, cut as it likes.

    Attributes:
        hello: its first words.
    """

    def __init__(self, context: ssl.SSLContext, name: str | None = NAME) -> None:
        self._to_client, self._to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._to_client, self._to_server, server_hostname=name)
        assert not self._step()
        self.hello = self._to_server.read()

    def _step(self) -> bool:
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def start(self, sock: socket.socket) -> ssl.SSLObject:
        """Shake hands from the first word on; return what was agreed upon."""
        sock.sendall(self.hello)
        return self.finish(sock)

    def finish(self, sock: socket.socket) -> ssl.SSLObject:
        """Go on when the first words were sent; return what was agreed upon."""
        while not self._step():
            sock.sendall(self.words())
            self.take(sock)
        sock.sendall(self.words())
        return self.tls

    def is_answered(self) -> bool:
        """Say goodbye, the first time; return whether the server's own has come."""
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            return False
        return True

    def words(self) -> bytes:
        """Return what is to be carried to the server next."""
        return self._to_server.read()

    def take(self, sock: socket.socket) -> None:
        """Take what the server has sent."""
        data = sock.recv(65_536)
        if data:
            self._to_client.write(data)
        else:
            self._to_client.write_eof()
