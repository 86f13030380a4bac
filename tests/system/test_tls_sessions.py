"""A session is taken up again by whichever worker, and by the next generation: that saves most of a handshake."""

from __future__ import annotations

import os
import signal
import ssl

from tests.eventually import eventually
from tests.system.certificates import TELLING, VERSIONS, Authority, connect, counters, listener, told
from tests.system.conftest import Prepare
from tests.system.running import Running

ATTEMPTS = 20
WANTED = 0.95  # of the attempts


def start(prepare: Prepare, workers: int = 4) -> tuple[Running, Authority]:
    server = prepare({"app.py": TELLING}, workers=workers, listeners=[listener()])
    authority = Authority()
    authority.issue().write(server.folder)
    return server.start(), authority


def new_session(server: Running, context: ssl.SSLContext) -> ssl.SSLSession:
    """Return a session: with TLS 1.3 its ticket comes behind the handshake."""
    with connect(server, context) as client:
        assert not told(client)["is_resumed"]
        assert client.session is not None
        return client.session


def resumed(server: Running, context: ssl.SSLContext, session: ssl.SSLSession) -> float:
    """Return the share of attempts to take a session up again that were granted."""
    granted = 0
    for _ in range(ATTEMPTS):
        with connect(server, context, session=session) as client:
            tls = told(client)
            assert tls["is_resumed"] == client.session_reused
            granted += bool(client.session_reused)
    return granted / ATTEMPTS


def test_sessions_are_taken_up_by_every_worker_and_over_reloads(prepare: Prepare) -> None:
    server, authority = start(prepare)
    contexts = [authority.client(version) for version in VERSIONS.values()]
    sessions = [new_session(server, context) for context in contexts]
    for context, session in zip(contexts, sessions, strict=True):
        assert resumed(server, context, session) >= WANTED
    assert len([row for row in server.workers() if row["accepted"]]) == 4
    for _ in range(2):
        assert server.reload()["verdict"] == "committed"
    for context, session in zip(contexts, sessions, strict=True):
        assert resumed(server, context, session) >= WANTED
    found = counters(server)
    assert found["handshakes"] == 2 + 4 * ATTEMPTS
    assert found["resumed"] >= 4 * WANTED * ATTEMPTS


def test_each_session_can_be_followed_by_the_next(prepare: Prepare) -> None:
    """Clients are to use a ticket once, RFC 8446, C.4: so a handshake that took one up brings another."""
    server, authority = start(prepare, workers=2)
    for version in VERSIONS.values():
        context = authority.client(version)
        session = new_session(server, context)
        for _ in range(10):
            with connect(server, context, session=session) as client:
                assert told(client)["is_resumed"]
                assert client.session is not None
                session = client.session


def test_after_a_renewal_old_sessions_do_no_harm_and_new_ones_are_given(prepare: Prepare) -> None:
    server, authority = start(prepare, workers=2)
    contexts = [authority.client(version) for version in VERSIONS.values()]
    sessions = [new_session(server, context) for context in contexts]
    renewed = authority.issue().write(server.folder)
    assert server.reload()["verdict"] == "committed"
    for context, old in zip(contexts, sessions, strict=True):
        for _ in range(5):
            with connect(server, context, session=old) as client:
                assert client.getpeercert(binary_form=True) == renewed.der
                told(client)
        assert resumed(server, context, new_session(server, context)) >= WANTED
    assert counters(server)["unsecured"] == 0


def test_a_session_of_another_server_is_no_reason_to_fail(prepare: Prepare) -> None:
    authority = Authority()
    servers = []
    for _ in range(2):
        server = prepare({"app.py": TELLING}, workers=1, listeners=[listener()])
        authority.issue().write(server.folder)
        servers.append(server.start())
    for version in VERSIONS.values():
        context = authority.client(version)
        foreign = new_session(servers[0], context)
        with connect(servers[1], context, session=foreign) as client:
            assert not told(client)["is_resumed"]


def test_sessions_live_on_when_a_worker_is_killed(prepare: Prepare) -> None:
    server, authority = start(prepare, workers=2)
    server.expected_errors.append("the slot is filled again")
    context = authority.client()
    session = new_session(server, context)
    before = server.worker_pids()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: len(server.worker_pids()) == len(before) and not server.worker_pids() & before)
    assert resumed(server, context, session) >= WANTED
