"""Clients that show certificates: who is let in, who is refused, and what the app is told of them."""

from __future__ import annotations

import ssl

import pytest

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
from tests.system.running import Running, exchange


class Club:
    """A server that asks clients for certificates of an authority of its own."""

    def __init__(self, prepare: Prepare, client_auth: str) -> None:
        self.members = Authority()
        self.authority = Authority()
        row = listener(client_ca="members.pem", client_auth=client_auth)
        self.server: Running = prepare({"app.py": TELLING}, workers=1, listeners=[row])
        self.authority.issue().write(self.server.folder)
        (self.server.folder / "members.pem").write_bytes(self.members.pem)
        self.server.start()

    def client(self, shown: Pair | None = None, version: str = "TLSv1.3") -> ssl.SSLContext:
        return self.authority.client(VERSIONS[version], shown=shown)

    def strangers(self) -> dict[str, Pair]:
        """Return certificates that are not to be trusted, and why."""
        forged = Authority()
        return {
            "of a foreign authority": forged.issue("anna@example.org"),
            "ended": self.members.issue("anna@example.org", days=-1),
            "of the server's own authority": self.authority.issue("anna@example.org"),
            "of no authority": forged.own(),
        }


@pytest.mark.parametrize("client_auth", ["required", "optional"])
def test_a_member_is_let_in_and_the_app_is_told_its_name(prepare: Prepare, client_auth: str) -> None:
    club = Club(prepare, client_auth)
    for version in VERSIONS:
        with connect(club.server, club.client(club.members.issue("anna@example.org"), version)) as client:
            shown = told(client)["peer_certificate"]
        assert shown["subjectAltName"] == [["email", "anna@example.org"]]
    assert counters(club.server)["handshakes"] == 2
    assert not refusals(club.server)


def test_strangers_are_refused_in_one_line_and_counted(prepare: Prepare) -> None:
    club = Club(prepare, "required")
    pids = club.server.worker_pids()
    strangers = club.strangers()
    for version in VERSIONS:
        reasons = {why: refusal(club.server, club.client(pair, version)) for why, pair in strangers.items()}
        assert {why for why, reason in reasons.items() if "alert" not in reason} == set(), reasons
        assert "expired" in reasons["ended"]
        assert "alert" in refusal(club.server, club.client(version=version))
    eventually(lambda: counters(club.server)["unsecured"] == 2 * (len(strangers) + 1))
    assert counters(club.server)["handshakes"] == counters(club.server)["errors"] == 0
    told_ = [line.partition(" refused: ")[2] for line in refusals(club.server)]
    assert any("certificate has expired" in reason for reason in told_)
    assert any("peer did not return a certificate" in reason for reason in told_)
    assert len(set(told_)) == len(told_)  # each reason in one line, the others are counted
    assert club.server.worker_pids() == pids
    with connect(club.server, club.client(club.members.issue("anna@example.org"))) as client:
        assert told(client)["peer_certificate"]


def test_an_optional_certificate_may_be_missing_but_not_false(prepare: Prepare) -> None:
    club = Club(prepare, "optional")
    for version in VERSIONS:
        with connect(club.server, club.client(version=version)) as client:
            assert told(client)["peer_certificate"] is None
        for pair in club.strangers().values():
            assert "alert" in refusal(club.server, club.client(pair, version))
    eventually(lambda: counters(club.server)["unsecured"] == 2 * len(club.strangers()))
    assert counters(club.server)["handshakes"] == 2


def test_a_session_that_is_taken_up_again_knows_its_member(prepare: Prepare) -> None:
    club = Club(prepare, "required")
    for version in VERSIONS:
        context = club.client(club.members.issue("anna@example.org"), version)
        with connect(club.server, context) as client:
            told(client)
            session = client.session
        with connect(club.server, context, session=session) as client:
            assert client.session_reused
            again = told(client)
        assert again["is_resumed"]
        assert again["peer_certificate"]["subjectAltName"] == [["email", "anna@example.org"]]


def test_a_session_of_one_without_a_certificate_is_not_taken_up_where_one_is_required(prepare: Prepare) -> None:
    club = Club(prepare, "optional")
    context = club.client()
    with connect(club.server, context) as client:
        told(client)
        session = client.session
    club.server.configure({"workers": 1, "listeners": [listener(client_ca="members.pem")]})
    assert club.server.reload()["verdict"] == "committed"
    with pytest.raises(ssl.SSLError, match="alert"), connect(club.server, context, session=session) as client:
        exchange(client, b"hello")


def test_authorities_that_were_exchanged_hold_for_new_connections(prepare: Prepare) -> None:
    club = Club(prepare, "required")
    anna = club.client(club.members.issue("anna@example.org"))
    with connect(club.server, anna) as old:
        told(old)
        session = old.session
        club.members = Authority()
        (club.server.folder / "members.pem").write_bytes(club.members.pem)
        assert club.server.reload()["verdict"] == "committed"
        with pytest.raises(ssl.SSLError, match="alert"), connect(club.server, anna, session=session) as client:
            exchange(client, b"hello")
        with connect(club.server, club.client(club.members.issue("bert@example.org"))) as client:
            assert told(client)["peer_certificate"]["subjectAltName"] == [["email", "bert@example.org"]]
