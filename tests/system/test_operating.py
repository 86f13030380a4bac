"""What an operator sees and does while the server runs: connections, kicks, levels, access records, captures."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from prefork.captured import read_streams
from tests.eventually import eventually
from tests.system.certificates import Authority, wrap
from tests.system.certificates import listener as tls_listener
from tests.system.conftest import Prepare
from tests.system.processes import stopped
from tests.system.running import Running, exchange, parse_json_lines, receive

ECHO = {"name": "echo", "bind": "tcp://127.0.0.1:0", "app": "prefork.apps.echo:echo"}
LINES = {"name": "lines", "bind": "tcp://127.0.0.1:0", "app": "app:lines", "framing": "lines"}
APP = """
async def lines(conn):
    async for line in conn:
        if line == b"raise":
            raise ValueError("as told")
        conn.log.debug("a line of %d bytes", len(line))
        await conn.send(line.upper())
"""


@pytest.fixture
def server(prepare: Prepare) -> Running:
    return prepare({"app.py": APP}, listeners=[ECHO, LINES], workers=2).start()


def conns(server: Running, *options: str) -> list[dict[str, Any]]:
    found = server.run("conns", "--control", str(server.control), "--json", *options)
    assert found.returncode == 0, found.stderr
    rows: list[dict[str, Any]] = json.loads(found.stdout)
    return rows


def dial(server: Running, stack: ExitStack, source: str = "127.0.0.1", name: str = "echo") -> socket.socket:
    return stack.enter_context(
        socket.create_connection(("127.0.0.1", server.port(name)), timeout=10, source_address=(source, 0))
    )


def test_connections_are_listed_with_what_they_have_moved_and_filtered(server: Running) -> None:
    with ExitStack() as stack:
        for source in ("127.0.0.1", "127.0.0.2", "127.0.0.2"):
            assert exchange(dial(server, stack, source), b"12345") == b"12345"
        assert exchange(dial(server, stack, "127.0.0.3", "lines"), b"line\n") == b"LINE\n"
        rows = conns(server)
        assert len(rows) == 4
        assert {(row["received"], row["sent"], row["waiting"]) for row in rows} == {(5, 5, 0)}
        assert {row["slot"] for row in rows} <= {0, 1}
        assert len(conns(server, "--peer", "127.0.0.2/32")) == 2
        assert [row["peer"].partition(":")[0] for row in conns(server, "--listener", "lines")] == ["127.0.0.3"]
        assert conns(server, "--older", "60") == []
        assert len(conns(server, "--limit", "3")) == 3
        assert sum(len(conns(server, "--slot", slot)) for slot in "01") == 4
        text = server.run("conns", "--control", str(server.control)).stdout.splitlines()
        assert len(text) == 5
        assert rows[0]["id"] in "".join(text)


def test_thousands_of_connections_come_in_many_packets(server: Running) -> None:
    with ExitStack() as stack:
        for _ in range(450):
            dial(server, stack)
        eventually(lambda: sum(row["connections"] for row in server.workers()) == 450)
        assert len({row["id"] for row in conns(server)}) == 450


def test_a_worker_that_stands_still_keeps_nobody_from_the_answer(server: Running) -> None:
    with ExitStack() as stack:
        for _ in range(20):
            assert exchange(dial(server, stack), b"x") == b"x"
        before = conns(server)
        slot = before[0]["slot"]
        with stopped(*(row["pid"] for row in server.workers() if row["slot"] == slot)):
            asked = server.run("conns", "--control", str(server.control), "--json")
            assert {row["slot"] for row in json.loads(asked.stdout)} <= {1 - slot}
            assert (asked.returncode, f"slots [{slot}] have not answered" in asked.stderr) == (3, True)
        eventually(lambda: len(conns(server)) == 20)


def test_one_connection_is_kicked_and_the_others_stay(server: Running) -> None:
    with ExitStack() as stack:
        one, other = dial(server, stack, "127.0.0.2"), dial(server, stack, "127.0.0.3")
        assert exchange(one, b"x") == exchange(other, b"x") == b"x"
        (row,) = conns(server, "--peer", "127.0.0.2")
        assert server.run("kick", "--control", str(server.control), row["id"]).returncode == 0
        with pytest.raises(ConnectionResetError):
            receive(one, 1)
        assert exchange(other, b"still here") == b"still here"
        again = server.run("kick", "--control", str(server.control), row["id"])
        assert (again.returncode, "there is no connection" in again.stderr) == (3, True)


def test_a_slot_that_is_drained_keeps_its_clients_and_gets_nobody_new(server: Running) -> None:
    with ExitStack() as stack:
        old = [dial(server, stack) for _ in range(10)]
        assert all(exchange(sock, b"x") == b"x" for sock in old)
        before = {row["slot"]: row["connections"] for row in server.workers()}
        assert server.run("drain", "--control", str(server.control), "--slot", "0").returncode == 0
        assert server.status()["held"] == {"slots": [0], "listeners": []}
        for _ in range(20):
            assert exchange(dial(server, stack), b"x") == b"x"
        after = {row["slot"]: row["connections"] for row in server.workers()}
        assert after == {0: before[0], 1: before[1] + 20}
        assert all(exchange(sock, b"y") == b"y" for sock in old)
        assert server.run("resume", "--control", str(server.control), "--slot", "0").returncode == 0
        for _ in range(20):
            assert exchange(dial(server, stack), b"x") == b"x"
        assert {row["slot"]: row["connections"] for row in server.workers()}[0] > before[0]


def test_who_comes_to_a_listener_that_is_drained_waits_until_it_is_resumed(server: Running) -> None:
    with ExitStack() as stack:
        old = dial(server, stack, name="lines")
        assert exchange(old, b"x\n") == b"X\n"
        assert server.run("drain", "--control", str(server.control), "--listener", "lines").returncode == 0
        new = dial(server, stack, name="lines")
        new.sendall(b"later\n")
        assert exchange(old, b"y\n") == b"Y\n"
        assert exchange(dial(server, stack), b"echo") == b"echo"
        assert server.status()["counters"]["accepted"] == 2
        assert server.run("resume", "--control", str(server.control), "--listener", "lines").returncode == 0
        assert receive(new, 6) == b"LATER\n"
    wrong = server.run("drain", "--control", str(server.control), "--listener", "nobody")
    assert (wrong.returncode, "there are echo, lines" in wrong.stderr) == (2, True)


def test_the_level_is_changed_for_a_while_and_goes_back_by_itself(server: Running) -> None:
    with server.connect("lines") as sock:
        assert exchange(sock, b"quiet\n") == b"QUIET\n"
        done = server.run("logs", "--control", str(server.control), "level=debug", "--for", "2s")
        assert done.returncode == 0
        eventually(lambda: exchange(sock, b"loud\n") == b"LOUD\n" and "a line of 4 bytes" in server.log())
        eventually(lambda: "level info again" in server.log())
        assert exchange(sock, b"quiet again\n") == b"QUIET AGAIN\n"
        assert exchange(sock, b"x\n") == b"X\n"
    assert "a line of 5 bytes" not in server.log()
    assert "a line of 11 bytes" not in server.log()
    wrong = server.run("logs", "--control", str(server.control), "level=loud")
    assert (wrong.returncode, "known are debug, info" in wrong.stderr) == (2, True)


def test_each_connection_is_told_at_its_end_with_bytes_and_reason(prepare: Prepare) -> None:
    server = prepare({"app.py": APP}, listeners=[ECHO, {**LINES, "limits": {"idle": "1s"}}])
    server.expected_errors.append("the app failed on connection")
    server.configure(
        {
            "workers": 2,
            "listeners": [ECHO, {**LINES, "limits": {"idle": "1s"}}],
            "log": {"file": str(server.log_file), "format": "json", "access": "100%"},
        }
    )
    server.start()
    with server.connect() as sock:
        assert exchange(sock, b"x" * 100) == b"x" * 100
    with server.connect("lines") as sock:
        sock.sendall(b"raise\n")
        assert receive(sock, 1) == b""
    with server.connect("lines") as sock:
        assert exchange(sock, b"idle\n") == b"IDLE\n"
        eventually(lambda: len(access_records(server)) == 3)
    by_reason = {record["reason"]: record for record in access_records(server)}
    assert set(by_reason) == {"done", "error", "idle"}
    done = by_reason["done"]
    assert (done["received"], done["sent"], done["listener"]) == (100, 100, "echo")
    assert re.fullmatch(r"echo-\d\.g1\.\d+-1", done["conn"])
    assert "127.0.0.1" in done["peer"]
    assert by_reason["idle"]["duration"] >= 1.0
    assert by_reason["idle"]["frames"] == by_reason["error"]["frames"] == 1
    assert "frames" not in done  # of a stream without a framing


def access_records(server: Running) -> list[dict[str, Any]]:
    return [record for record in parse_json_lines(server.log()) if record["logger"] == "prefork.access"]


@contextmanager
def capturing(server: Running, file: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Capture to a file until the block ends, by Ctrl-C."""
    arguments = [sys.executable, "-m", "prefork", "capture", "--control", str(server.control), "-o", str(file)]
    process = subprocess.Popen([*arguments, *options], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        eventually(lambda: file.exists() and is_tapped(server))
        yield process
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        assert process.returncode == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def is_tapped(server: Running) -> bool:
    """Whether the workers write to the spool of a capture."""
    return all(has_spool(server, pid) for pid in server.worker_pids("ready"))


def has_spool(server: Running, pid: int) -> bool:
    """Whether a process has a file without a name open, in the folder of the capture."""
    return any(link.startswith(f"{server.folder}/") and link.endswith(" (deleted)") for link in links_of(pid))


def links_of(pid: int) -> list[str]:
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
        except OSError:  # the descriptor of the listing itself
            continue
    return found


def test_a_capture_has_what_handlers_read_and_wrote_of_old_and_new_connections(server: Running) -> None:
    file = server.folder / "x.pcapng"
    with server.connect() as old:
        assert exchange(old, b"before") == b"before"
        with capturing(server, file):
            assert exchange(old, b"old") == b"old"
            with server.connect("lines") as new:
                assert exchange(new, b"new\nline\n") == b"NEW\nLINE\n"
            eventually(lambda: sum(row["connections"] for row in server.workers()) == 1)
        assert exchange(old, b"after") == b"after"
    streams = {stream.listener: stream for stream in read_streams(file.read_bytes())}
    assert said(streams["echo"]) == (b"old", b"old")
    assert said(streams["lines"]) == (b"new\nline\n", b"NEW\nLINE\n")
    assert file.stat().st_mode & 0o777 == 0o600
    assert "slot " in streams["lines"].comment
    eventually(lambda: not any(has_spool(server, pid) for pid in server.worker_pids()))


def test_a_capture_goes_on_over_a_crash_and_a_reload(server: Running) -> None:
    file = server.folder / "x.pcapng"
    with capturing(server, file):
        victim = min(server.worker_pids("ready"))
        server.expected_errors.append("was ended by SIGKILL")
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: victim not in server.worker_pids("ready") and server.is_ready())
        eventually(lambda: is_tapped(server))
        for word in (b"after the crash", b"again"):
            with server.connect() as sock:
                assert exchange(sock, word) == word
        assert server.run("reload", "--control", str(server.control)).returncode == 0
        eventually(lambda: is_tapped(server))
        for word in (b"after the reload", b"once more"):
            with server.connect() as sock:
                assert exchange(sock, word) == word
        eventually(lambda: sum(row["connections"] for row in server.workers()) == 0)
    words = {said(stream)[0] for stream in read_streams(file.read_bytes())}
    assert words >= {b"after the crash", b"again", b"after the reload", b"once more"}


def test_a_second_capture_is_refused_and_the_first_goes_on(server: Running) -> None:
    file = server.folder / "x.pcapng"
    with capturing(server, file):
        other = server.run("capture", "--control", str(server.control), "-o", str(server.folder / "y"))
        assert (other.returncode, "another capture is under way" in other.stderr) == (3, True)
        assert not (server.folder / "y").exists()
        with server.connect() as sock:
            assert exchange(sock, b"kept") == b"kept"
    assert said(read_streams(file.read_bytes())[0]) == (b"kept", b"kept")


def said(stream: Any) -> tuple[bytes, bytes]:
    """Return all that a captured client said, and was told."""
    return tuple(b"".join(c.data for c in stream.chunks if c.is_received is way) for way in (True, False))  # type: ignore[return-value]


def test_a_capture_of_tls_is_plain_and_filtered_by_peer_and_cut(prepare: Prepare) -> None:
    authority = Authority()
    server = prepare(listeners=[tls_listener(app="prefork.apps.echo:echo")], workers=1)
    authority.issue().write(server.folder)
    server.start()
    file = server.folder / "x.pcapng"
    with capturing(server, file, "--peer", "127.0.0.2/32", "--max-bytes", "4"), ExitStack() as stack:
        for source in ("127.0.0.1", "127.0.0.2"):
            sock = wrap(dial(server, stack, source), authority.client())
            assert exchange(sock, b"secret") == b"secret"
            sock.close()
        eventually(lambda: sum(row["connections"] for row in server.workers()) == 0)
    (stream,) = read_streams(file.read_bytes())
    assert said(stream) == (b"secr", b"secr")
    assert "TLSv1.3" in stream.comment


def test_a_capture_ends_at_its_limit_and_by_its_time(server: Running) -> None:
    file = server.folder / "x.pcapng"
    with capturing(server, file, "--limit", "20KiB") as process, server.connect() as sock:
        for _ in range(100):
            assert exchange(sock, b"x" * 1000) == b"x" * 1000
        assert process.wait(20) == 0
    assert 15_000 < file.stat().st_size <= 20 * 1024
    assert read_streams(file.read_bytes())
    done = server.run(
        "capture", "--control", str(server.control), "-o", str(server.folder / "y"), "--for", "300ms"
    )
    assert done.returncode == 0


def test_a_limit_that_many_connections_alone_reach_harms_nobody(server: Running) -> None:
    """A worker writes down 256 events together: with so many the limit is met while it begins."""
    pids = server.worker_pids()
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(1200)]
        done = server.run(
            "capture", "--control", str(server.control), "-o", str(server.folder / "x.pcapng"), "--limit", "2KiB"
        )
        assert done.returncode == 0
        assert all(exchange(client, b"still here") == b"still here" for client in clients)
    assert server.worker_pids() == pids


def test_a_capture_that_cannot_go_on_keeps_what_it_has_and_the_server_serves_on(server: Running) -> None:
    file = server.folder / "x.pcapng"
    command = [sys.executable, "-m", "prefork", "capture", "--control", str(server.control), "-o", str(file)]
    limited = [
        "bash",
        "-c",
        'ulimit -f 20; exec "$@"',
        "bash",
        *command,
    ]  # KiB
    with subprocess.Popen(limited, text=True, stderr=subprocess.PIPE) as process, server.connect() as sock:
        eventually(lambda: file.exists() and is_tapped(server))
        for _ in range(100):
            assert exchange(sock, b"x" * 1000) == b"x" * 1000
        _, told = process.communicate(timeout=20)
    assert (process.returncode, told) == (3, "prefork: cannot write more of the capture: File too large\n")
    assert read_streams(file.read_bytes())[0].listener == "echo"
    eventually(lambda: not any(has_spool(server, pid) for pid in server.worker_pids()))


WRONG_CAPTURES: list[tuple[list[str], str]] = [
    (["-o", "test.yaml"], "cannot write test.yaml: File exists"),
    (["-o", "no/such/folder.pcapng"], "No such file or directory"),
    (["-o", "x", "--listener", "nobody"], "there is no listener 'nobody'; there are echo, lines"),
    (["-o", "x", "--peer", "all"], "cannot capture: 'all' is not a network; write 10.0.0.0/8 or fd00::/8"),
    (["-o", "x", "--limit", "much"], "'much' is not a size"),
    (["-o", "x", "--for", "10d"], "an hour is the most"),
]


def test_a_capture_that_cannot_be_is_refused_and_leaves_no_file(server: Running) -> None:
    for options, message in WRONG_CAPTURES:
        done = server.run("capture", "--control", str(server.control), *options)
        assert done.returncode in (2, 3), message
        assert message in done.stderr
        assert not (server.folder / "x").exists(), message
