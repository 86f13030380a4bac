"""The name that a client asks for chooses the certificate; one that is nobody's is refused."""

from __future__ import annotations

import itertools
import socket
import ssl
from typing import Any

import pytest

from tests.client_hello import ALERT, HANDSHAKE, extension, message, records, server_name
from tests.eventually import eventually
from tests.system.certificates import (
    TELLING,
    VERSIONS,
    Authority,
    Pair,
    connect,
    counters,
    listener,
    refusal,
    refusals,
    told,
)
from tests.system.conftest import Prepare
from tests.system.processes import count_fds

FATAL, UNRECOGNIZED_NAME = 2, 112  # RFC 6066, 9
CERTIFICATE = 11
SNI = {"b.example.org": {"cert": "b.pem", "key": "b.key"}, "*.c.example.org": "c-both.pem"}
ODD_NAMES = {
    "no text": b"\xff\xfe\x80.example.org",
    "UTF-8": "bücher.example.org".encode(),
    "empty": b"",
    "a NUL": b"localhost\0.evil.example",
    "only a NUL": b"\0",
    "256 bytes": b"x" * 256,
    "10,000 bytes": b"x" * 10_000,
}


class Named:
    """A server with certificates of several names, and what it is to show."""

    def __init__(self, prepare: Prepare, sni: dict[str, Any]) -> None:
        self.authority = Authority()
        self.server = prepare({"app.py": TELLING}, workers=1, listeners=[listener(sni=sni)])
        folder = self.server.folder
        self.own = self.authority.issue("localhost", "a.example.org").write(folder)
        self.b = self.authority.issue("b.example.org").write(folder, "b")
        self.c = self.authority.issue("*.c.example.org")
        Pair(self.c.cert + self.c.key, b"").write(folder, "c-both")
        self.server.start()

    def shown(self, name: str, version: ssl.TLSVersion) -> tuple[bytes, str | None]:
        """Return the certificate that a client gets for a name, and the name as the app is told it."""
        context = self.authority.client(version)
        with connect(self.server, context, name) as client:
            certificate = client.getpeercert(binary_form=True)
            assert certificate is not None
            return certificate, told(client)["server_name"]

    def answer(self, hello: bytes) -> tuple[int, bytes]:
        """Send a ClientHello; return the kind of the answer's first record, and all that was answered."""
        with self.server.connect(timeout=3) as sock:
            sock.sendall(hello)
            sock.shutdown(socket.SHUT_WR)
            answer = b""
            while data := sock.recv(65_536):
                answer += data
        return (answer or b"\0")[0], answer

    def alert(self, name: bytes) -> bytes:
        """Return the content of the alert that a name is refused with."""
        kind, answer = self.answer(records(message(server_name(name))))
        assert kind == ALERT
        return answer[5:7]


@pytest.fixture
def named(prepare: Prepare) -> Named:
    return Named(prepare, SNI)


def test_each_name_gets_its_certificate_and_the_app_is_told_the_name(named: Named) -> None:
    wanted = {
        "localhost": named.own,
        "a.example.org": named.own,
        "b.example.org": named.b,
        "x.c.example.org": named.c,
        "y.c.example.org": named.c,
    }
    for name, version in itertools.product(wanted, VERSIONS.values()):
        assert named.shown(name, version) == (wanted[name].der, name)


def test_an_unknown_name_is_refused_by_the_alert_of_the_rfc(named: Named) -> None:
    names = ("example.org", "c.example.org", "x.y.c.example.org", "localhost.evil.example")
    for version in VERSIONS.values():
        context = named.authority.client(version)
        context.check_hostname = False
        assert {refusal(named.server, context, name) for name in names} == {"tlsv1 unrecognized name"}
    eventually(lambda: counters(named.server)["unsecured"] == 2 * len(names))
    assert len(refusals(named.server)) == 1
    assert named.alert(b"example.org") == bytes((FATAL, UNRECOGNIZED_NAME))


def test_a_client_without_a_name_gets_the_first_certificate(named: Named) -> None:
    kind, answer = named.answer(records(message()))
    assert kind == HANDSHAKE
    assert named.own.der in answer
    for name in (b"B.Example.ORG", b"b.example.org.", b"B.EXAMPLE.ORG."):  # case and a dot make no difference
        assert named.b.der in named.answer(records(message(server_name(name))))[1]


def test_several_names_and_lists_that_are_broken_cost_that_connection_alone(named: Named) -> None:
    """RFC 6066, 3 allows one name of each kind; OpenSSL refuses what else there is."""
    one = b"\0" + b"\0\x09localhost"
    odd = [
        extension(0, b""),
        extension(0, b"\0\0"),
        extension(0, b"\0\x18" + one + one),
        extension(0, b"\xff\xff" + one),
        extension(0, b"\0\x0c\0\xff\xfflocalhost"),
        server_name(b"localhost", kind=7),
    ]
    for one_odd in odd:
        kind, answer = named.answer(records(message(one_odd)))
        assert kind in (ALERT, HANDSHAKE)
        assert kind == ALERT or named.own.der in answer
    assert_unharmed(named)


def assert_unharmed(named: Named) -> None:
    """Check that a good client is served as ever."""
    for version in VERSIONS.values():
        assert named.shown("b.example.org", version)[0] == named.b.der


@pytest.mark.parametrize("sni", [SNI, {}], ids=["with sni", "without"])
def test_an_odd_name_costs_that_connection_and_no_traceback(prepare: Prepare, sni: dict[str, Any]) -> None:
    named = Named(prepare, sni)
    pids = named.server.worker_pids()
    (pid,) = pids
    named.answer(records(message()))
    before = count_fds(pid)
    answers = {what: named.answer(records(message(server_name(name))))[0] for what, name in ODD_NAMES.items()}
    if not sni:
        del answers["empty"]  # which OpenSSL takes for a name, and without `sni` any name is good
    assert set(answers.values()) == {ALERT}, answers
    eventually(lambda: counters(named.server)["unsecured"] == 1 + len(ODD_NAMES))
    eventually(lambda: count_fds(pid) <= before)
    assert named.server.worker_pids() == pids
    assert named.shown("localhost", ssl.TLSVersion.TLSv1_3) == (named.own.der, "localhost")
    named.server.stop()
    output = named.server.output()
    assert "Traceback" not in output
    assert "gnored" not in output  # what Python writes of an exception that nobody can catch
    assert all(line.isprintable() for line in output.splitlines())


def test_without_sni_any_name_is_served(prepare: Prepare) -> None:
    named = Named(prepare, {})
    context = named.authority.client()
    context.check_hostname = False
    with connect(named.server, context, "somebody.example.com") as client:
        assert told(client)["server_name"] == "somebody.example.com"
        assert client.getpeercert(binary_form=True) == named.own.der
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        connect(named.server, named.authority.client(), "somebody.example.com")
