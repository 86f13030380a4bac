"""A reload brings a new certificate to new connections, or changes nothing and says why."""

from __future__ import annotations

import datetime
import re
import signal
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.eventually import eventually
from tests.system.certificates import DAY, NAME, TELLING, Authority, Pair, connect, counters, listener, told, wrap
from tests.system.conftest import Prepare
from tests.system.running import Running
from tests.system.storm import Storm

PLACE = "test.yaml:9:5: echo: "  # where the section `tls` begins in the config of these tests


def shown(client: ssl.SSLSocket) -> bytes:
    """Return the certificate that a client was shown."""
    certificate = client.getpeercert(binary_form=True)
    assert certificate is not None
    return certificate


def start(prepare: Prepare, workers: int = 2, **tls: Any) -> tuple[Running, Authority, Pair]:
    server = prepare({"app.py": TELLING}, workers=workers, listeners=[listener(**tls)])
    authority = Authority()
    pair = authority.issue().write(server.folder)
    return server.start(), authority, pair


def test_a_renewed_certificate_is_shown_to_new_clients_and_old_ones_live_on(prepare: Prepare) -> None:
    server, authority, first = start(prepare)
    with connect(server, authority.client()) as old, server.connect() as slow:
        told(old)
        eventually(lambda: sum(row["connections"] for row in server.workers()) == 2)
        second = authority.issue().write(server.folder)
        server.send(signal.SIGHUP)
        eventually(lambda: server.status()["generation"] == 2)
        for _ in range(8):
            with connect(server, authority.client()) as new:
                assert shown(new) == second.der
                told(new)
        assert shown(old) == first.der
        assert told(old)["version"] == "TLSv1.3"
        with wrap(slow, authority.client()) as late:  # it was accepted before
            assert shown(late) == first.der
            told(late)
    assert counters(server)["unsecured"] == 0


def test_another_kind_of_key_and_another_authority_are_a_renewal_too(prepare: Prepare) -> None:
    server, _, _ = start(prepare)
    other = Authority()
    pair = other.issue(kind=trustme.KeyType.RSA).write(server.folder)
    assert server.reload()["verdict"] == "committed"
    with connect(server, other.client()) as client:
        assert shown(client) == pair.der


def test_a_renewed_further_certificate_is_shown(prepare: Prepare) -> None:
    sni = {"b.example.org": {"cert": "b.pem", "key": "b.key"}}
    server = prepare({"app.py": TELLING}, listeners=[listener(sni=sni)])
    authority = Authority()
    authority.issue().write(server.folder)
    authority.issue("b.example.org").write(server.folder, "b")
    server.start()
    second = authority.issue("b.example.org").write(server.folder, "b")
    assert server.reload()["verdict"] == "committed"
    with connect(server, authority.client(), "b.example.org") as client:
        assert shown(client) == second.der


def test_a_plain_listener_speaks_tls_on_the_same_port_and_back(prepare: Prepare) -> None:
    plain = {"name": "echo", "bind": "tcp://127.0.0.1:0", "app": "app:echo"}
    server = prepare({"app.py": TELLING}, listeners=[plain])
    authority = Authority()
    authority.issue().write(server.folder)
    port = server.start().port()
    with server.connect() as old:
        assert told(old) is None
        for rows in ([listener()], [plain], [listener("tcp://127.0.0.1:0")]):
            server.configure({"listeners": rows})
            verdict = server.reload()
            assert verdict["verdict"] == "committed"
            assert any("tls" in change for change in verdict["changes"])
            assert server.port() == port
            is_secret = "tls" in rows[0]
            with connect(server, authority.client()) if is_secret else server.connect() as client:
                assert (told(client) is None) == (not is_secret)
        assert told(old) is None


# --- what cannot be loaded ---


def small() -> Pair:
    """Return a certificate for itself with a key of 1024 bits."""
    key = rsa.generate_private_key(65_537, 1024)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + 30 * DAY).sign(key, hashes.SHA256())
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return Pair(made.public_bytes(pem), key.private_bytes(pem, form, serialization.NoEncryption()))


def no_certificate_file(folder: Path) -> tuple[str, ...]:
    (folder / "server.pem").unlink()
    return ("tls.cert", "server.pem", "No such file or directory", "check path")


def no_key_file(folder: Path) -> tuple[str, ...]:
    (folder / "server.key").unlink()
    return ("tls.key", "server.key", "No such file or directory", "check path")


def garbage_for_a_certificate(folder: Path) -> tuple[str, ...]:
    (folder / "server.pem").write_bytes(bytes(range(256)))
    return ("tls.cert", "server.pem", "PEM")


def garbage_for_a_key(folder: Path) -> tuple[str, ...]:
    (folder / "server.key").write_bytes(b"garbage\n")
    return ("tls.key", "server.key", "PEM")


def an_empty_certificate(folder: Path) -> tuple[str, ...]:
    (folder / "server.pem").write_bytes(b"")
    return ("tls.cert", "server.pem", "PEM")


def half_a_certificate(folder: Path) -> tuple[str, ...]:
    path = folder / "server.pem"
    path.write_bytes(path.read_bytes()[:200])
    return ("tls.cert", "server.pem", "PEM")


def the_key_of_another(folder: Path) -> tuple[str, ...]:
    (folder / "server.key").write_bytes(Authority().issue().key)
    return ("tls.cert", "tls.key", "server.pem", "server.key", "the key is not the certificate's; use the two")


def a_key_of_another_kind(folder: Path) -> tuple[str, ...]:
    (folder / "server.key").write_bytes(Authority().issue(kind=trustme.KeyType.RSA).key)
    return ("tls.cert", "tls.key", "server.pem", "server.key", "the key is not the certificate's; use the two")


def an_encrypted_key(folder: Path) -> tuple[str, ...]:
    Authority().issue().encrypted().write(folder)
    return ("tls.key", "server.key", "encrypted", "openssl pkey")


def a_key_that_is_too_small(folder: Path) -> tuple[str, ...]:
    small().write(folder)
    return ("tls.cert", "server.pem", "the key is too small", "2048 bits")


BREAKAGES: list[Callable[[Path], tuple[str, ...]]] = [
    no_certificate_file,
    no_key_file,
    garbage_for_a_certificate,
    garbage_for_a_key,
    an_empty_certificate,
    half_a_certificate,
    the_key_of_another,
    a_key_of_another_kind,
    an_encrypted_key,
    a_key_that_is_too_small,
]


def test_a_certificate_that_cannot_be_loaded_refuses_the_reload_and_nobody_notices(prepare: Prepare) -> None:
    server, authority, good = start(prepare)
    server.expected_errors += ["cannot", "reload refused"]
    pids = server.worker_pids()
    with connect(server, authority.client()) as old:
        for breakage in BREAKAGES:
            wanted = breakage(server.folder)
            verdict = server.reload()
            assert verdict["verdict"] == "refused", breakage.__name__
            missing = [part for part in (PLACE, *wanted) if part not in verdict["reason"]]
            assert not missing, (breakage.__name__, verdict["reason"])
            assert len(verdict["reason"].splitlines()) == 1
            assert f"error   master ({server.pid}) prefork: {verdict['reason']}" in server.log()
            with connect(server, authority.client()) as new:
                assert shown(new) == good.der
                told(new)
            good.write(server.folder)
        assert told(old)
    assert server.worker_pids() == pids
    assert server.reload()["verdict"] == "committed"


def test_all_certificates_that_cannot_be_loaded_are_told_at_once_by_check_and_boot(prepare: Prepare) -> None:
    names = [breakage.__name__ for breakage in BREAKAGES]
    rows = [{**listener(cert=f"{name}/server.pem", key=f"{name}/server.key"), "name": name} for name in names]
    server = prepare(listeners=rows)
    wanted = {}
    for breakage in BREAKAGES:
        folder = server.folder / breakage.__name__
        folder.mkdir()
        Authority().issue().write(folder)
        wanted[breakage.__name__] = breakage(folder)
    checked, run = server.run("check", "test.yaml"), server.run("run", "test.yaml")
    assert (checked.returncode, checked.stdout) == (2, "")
    assert run.returncode in (2, 3)
    for text in (checked.stderr, run.stderr + server.log()):
        assert "Traceback" not in text
        for name, parts in wanted.items():
            (line,) = [line for line in text.splitlines() if f" {name}: " in line]
            assert re.search(r"test\.yaml:\d+:5: ", line)
            assert [part for part in parts if part not in line] == []


def test_protocols_that_cannot_be_named_are_refused_with_their_place_and_the_server_lives(
    prepare: Prepare,
) -> None:
    server, authority, _ = start(prepare)
    server.expected_errors += ["alpn", "reload refused"]
    for alpn in (["é"], ["x" * 256], ["good", "\u2028"]):
        server.configure({"listeners": [listener(alpn=alpn)]})
        done, verdict = server.run("check", "test.yaml"), server.reload()
        assert (done.returncode, verdict["verdict"]) == (2, "refused")
        assert "Traceback" not in done.stderr
        for text in (done.stderr, verdict["reason"]):
            assert "test.yaml:" in text
            assert "alpn" in text
    with connect(server, authority.client()) as client:
        told(client)


# --- under load ---


class SecureStorm(Storm):
    """Clients that never rest, over TLS; the end of each connection is to be a goodbye."""

    def __init__(self, port: int, context: ssl.SSLContext, clients: int = 3) -> None:
        super().__init__(port, clients)
        self._where = ("127.0.0.1", port)
        self._context = context

    def _exchange(self) -> None:
        with (
            socket.create_connection(self._where, timeout=10) as sock,
            self._context.wrap_socket(sock, server_hostname=NAME, suppress_ragged_eofs=False) as client,
        ):
            client.sendall(b"?")
            if not client.recv(1000).endswith(b"\n"):
                raise EOFError


@pytest.mark.slow
def test_many_reloads_in_a_row_fail_no_handshake(prepare: Prepare) -> None:
    server, authority, _ = start(prepare)
    begun = time.monotonic()
    with SecureStorm(server.port(), authority.client()) as storm:
        for number in range(2, 10):
            authority.issue().write(server.folder)
            server.send(signal.SIGHUP)
            eventually(lambda number=number: server.status()["generation"] == number, within=20)  # type: ignore[misc]
            eventually(lambda number=number: time.monotonic() > begun + 0.9 * (number - 1))  # type: ignore[misc]
            storm.wait_for_more()
    assert storm.failures == []
    assert counters(server)["unsecured"] == 0
    assert counters(server)["handshakes"] >= storm.done
