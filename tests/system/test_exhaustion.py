"""No file descriptor is left: accept does not spin, the excess is told, and it recovers by itself."""

from __future__ import annotations

import resource
import time

from tests.eventually import eventually
from tests.system.conftest import Prepare
from tests.system.processes import count_fds, cpu_seconds
from tests.system.running import Running, exchange
from tests.system.traffic import Crowd, Stream, answers, send_all

EXHAUSTED = "cannot accept new connections"
FREE = 10  # descriptors that a worker may still open
SPIN_SECONDS = 1.0  # how long the want of descriptors is watched


def limit(pid: int, free: int) -> None:
    count = count_fds(pid) + free
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (count, count))


def start(prepare: Prepare) -> tuple[Running, int]:
    """Start a server; return it and its worker, which is short of descriptors."""
    server = prepare(workers=1).start()
    server.expected_errors.append(EXHAUSTED)
    (worker,) = server.worker_pids()
    limit(worker, FREE)
    return server, worker


def taken(server: Running) -> int:
    """Return how many connections were taken from the queue, to be served or to be told to go."""
    counters: dict[str, int] = server.status()["counters"]
    return counters["accepted"] + counters["refused"]


def test_the_excess_is_told_to_go_and_the_others_are_served(prepare: Prepare) -> None:
    server, _ = start(prepare)
    with Crowd() as crowd:
        clients = send_all(crowd.come(("127.0.0.1", server.port()), 40))
        found = answers(clients, 5)
        served = [sock for sock, got in zip(clients, found, strict=True) if got == b"hello"]
        assert FREE - 2 <= len(served) <= FREE
        assert set(found) <= {b"hello", b"", b"ConnectionResetError"}
        assert answers(send_all(served), 5) == [b"hello"] * len(served)
        eventually(lambda: server.status()["counters"]["refused"] == 40 - len(served))
    assert server.log().count(EXHAUSTED) == 1


def test_it_recovers_by_itself(prepare: Prepare) -> None:
    server, worker = start(prepare)
    with Crowd() as crowd:
        crowd.come(("127.0.0.1", server.port()), 40)
        eventually(lambda: taken(server) == 40)
    eventually(lambda: server.workers()[0]["connections"] == 0)
    with Stream(("127.0.0.1", server.port())) as stream:
        eventually(lambda: stream.answered > 20)
    assert not stream.failures
    assert server.worker_pids() == {worker}


def test_a_worker_without_a_descriptor_to_spare_beats_on(prepare: Prepare) -> None:
    server = prepare(workers=1, timeouts={"boot": "20s", "beat": "1s", "drain": "5s"}).start()
    server.expected_errors.append(EXHAUSTED)
    (worker,) = server.worker_pids()
    limit(worker, FREE)
    with Crowd() as crowd:
        clients = send_all(crowd.come(("127.0.0.1", server.port()), 40))
        served = [sock for sock, got in zip(clients, answers(clients, 5), strict=True) if got == b"hello"]
        with Stream(("127.0.0.1", server.port())) as stream:  # takes what is free, again and again
            begun = time.monotonic()
            eventually(lambda: time.monotonic() - begun > 3)
        assert not stream.answered
        assert server.worker_pids() == {worker}
        assert answers(send_all(served), 5) == [b"hello"] * len(served)


def test_accept_does_not_spin_while_clients_go_on_to_come(prepare: Prepare) -> None:
    server, worker = start(prepare)
    with Crowd() as crowd:
        crowd.come(("127.0.0.1", server.port()), 40)
        eventually(lambda: server.status()["counters"]["refused"])
        used, begun = cpu_seconds(worker), time.monotonic()
        with Stream(("127.0.0.1", server.port())) as stream:
            eventually(lambda: time.monotonic() - begun > SPIN_SECONDS)
        assert stream.failures
        assert cpu_seconds(worker) - used < SPIN_SECONDS / 4


def test_a_neighbour_serves_those_for_whom_a_worker_has_no_descriptor(prepare: Prepare) -> None:
    server = prepare(workers=2).start()
    server.expected_errors.append(EXHAUSTED)
    limit(min(server.worker_pids()), FREE // 5)
    with Crowd() as crowd:
        found = answers(send_all(crowd.come(("127.0.0.1", server.port()), 40)), 5)
    assert found.count(b"hello") > FREE // 5
    counters = server.status()["counters"]
    assert (counters["accepted"], counters["refused"]) == (found.count(b"hello"), 40 - found.count(b"hello"))


def test_a_whole_server_that_is_short_of_descriptors_still_answers_questions(prepare: Prepare) -> None:
    server = prepare(workers=2)
    server.start_by(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48)))
    server.expected_errors.append(EXHAUSTED)
    with Crowd() as crowd:
        send_all(crowd.come(("127.0.0.1", server.port()), 150))
        eventually(lambda: server.status()["counters"]["refused"])
        assert server.is_ready()
    eventually(lambda: sum(row["connections"] for row in server.workers()) == 0)
    with server.connect() as client:
        assert exchange(client, b"hello") == b"hello"
