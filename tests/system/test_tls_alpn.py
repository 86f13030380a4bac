"""ALPN chooses a common protocol or refuses by an alert, however the client's first words are cut."""

from __future__ import annotations

import itertools
import socket
import ssl
from collections.abc import Iterable

import pytest

from tests.client_hello import ALERT, HANDSHAKE, alpn, message, payload, records
from tests.eventually import eventually
from tests.system.certificates import (
    TELLING,
    VERSIONS,
    Authority,
    Carried,
    connect,
    counters,
    first_record,
    listener,
    refusal,
    refusals,
    told,
)
from tests.system.conftest import Prepare
from tests.system.processes import count_fds
from tests.system.running import Running

NO_APPLICATION_PROTOCOL = bytes((2, 120))  # fatal, RFC 7301, 3.2
REFUSED = "tlsv1 alert no application protocol"
OURS = ["echo/2", "echo/1"]


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def choosing(prepare: Prepare, authority: Authority) -> Running:
    """A server of one worker that speaks echo/2 and echo/1, and tells what was agreed upon."""
    server = prepare({"app.py": TELLING}, workers=1, listeners=[listener(alpn=OURS)])
    authority.issue().write(server.folder)
    return server.start()


def test_the_servers_first_common_protocol_is_chosen(choosing: Running, authority: Authority) -> None:
    cases = {("echo/1",): "echo/1", ("other", "echo/1"): "echo/1", ("echo/1", "echo/2"): "echo/2", (): None}
    for version, offered in itertools.product(VERSIONS.values(), cases):
        with connect(choosing, authority.client(version, offered)) as client:
            assert client.selected_alpn_protocol() == cases[offered]
            assert told(client)["alpn"] == cases[offered]


def test_unknown_protocols_are_refused_by_the_alert_of_the_rfc(choosing: Running, authority: Authority) -> None:
    offers = [("other",), ("other", "ECHO/1"), ("echo",), ("x" * 255,)]
    for version, offered in itertools.product(VERSIONS.values(), offers):
        assert refusal(choosing, authority.client(version, offered)) == REFUSED
    eventually(lambda: counters(choosing)["unsecured"] == 8)
    assert counters(choosing)["handshakes"] == 0
    assert "no application protocol in common" in refusals(choosing)[0]
    assert len(refusals(choosing)) == 1
    with connect(choosing, authority.client(alpn=("echo/1",))) as client:
        assert told(client)["alpn"] == "echo/1"


def test_names_that_are_no_text_are_refused_too(choosing: Running) -> None:
    """RFC 8701, 3.1: clients may offer protocols of two such bytes, to see whether servers can bear it."""
    for names in ((b"\xca\xca",), (b"\x0a\x0a", b"other"), (b"\xff" * 255,), (b"\0", b"\n")):
        assert first_record(choosing, records(message(alpn(*names)))) == (ALERT, NO_APPLICATION_PROTOCOL)
    assert first_record(choosing, records(message(alpn(b"\xca\xca", b"echo/1"))))[0] == HANDSHAKE


def test_what_a_client_offers_does_not_fill_the_log(choosing: Running, authority: Authority) -> None:
    for first in "abcdefghij":
        for second in "klmnopqrst":
            hello = records(message(alpn(f"{first}{second}".encode(), b"a\nb error forged")))
            assert first_record(choosing, hello)[0] == ALERT
    assert len(refusals(choosing)) == 1
    assert "forged" not in choosing.log()


def test_a_hello_in_several_records_is_refused_and_served_like_one_in_one(
    choosing: Running, authority: Authority
) -> None:
    """RFC 8446, 5.1: a message may be cut over records anywhere."""
    unknown, known = message(alpn(b"other")), message(alpn(b"other", b"echo/2"))
    for cut in (1, 3, 4, 5, 6, 38, 60, len(unknown) - 9, len(unknown) - 1):
        assert first_record(choosing, records(unknown, cut)) == (ALERT, NO_APPLICATION_PROTOCOL), cut
        assert first_record(choosing, records(known, cut))[0] == HANDSHAKE, cut
    assert first_record(choosing, records(unknown, *range(20, len(unknown), 20)))[0] == ALERT
    hello = Carried(authority.client(alpn=("echo/1",)))
    with choosing.connect() as sock:
        sock.sendall(records(payload(hello.hello), 50, 100))
        assert hello.finish(sock).selected_alpn_protocol() == "echo/1"


def test_a_hello_cut_anywhere_works_the_same(choosing: Running, authority: Authority) -> None:
    """The worker has looked at the first part before the second comes: another client's answer shows it."""
    known, unknown = authority.client(alpn=("echo/1",)), authority.client(alpn=("other",))
    size = len(Carried(unknown).hello)
    with connect(choosing, authority.client()) as other:
        for at in range(1, size):
            assert is_agreed(choosing, Carried(known), other, [at]), at
        for at in range(1, size, 5):
            assert not is_agreed(choosing, Carried(unknown), other, [at]), at


def test_a_hello_of_single_bytes_works_the_same(choosing: Running, authority: Authority) -> None:
    known, unknown = (Carried(authority.client(alpn=(name,))) for name in ("echo/1", "other"))
    with connect(choosing, authority.client()) as other:
        assert is_agreed(choosing, known, other, range(1, len(known.hello)))
        assert not is_agreed(choosing, unknown, other, range(1, len(unknown.hello)))


def is_agreed(server: Running, carried: Carried, other: ssl.SSLSocket, cuts: Iterable[int]) -> bool:
    """Send a hello in parts; return whether TLS was agreed upon, or refused by the alert for unknown protocols."""
    with server.connect() as sock:
        for start, end in itertools.pairwise((0, *cuts, len(carried.hello))):
            sock.sendall(carried.hello[start:end])
            told(other)
        try:
            carried.finish(sock)
        except ssl.SSLError as error:
            if REFUSED not in str(error):
                raise
            return False
        return True


def test_half_a_hello_and_an_end_is_over_at_once(choosing: Running, authority: Authority) -> None:
    (pid,) = choosing.worker_pids()
    with connect(choosing, authority.client()) as other:
        told(other)
        before = count_fds(pid) - 1
    hello = Carried(authority.client(alpn=("echo/1",))).hello
    for at in (0, 1, 5, 9, 100, len(hello) - 1):
        with choosing.connect(timeout=3) as sock:
            sock.sendall(hello[:at])
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(100):  # an alert or nothing, then the end: limits.handshake is 10 s
                pass
    eventually(lambda: counters(choosing)["unsecured"] == 6)
    eventually(lambda: count_fds(pid) <= before)
