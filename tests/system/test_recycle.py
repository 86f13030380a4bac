"""Workers are replaced for their age, one slot at a time, and no client notices."""

from __future__ import annotations

from tests.eventually import eventually
from tests.system.conftest import Prepare
from tests.system.running import Running
from tests.system.traffic import Crowd, Stream, answers, send_all


def watch_replacements(server: Running, wanted: int) -> None:
    """Wait for so many new workers; check that one slot at a time has more than one worker."""
    seen: set[int] = set()

    def look() -> bool:
        rows = server.workers()
        slots = [row["slot"] for row in rows]
        assert len(slots) - len(set(slots)) <= 1, rows
        assert {row["slot"] for row in rows if row["state"] == "ready"} == {0, 1}, rows
        seen.update(row["pid"] for row in rows if row["pid"])
        return len(seen) >= 2 + wanted

    eventually(look, within=20)


def test_recycling_by_connections_loses_none_under_load(prepare: Prepare) -> None:
    server = prepare(recycle={"connections": 40, "jitter": "0%"}).start()
    with Stream(("127.0.0.1", server.port())) as stream:
        watch_replacements(server, 6)
        before = stream.answered
        eventually(lambda: stream.answered > before + 20)
    assert not stream.failures
    assert "has reached recycle.connections" in server.log()


def test_recycling_by_age_replaces_every_worker(prepare: Prepare) -> None:
    server = prepare(recycle={"age": "0.6s", "jitter": "50%"}).start()
    with Stream(("127.0.0.1", server.port())) as stream:
        watch_replacements(server, 4)
    assert not stream.failures
    assert "has reached recycle.age" in server.log()


def test_the_clients_of_a_worker_that_is_recycled_are_served_on(prepare: Prepare) -> None:
    server = prepare(workers=1, recycle={"connections": 10, "jitter": "0%"}).start()
    with Crowd() as crowd:
        clients = crowd.come(("127.0.0.1", server.port()), 10)
        assert answers(send_all(clients), 5) == [b"hello"] * 10
        eventually(lambda: server.workers("draining") and server.workers("ready"))
        assert answers(send_all(clients), 5) == [b"hello"] * 10
