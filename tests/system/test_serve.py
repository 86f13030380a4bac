"""A server serves, tells of itself, and stops."""

from __future__ import annotations

import json
import signal

from tests.system.running import Running, exchange


def test_what_a_client_sends_comes_back(server: Running) -> None:
    with server.connect() as client:
        assert exchange(client, b"hello" * 1000) == b"hello" * 1000


def test_status_has_what_the_contract_names(server: Running) -> None:
    answer = server.run("status", "--control", str(server.control), "--json")
    status = json.loads(answer.stdout)
    assert status["pid"] == server.pid
    assert status["generation"] == 1
    assert status["target"] == 2
    assert {row["state"] for row in status["workers"]} == {"ready"}
    assert {"slot", "pid", "generation", "state", "connections", "accepted", "uptime"} <= set(status["workers"][0])
    assert set(status["last_reload"]) == {"verdict", "reason", "changes"}


def test_term_stops_it_with_exit_0(server: Running) -> None:
    assert server.stop(signal.SIGTERM) == 0
