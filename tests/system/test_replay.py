"""`prefork replay`: what clients of a capture said is said again to a real server, and answers are compared."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from prefork.pcapng import Close, Datagrams, Stream, header
from tests.system.certificates import Authority, listener
from tests.system.conftest import Prepare
from tests.system.running import Running, listeners, receive, run_prefork

SECOND = 1_000_000_000
AT = 1_795_380_035 * SECOND
PEER, LOCAL = ("192.0.2.7", 50_000), ("192.0.2.1", 9000)
Said = tuple[bool, bytes]
APPS = """
async def echo(conn):
    async for data in conn:
        await conn.send(data)

async def total(conn):
    count = 0
    async for data in conn:
        count += len(data)
    await conn.send(str(count).encode())

async def greeter(conn):
    await conn.send(b"hello\\n")
    async for data in conn:
        await conn.send(data.upper())

def datagram(data, peer, reply):
    reply(data[::-1])
"""


def said_by(*texts: bytes) -> list[Said]:
    """Return what an echo says and is told."""
    return [(is_received, text) for text in texts for is_received in (True, False)]


def record(said: list[Said], number: int = 1, every_ns: int = 0, is_closed: bool = True) -> bytes:
    """Return a connection; an empty text is the end of the input."""
    flow = Stream(0, PEER, LOCAL, f"slot 1; echo-{number}", number)
    at_ns = AT + number * SECOND
    written = [flow.opened(at_ns)]
    for is_received, data in said:
        at_ns += every_ns
        carry = flow.received(at_ns, data) if is_received else flow.sent(at_ns, data)
        written.append(carry if data else flow.input_ended(at_ns))
    if is_closed:
        written.append(flow.closed(at_ns, "done"))
    return b"".join(written)


def capture(folder: Path, *connections: bytes) -> str:
    path = folder / "x.pcapng"
    path.write_bytes(header("0.1.0", ["echo"]) + b"".join(connections))
    return str(path)


def run_replay(
    path: str, port: int, *options: str, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    to = () if "--to" in options else ("--to", f"127.0.0.1:{port}")
    return run_prefork("replay", path, *to, *options, folder=Path(path).parent, environ=environ)


@pytest.fixture
def several(prepare: Prepare) -> Running:
    """A server of several kinds of apps, one of them over TLS."""
    rows = listeners(
        ("total", "tcp://127.0.0.1:0", "app:total"),
        ("greeter", "tcp://127.0.0.1:0", "app:greeter"),
        ("datagram", "udp://127.0.0.1:0", "app:datagram"),
    )
    secure = [listener(), *({**listener(app=f"app:{app}"), "name": f"{app}-tls"} for app in ("total", "greeter"))]
    server = prepare({"app.py": APPS}, workers=1, listeners=[*secure, *rows])
    authority = Authority()
    authority.issue("127.0.0.1").write(server.folder)
    (server.folder / "authority.pem").write_bytes(authority.pem)
    return server.start()


# --- answers ---


def test_connections_that_are_answered_as_they_were_are_identical(server: Running, tmp_path: Path) -> None:
    large = os.urandom(3_000_000)
    path = capture(
        tmp_path,
        record(said_by(b"one", b"two"), number=1),
        record(said_by(large, b"end"), number=2),
        record([], number=3),
        record(said_by(b"open"), number=4, is_closed=False),
    )
    done = run_replay(path, server.port())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "connection 1 (echo, 192.0.2.7 50000, slot 1; echo-1): sent 6 bytes, received 6: identical",
        "connection 2 (echo, 192.0.2.7 50000, slot 1; echo-2): sent 3000003 bytes, received 3000003: identical",
        "connection 3 (echo, 192.0.2.7 50000, slot 1; echo-3): sent 0 bytes, received 0: identical",
        "connection 4 (echo, 192.0.2.7 50000, slot 1; echo-4): sent 4 bytes, received 4: identical",
        "4 of 4 identical",
    ]


def test_an_answer_that_is_not_as_it_was_is_told_with_its_first_byte(server: Running, tmp_path: Path) -> None:
    other = [(True, b"hello"), (False, b"hello"), (True, b"world"), (False, b"worms")]
    path = capture(tmp_path, record(other, number=1), record(said_by(b"good"), number=2))
    done = run_replay(path, server.port())
    assert done.returncode == 3
    first, second, total = done.stdout.splitlines()
    assert first.endswith("sent 10 bytes, received 10: different at byte 8")
    assert second.endswith(": identical")
    assert total == "1 of 2 identical"


def test_more_than_was_answered_is_different_at_the_first_byte_more(server: Running, tmp_path: Path) -> None:
    done = run_replay(capture(tmp_path, record([(True, b"hello"), (False, b"hell")])), server.port())
    assert done.returncode == 3
    assert "received 5: different at byte 4" in done.stdout


@pytest.mark.slow
def test_an_answer_that_never_comes_is_waited_for_within_bounds(server: Running, tmp_path: Path) -> None:
    begun = time.monotonic()
    done = run_replay(capture(tmp_path, record([(True, b"a"), (False, b"aa"), (True, b"b")])), server.port())
    assert time.monotonic() - begun < 12
    assert done.returncode == 3
    assert "sent 1 bytes, received 1: different at byte 1: no answer within 5 s" in done.stdout


def test_only_the_connection_that_is_chosen_is_said_again(server: Running, tmp_path: Path) -> None:
    path = capture(tmp_path, *(record(said_by(bytes([65 + n])), number=n) for n in range(1, 4)))
    before = server.status()["counters"]["accepted"]
    done = run_replay(path, server.port(), "--conn", "2")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0].startswith("connection 2 ")
    assert done.stdout.splitlines()[1:] == ["1 of 1 identical"]
    assert server.status()["counters"]["accepted"] == before + 1


def test_a_server_that_speaks_first_and_input_that_ends_before_the_answer(
    several: Running, tmp_path: Path
) -> None:
    greeted = record([(False, b"hello\n"), (True, b"abc"), (False, b"ABC")])
    assert run_replay(capture(tmp_path, greeted), several.port("greeter")).returncode == 0
    counted = record([(True, b"abc"), (True, b"de"), (True, b""), (False, b"5")])
    done = run_replay(capture(tmp_path, counted), several.port("total"))
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "1 of 1 identical")


def test_datagrams_are_said_as_datagrams(several: Running, tmp_path: Path) -> None:
    flow = Datagrams(0, PEER, LOCAL, "slot 1", 1)
    said = [(True, b"abc"), (False, b"cba"), (True, b""), (False, b""), (True, b"de"), (False, b"ed")]
    path = capture(tmp_path, *(flow.datagram(AT, text, is_in) for is_in, text in said))
    done = run_replay(path, several.port("datagram"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "sent 5 bytes, received 5: identical" in done.stdout


# --- TLS ---


def test_over_tls_the_server_must_show_a_certificate_that_is_trusted(several: Running, tmp_path: Path) -> None:
    large = os.urandom(1_000_000)
    path = capture(tmp_path, record(said_by(b"one", large)), record([*said_by(b"two"), (True, b"")], number=2))
    trusting = {"SSL_CERT_FILE": str(several.folder / "authority.pem")}
    done = run_replay(path, several.port(), "--tls", environ=trusting)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "2 of 2 identical"
    counted = capture(tmp_path, record([(True, large), (True, b""), (False, b"1000000")]))
    assert run_replay(counted, several.port("total-tls"), "--tls", environ=trusting).returncode == 0
    spoken = [record([(False, b"hello\n"), (True, b"")], number=number) for number in range(20)]
    greeted = run_replay(capture(tmp_path, *spoken), several.port("greeter-tls"), "--tls", environ=trusting)
    assert greeted.returncode == 0, greeted.stdout
    silent = [record([(True, b""), (False, b"hello\n")], number=number) for number in range(20)]
    crossed = run_replay(capture(tmp_path, *silent), several.port("greeter-tls"), "--tls", environ=trusting)
    assert crossed.returncode == 0, crossed.stdout
    refused = run_replay(path, several.port(), "--tls")
    assert (refused.returncode, refused.stdout) == (3, "")
    assert "certificate verify failed" in refused.stderr


# --- time ---


def test_pauses_are_as_they_were_shortened_or_left_out(server: Running, tmp_path: Path) -> None:
    paused = record([(True, b"a"), (False, b"a"), (True, b"b"), (False, b"b")], every_ns=3 * SECOND)
    path = capture(tmp_path, paused)
    spent: dict[str, float] = {}
    for options in ("--speed 2", "--speed 1000", "--at-once"):
        begun = time.monotonic()
        assert run_replay(path, server.port(), *options.split()).returncode == 0
        spent[options] = time.monotonic() - begun
    assert spent["--speed 2"] > 1.5
    assert spent["--speed 1000"] < spent["--speed 2"]
    assert spent["--at-once"] < spent["--speed 2"]


# --- other servers ---


@contextmanager
def serving(serve: Any) -> Iterator[int]:
    """Serve one connection from a thread; yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        door.settimeout(20)

        def run() -> None:
            with door.accept()[0] as sock:
                sock.settimeout(20)
                serve(sock)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield door.getsockname()[1]
        finally:
            thread.join()


def test_a_server_that_hangs_up_is_told(tmp_path: Path) -> None:
    def serve(sock: socket.socket) -> None:
        sock.sendall(receive(sock, 3)[:2])

    path = capture(tmp_path, record(said_by(b"abc", b"def")))
    with serving(serve) as port:
        done = run_replay(path, port)
    assert done.returncode == 3
    assert "sent 3 bytes, received 2: different at byte 2: the server ended the connection" in done.stdout


def test_a_server_that_never_stops_talking_is_left(tmp_path: Path) -> None:
    def serve(sock: socket.socket) -> None:
        try:
            while True:
                sock.sendall(bytes(65_536))
        except OSError:  # the other side has had enough
            pass

    path = capture(tmp_path, record(said_by(b"abc")))
    with serving(serve) as port:
        done = run_replay(path, port)
    assert done.returncode == 3
    assert "different at byte 0" in done.stdout


# --- refusals ---


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ("--conn 7", 2, "has no connection 7"),
        ("--to 127.0.0.1", 2, "the address is written HOST:PORT, not '127.0.0.1'"),
        ("--to 127.0.0.1:0", 2, "names no port"),
        ("--speed 0", 2, "'0' is no number above 0"),
        ("--speed fast", 2, "'fast' is no number above 0"),
        ("--speed 2 --at-once", 2, "not allowed with"),
        ("--to 127.0.0.1:1", 3, "cannot connect to 127.0.0.1:1: "),
    ],
)
def test_what_cannot_be_done_is_refused(tmp_path: Path, options: str, code: int, words: str) -> None:
    done = run_replay(capture(tmp_path, record(said_by(b"abc"))), 1, *options.split())
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (None, 2, "No such file"),
        (b"", 3, "cannot read the capture at byte 0: it is empty"),
        (header("0.1.0", []), 2, "has no connection"),
        (header("0.1.0", ["echo"])[:-2], 3, "cannot read the capture at byte"),
    ],
    ids=["no file", "empty", "no connections", "cut"],
)
def test_a_file_that_is_no_capture_is_refused(
    tmp_path: Path, content: bytes | None, code: int, words: str
) -> None:
    path = tmp_path / "x.pcapng"
    if content is not None:
        path.write_bytes(content)
    done = run_replay(str(path), 1)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr


def test_a_comment_cannot_talk_to_the_terminal(server: Running, tmp_path: Path) -> None:
    flow = Stream(0, PEER, LOCAL, "\x1b[2Jslot\n", 1)
    path = capture(tmp_path, flow.opened(AT), flow.closed(AT, "broken", Close.RESET_BY_PEER))
    done = run_replay(path, server.port())
    assert done.returncode == 0
    assert "\ufffd[2Jslot\ufffd): " in done.stdout
