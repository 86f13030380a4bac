"""The admin process over HTTP: health, metrics, pages, changes; whatever becomes of it, the server serves."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.eventually import eventually
from tests.system.conftest import Prepare
from tests.system.processes import stopped
from tests.system.running import Running, exchange

ECHO = "prefork.apps.echo:echo"
TOKEN = "open sesame"
PROXY = {"admin": {"bind": "tcp://127.0.0.1:0", "token": TOKEN}}


@pytest.fixture
def server(prepare: Prepare) -> Running:
    return started(prepare)


def started(prepare: Prepare, *expected: str, **config: Any) -> Running:
    server = prepare(listeners=[{"name": "echo", "bind": "tcp://127.0.0.1:0", "app": ECHO}], **{**PROXY, **config})
    server.expected_errors += expected
    server.start()
    eventually(lambda: get(server, "/healthz/live")[0] == 200)
    return server


def port(server: Running) -> int:
    found = re.findall(r"admin listens on tcp://127\.0\.0\.1:(\d+)", server.log())
    return int(found[-1])


def get(server: Running, path: str, method: str = "GET", body: str = "", **headers: str) -> tuple[int, str]:
    """Return status and body of a page."""
    client = http.client.HTTPConnection("127.0.0.1", port(server), timeout=10)
    try:
        client.request(
            method, path, body or None, {name.replace("_", "-"): value for name, value in headers.items()}
        )
        response = client.getresponse()
        return response.status, response.read().decode()
    except OSError as error:
        return 0, str(error)
    finally:
        client.close()


def metrics(server: Running) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return the samples of /metrics, as Prometheus' own parser reads them."""
    status, text = get(server, "/metrics")
    assert status == 200
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def counters(server: Running) -> dict[Any, float]:
    """Return the samples of what only ever grows."""
    ends = ("_total", "_bucket", "_sum", "_count")
    return {sample: value for sample, value in metrics(server).items() if sample[0].endswith(ends)}


def total(server: Running, name: str, **labels: str) -> float:
    """Return the sum of the samples of a metric that have some labels."""
    wanted = set(labels.items())
    return sum(value for (sample, found), value in metrics(server).items() if sample == name and wanted <= found)


def admin_pid(server: Running) -> int:
    return next(pid for pid in server.descendants() if title(pid) == "prefork: admin")


def title(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", encoding="utf-8") as file:
            return file.read().strip("\0")
    except OSError:
        return ""


def test_metrics_say_what_was_done_and_prometheus_reads_them(server: Running) -> None:
    for _ in range(5):
        with server.connect() as sock:
            assert exchange(sock, b"12345678") == b"12345678"
    eventually(lambda: total(server, "prefork_connections_closed_total") == 5)
    eventually(lambda: total(server, "prefork_received_bytes_total", listener="echo") == 40)
    assert total(server, "prefork_sent_bytes_total") == 40
    assert total(server, "prefork_connections_accepted_total", listener="echo") == 5
    assert total(server, "prefork_connections_closed_total", reason="done") == 5
    eventually(lambda: total(server, "prefork_connection_duration_seconds_count") == 5)
    assert total(server, "prefork_workers", state="ready") == 2
    assert total(server, "prefork_worker_spawns_total", reason="start") == 2
    assert total(server, "prefork_config_reload_success") == 1
    eventually(lambda: total(server, "prefork_loop_turn_seconds_count") > 10)
    names = {name for name, _ in metrics(server)}
    assert {"process_resident_memory_bytes", "process_pss_bytes", "process_open_fds"} <= names
    labels = {name for _, found in metrics(server) for name, _ in found}
    assert "pid" not in labels


def test_counters_never_go_down_over_crash_reload_and_scale(prepare: Prepare) -> None:
    server = started(prepare, "was ended by SIGKILL")

    def accepted() -> float:
        return total(server, "prefork_connections_accepted_total")

    for step in range(3):
        with server.connect() as sock:
            assert exchange(sock, b"x") == b"x"
        before = accepted()
        assert before == step + 1
        counted = counters(server)
        if step == 0:
            os.kill(min(server.worker_pids()), signal.SIGKILL)
            eventually(lambda: total(server, "prefork_worker_exits_total", how="crashed", code="SIGKILL") == 1)
        elif step == 1:
            assert server.reload()["verdict"] == "committed"
        assert accepted() == before
        after = counters(server)
        assert {sample for sample in counted if after.get(sample, -1.0) < counted[sample]} == set()


def test_health_tells_live_and_ready_with_the_reason(prepare: Prepare) -> None:
    server = started(prepare, timeouts={"beat": "60s"}, workers=1)
    assert get(server, "/healthz/ready") == (200, '{"ready": true, "why": []}\n')
    with stopped(*server.worker_pids()):
        eventually(lambda: get(server, "/healthz/ready")[0] == 503)
        assert json.loads(get(server, "/healthz/ready")[1]) == {"ready": False, "why": ["slot 0 stands still"]}
        assert get(server, "/healthz/live")[0] == 200
    eventually(lambda: get(server, "/healthz/ready")[0] == 200)


def test_the_config_is_told_with_origins_and_without_secrets(server: Running) -> None:
    rows = {row["key"]: row for row in json.loads(get(server, "/config")[1])}
    assert rows["admin.token"]["value"] == "***"
    assert TOKEN not in get(server, "/config")[1]
    assert rows["timeouts.delay"]["origin"] == "default"
    assert re.search(r"\.yaml:\d+:\d+$", rows["listeners.echo.bind"]["origin"])


REFUSED: dict[str, tuple[int, Callable[[Running], tuple[int, str]]]] = {
    "a foreign host": (421, lambda server: get(server, "/metrics", host="evil.example")),
    "a foreign origin": (403, lambda server: get(server, "/status.json", origin="http://evil.example")),
    "no such page": (404, lambda server: get(server, "/admin.php")),
    "a change by GET": (405, lambda server: get(server, "/reload", authorization=f"Bearer {TOKEN}")),
    "a change without a token": (401, lambda server: get(server, "/reload", "POST")),
    "a wrong token": (401, lambda server: get(server, "/scale", "POST", '{"count": 5}', authorization="Bearer x")),
    "a page by POST": (405, lambda server: get(server, "/metrics", "POST")),
    "no JSON": (400, lambda server: get(server, "/scale", "POST", "[1]", authorization=f"Bearer {TOKEN}")),
    "a head of 1 MB": (431, lambda server: get(server, "/metrics", cookie="x" * 1_000_000)),
    "a body of 1 MB": (413, lambda server: get(server, "/scale", "POST", "x" * 1_000_000)),
}


def test_what_may_not_be_is_refused_with_a_reason_and_the_next_one_is_served(server: Running) -> None:
    for name, (wanted, act) in REFUSED.items():
        status, text = act(server)
        is_long = name.endswith("1 MB")  # a client that still sends may learn of the close by a reset
        assert status == wanted or (is_long and status == 0), name
        assert len(text) > 5, name
        assert get(server, "/healthz/live")[0] == 200, name
    assert len(server.worker_pids("ready")) == 2


def test_changes_are_made_with_the_token(server: Running) -> None:
    bearer = {"authorization": f"Bearer {TOKEN}"}
    assert get(server, "/scale", "POST", '{"count": "+1"}', **bearer)[0] == 200
    eventually(lambda: len(server.workers("ready")) == 3)
    assert json.loads(get(server, "/reload", "POST", **bearer)[1])["verdict"] == "committed"


def test_garbage_ends_one_connection(server: Running) -> None:
    with socket.create_connection(("127.0.0.1", port(server)), timeout=10) as sock:
        sock.sendall(b"\x16\x03\x01 this is no HTTP \r\n\r\n")
        assert sock.recv(12) == b"HTTP/1.1 400"
    assert get(server, "/healthz/live")[0] == 200


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_an_admin_process_that_is_gone_comes_back_and_nobody_else_has_noticed(
    prepare: Prepare, number: int
) -> None:
    server = started(prepare, "admin (pid ")
    pids, pid = server.worker_pids(), admin_pid(server)
    with server.connect() as sock:
        os.kill(pid, number)
        assert exchange(sock, b"hello") == b"hello"
        eventually(lambda: get(server, "/healthz/live")[0] == 200)
        assert exchange(sock, b"again") == b"again"
    assert admin_pid(server) != pid
    assert server.worker_pids() == pids
    assert f"admin (pid {pid}) ended by {signal.Signals(number).name}" in server.log()


def test_an_admin_process_that_stands_still_is_replaced(prepare: Prepare) -> None:
    server = started(prepare, "admin (pid ", timeouts={"beat": "1s"})
    os.kill(admin_pid(server), signal.SIGSTOP)
    eventually(lambda: "has not been round its loop" in server.log())
    eventually(lambda: get(server, "/healthz/live")[0] == 200)


def events(sock: socket.socket) -> Iterator[tuple[str, Any]]:
    """Return the events of a stream as they come."""
    sock.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    with sock.makefile("r", encoding="utf-8") as lines:
        kind = ""
        for line in lines:
            if line.startswith("event: "):
                kind = line[7:].strip()
            elif line.startswith("data: "):
                yield kind, json.loads(line[6:])


def test_the_stream_tells_of_states_and_of_what_happens(server: Running) -> None:
    with socket.create_connection(("127.0.0.1", port(server)), timeout=10) as sock:
        stream = events(sock)
        first = next(event for kind, event in stream if kind == "status")
        assert (first["target"], first["ready"]) == (2, True)
        server.reload()
        assert next(event for kind, event in stream if kind == "log" and "committed" in event["msg"])


def test_streams_are_counted_and_the_others_are_told(server: Running) -> None:
    with ExitStack() as stack:
        heads = []
        for _ in range(66):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port(server)), timeout=10))
            sock.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            heads.append(sock.recv(12))
        assert heads.count(b"HTTP/1.1 503") == 2
        assert get(server, "/healthz/live")[0] == 200
    eventually(lambda: stream_head(server) == b"HTTP/1.1 200")


def stream_head(server: Running) -> bytes:
    with socket.create_connection(("127.0.0.1", port(server)), timeout=10) as sock:
        sock.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return sock.recv(12)


def test_a_reload_changes_it_and_switches_it_off(server: Running) -> None:
    assert get(server, "/")[0] == 200
    first = port(server)
    row = {"name": "echo", "bind": "tcp://127.0.0.1:0", "app": ECHO}
    server.configure(
        {"workers": 2, "listeners": [row], "admin": {"bind": "tcp://127.0.0.1:0", "dashboard": False}}
    )
    assert server.reload()["verdict"] == "committed"
    eventually(lambda: get(server, "/")[0] == 404)
    assert port(server) == first
    server.configure({"workers": 2, "listeners": [row]})
    assert server.reload()["verdict"] == "committed"
    assert get(server, "/healthz/live")[0] == 0


def test_a_bind_that_speaks_no_http_is_refused_with_its_place(prepare: Prepare) -> None:
    server = prepare(admin={"bind": "udp://127.0.0.1:0"})
    found = server.run("check", "test.yaml")
    assert found.returncode == 2
    assert "admin.bind: 'udp://127.0.0.1:0' cannot be used; write tcp:// or unix://" in found.stderr


def test_a_scrape_of_16_slots_is_quick_and_stays_so(prepare: Prepare) -> None:
    server = started(prepare, "was ended by SIGKILL", workers=16)
    eventually(lambda: len(server.workers("ready")) == 16)
    get(server, "/metrics")
    best = min(timed(lambda: get(server, "/metrics")) for _ in range(10))
    assert best < 0.1  # the figure is measured on a quiet machine; here it must only be of its kind
    size = len(get(server, "/metrics")[1])
    for _ in range(3):
        kill_one(server)
    assert len(get(server, "/metrics")[1]) < size * 1.05


def kill_one(server: Running) -> None:
    """Kill a worker, and wait until another is there for it."""
    count, killed = len(server.worker_pids("ready")), min(server.worker_pids("ready"))
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: len(server.worker_pids("ready") - {killed}) == count)


def timed(act: Callable[[], object]) -> float:
    begun = time.monotonic()
    act()
    return time.monotonic() - begun


APP = """
import asyncio, os
import prefork

jobs = prefork.counter("jobs_total", "Jobs that were done.")
depth = prefork.gauge("depth", "How deep it is.")
sizes = prefork.histogram("job_bytes", 'A "text"\\\\ with\\nmore', bounds=(10, 100))

async def work(conn):
    async for line in conn:
        jobs.inc()
        depth.set(1.5)
        sizes.observe(len(line))
        await conn.send(line)
"""


def test_an_apps_own_metrics_are_summed_over_its_workers_and_survive_them(prepare: Prepare) -> None:
    work = {"name": "echo", "bind": "tcp://127.0.0.1:0", "app": "app:work", "framing": "lines"}
    server = prepare({"app.py": APP}, listeners=[work], **PROXY)
    server.expected_errors.append("was ended by SIGKILL")
    server.start()
    eventually(lambda: get(server, "/healthz/live")[0] == 200)
    for _ in range(20):
        with server.connect() as sock:
            assert exchange(sock, b"x" * 20 + b"\n") == b"x" * 20 + b"\n"
    assert total(server, "jobs_total") == 20
    eventually(lambda: total(server, "prefork_frame_seconds_count") == 20)
    assert total(server, "prefork_frame_seconds_sum") > 0
    assert total(server, "job_bytes_sum") == 400
    assert total(server, "job_bytes_bucket", le="10.0") == 0
    assert total(server, "job_bytes_bucket", le="100.0") == total(server, "job_bytes_count") == 20
    assert {value for (name, _), value in metrics(server).items() if name == "depth"} <= {0.0, 1.5}
    for pid in server.worker_pids():
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: total(server, "prefork_worker_exits_total", how="crashed") == 2)
    assert server.reload()["verdict"] == "committed"
    assert total(server, "jobs_total") == 20


def test_a_metric_of_a_wrong_name_refuses_the_reload(prepare: Prepare) -> None:
    server = started(prepare, "the new code cannot be imported", "Traceback", "reload refused")
    server.write("app.py", "import prefork\nprefork.counter('jobs', 'x')\nasync def work(conn): pass\n")
    server.configure(
        {"workers": 2, "listeners": [{"name": "echo", "bind": "tcp://127.0.0.1:0", "app": "app:work"}]}
    )
    verdict = server.reload()
    assert verdict["verdict"] == "refused"
    assert "names of counters, and no others, end with _total" in verdict["reason"]
