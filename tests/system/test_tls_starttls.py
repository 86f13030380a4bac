"""A connection that begins plain and goes on with TLS, when the handler says so."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import socket
import ssl
from typing import Any

from tests.eventually import eventually
from tests.system.certificates import (
    VERSIONS,
    Authority,
    Carried,
    ask,
    counters,
    listener,
    read_to_the_end,
    refusals,
    wrap,
)
from tests.system.conftest import Prepare
from tests.system.processes import count_fds
from tests.system.running import Running, exchange, receive
from tests.system.traffic import Crowd, dial

SOURCE = """
import asyncio

async def echo(conn):
    plain = conn.tls
    while (line := await conn.read_until(b"\\n")) != b"STARTTLS\\n":
        await conn.send(b"plain " + line)
    await conn.send(b"go\\n")
    await conn.start_tls()
    before = (plain, conn.peer[0], conn.id)
    await conn.send(f"{before[0]} {before[1]} {conn.tls.version} {conn.tls.alpn}\\n".encode())
    async for data in conn:
        await conn.send(b"secret " + data)

async def framed(conn):
    async for line in conn:
        if line == b"STARTTLS":
            await conn.send(b"go")
            await conn.start_tls()
        else:
            await conn.send((b"secret " if conn.tls else b"plain ") + line)

async def large(conn):
    await conn.read_exactly(5)
    conn.write(b"x" * 8_000_000)
    await conn.start_tls()
    async for data in conn:
        await conn.send(b"secret " + data)

async def impatient(conn):
    await conn.read_exactly(5)
    await conn.send(b"go\\n")
    try:
        async with conn.timeout(0.2):
            await conn.start_tls()
    except TimeoutError:
        await asyncio.sleep(0)

async def stubborn(conn):
    await conn.read_exactly(5)
    await conn.send(b"go\\n")
    try:
        await conn.start_tls()
    except OSError as error:
        with open("seen", "a") as file:
            file.write(f"{type(error).__name__} {conn.peer[0]} {conn.id}\\n")
        try:
            await conn.send(b"too late")
        except ConnectionError:
            pass
        assert await conn.read() == b""

async def twice(conn):
    await conn.read_exactly(5)
    await conn.send(b"go\\n")
    await conn.start_tls()
    await conn.start_tls()
"""
Rows = list[dict[str, Any]]


def listeners(app: str, **tls: Any) -> Rows:
    """Return a listener for an app, and one, `framed`, for lines."""
    return [
        listener("tcp://127.0.0.1:0", f"app:{app}", starttls=True, **tls),
        {**listener("tcp://127.0.0.1:0", "app:framed", starttls=True, framing="lines"), "name": "framed"},
    ]


def start(prepare: Prepare, app: str, **tls: Any) -> tuple[Running, Authority]:
    authority = Authority()
    server = prepare({"app.py": SOURCE}, workers=1, listeners=listeners(app, **tls))
    authority.issue().write(server.folder)
    return server.start(), authority


def test_plain_before_and_secret_after(prepare: Prepare) -> None:
    server, authority = start(prepare, "echo", alpn=["echo"])
    for version in VERSIONS:
        with server.connect() as sock:
            ask(sock, b"one\n", b"plain one\n")
            ask(sock, b"STARTTLS\n", b"go\n")
            with wrap(sock, authority.client(VERSIONS[version], ("echo",))) as client:
                assert client.recv(100) == f"None 127.0.0.1 {version} echo\n".encode()
                ask(client, b"two", b"secret two")
    found = counters(server)
    assert (found["accepted"], found["handshakes"], found["unsecured"], found["errors"]) == (2, 2, 0, 0)


def test_a_unix_socket_can_start_tls_too(prepare: Prepare) -> None:
    authority = Authority()
    path = f"\0prefork-starttls-{os.getpid()}"
    row = listener(f"unix://@{path[1:]}", "app:framed", starttls=True, framing="lines")
    server = prepare({"app.py": SOURCE}, workers=1, listeners=[row])
    authority.issue().write(server.folder)
    server.start()
    with dial(path) as sock:
        ask(sock, b"STARTTLS\n", b"go\n")
        with wrap(sock, authority.client()) as client:
            ask(client, b"two\n", b"secret two\n")


def test_frames_before_and_after(prepare: Prepare) -> None:
    server, authority = start(prepare, "echo")
    with server.connect("framed") as sock:
        ask(sock, b"one\nand", b"plain one\n")
        ask(sock, b" two\nSTARTTLS\n", b"plain and two\ngo\n")
        with wrap(sock, authority.client()) as client:
            for part in (b"th", b"ree\nfour\nfi", b"ve\n"):
                client.sendall(part)
            wanted = b"secret three\nsecret four\nsecret five\n"
            assert receive(client, len(wanted)) == wanted


def test_plain_bytes_behind_the_request_are_refused(prepare: Prepare) -> None:
    """Else a third party in the middle could put words into the client's mouth: CVE-2011-0411."""
    server, _ = start(prepare, "echo")
    behind = (b"x", b"MAIL FROM:<evil>\n", b"MAIL FROM:<evil>\nhal")
    for name, more in itertools.product(("echo", "framed"), behind):
        with server.connect(name) as sock:
            sock.sendall(b"STARTTLS\n" + more)
            answer = b""
            while data := sock.recv(100):
                answer += data
            assert answer in (b"go\n", b"")
    eventually(lambda: counters(server)["closed"] == 6)
    found = counters(server)
    assert (found["broken"], found["errors"], found["handshakes"]) == (6, 0, 0)
    assert len(refusals(server)) == 2
    assert all("the peer has sent plain bytes behind its request" in line for line in refusals(server))


def skip(sock: socket.socket, count: int) -> None:
    """Read so many bytes."""
    while count:
        count -= len(sock.recv(min(count, 65_536)))


def test_plain_bytes_that_come_while_the_answer_is_on_its_way_are_not_taken_for_secret(prepare: Prepare) -> None:
    server, authority = start(prepare, "large")
    answer = b""
    with server.connect() as sock, server.connect("framed") as other:
        sock.sendall(b"START")
        skip(sock, 1)
        sock.sendall(b"MAIL FROM:<evil>\n")  # a megabyte and more waits for this client still
        ask(other, b"one\n", b"plain one\n")  # so the worker has looked at what came before
        skip(sock, 8_000_000 - 1)
        with contextlib.suppress(OSError), wrap(sock, authority.client()) as client:
            answer = exchange(client, b"hello from me!")
    assert b"evil" not in answer


def test_an_answer_larger_than_all_buffers_goes_out_plain_before_tls(prepare: Prepare) -> None:
    server, authority = start(prepare, "large")
    with server.connect(timeout=3) as sock:
        sock.sendall(b"START")
        skip(sock, 8_000_000)
        with wrap(sock, authority.client()) as client:
            for _ in range(3):
                ask(client, b"hello", b"secret hello")


HANDSHAKES_THAT_FAIL = {
    "plain text": b"EHLO example.org\r\n",
    "random": bytes(range(7, 255, 3)),
    "a cut": b"",
    "half a hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


def test_a_handshake_that_fails_costs_that_connection_alone(prepare: Prepare) -> None:
    server, authority = start(prepare, "echo")
    pids = server.worker_pids()
    with server.connect() as other:
        ask(other, b"one\n", b"plain one\n")
        before = count_fds(*pids)
        for words in HANDSHAKES_THAT_FAIL.values():
            with server.connect() as sock:
                ask(sock, b"STARTTLS\n", b"go\n")
                sock.sendall(words)
                sock.shutdown(socket.SHUT_WR)
                read_to_the_end(sock)
        ask(other, b"two\n", b"plain two\n")
        eventually(lambda: counters(server)["closed"] == len(HANDSHAKES_THAT_FAIL))
        eventually(lambda: count_fds(*pids) <= before)
        found = counters(server)
        assert (found["unsecured"], found["errors"]) == (len(HANDSHAKES_THAT_FAIL), 0)
        assert refusals(server)
        ask(other, b"STARTTLS\n", b"go\n")
        with wrap(other, authority.client()) as client:
            assert b"TLSv1.3" in client.recv(100)
    assert server.worker_pids() == pids


def test_a_handler_learns_that_tls_was_not_agreed_upon(prepare: Prepare) -> None:
    server, _ = start(prepare, "stubborn")
    with server.connect() as sock:
        ask(sock, b"START", b"go\n").sendall(b"this is no TLS")
        read_to_the_end(sock)
    eventually(lambda: counters(server)["closed"] == 1)
    seen = (server.folder / "seen").read_text()
    assert re.fullmatch(r"SSLError 127\.0\.0\.1 echo-0\.g1\.\d+-1\n", seen)


def test_a_client_that_is_silent_after_its_request_is_closed_by_the_limit(prepare: Prepare) -> None:
    server, _ = start(prepare, "stubborn", limits={"handshake": "0.5s"})
    with server.connect(timeout=4) as sock:
        assert ask(sock, b"START", b"go\n").recv(100) == b""
    eventually(lambda: counters(server)["unsecured"] == 1)
    eventually(lambda: (server.folder / "seen").exists())
    assert (server.folder / "seen").read_text().startswith("TimeoutError ")
    assert "limits.handshake has passed" in refusals(server)[0]


def test_a_handler_that_gives_up_waiting_leaves_no_connection_behind(prepare: Prepare) -> None:
    server, authority = start(prepare, "impatient")
    (pid,) = server.worker_pids()
    with server.connect(timeout=4) as silent, server.connect(timeout=4) as slow:
        hello = Carried(authority.client())
        for sock in (silent, slow):
            ask(sock, b"START", b"go\n")
        before = count_fds(pid) - 2
        slow.sendall(hello.hello)
        for sock in (silent, slow):
            read_to_the_end(sock)
    eventually(lambda: server.workers()[0]["connections"] == 0)
    eventually(lambda: count_fds(pid) <= before)
    assert counters(server)["errors"] == 0


def test_what_cannot_be_done_is_told_to_the_handler(prepare: Prepare) -> None:
    server, authority = start(prepare, "twice")
    server.expected_errors += ["the app failed on connection", "Traceback"]
    with server.connect() as sock, wrap(ask(sock, b"START", b"go\n"), authority.client()) as client:
        assert client.recv(1) == b""
    eventually(lambda: "cannot start TLS: it is spoken already" in server.log())
    rows = [{**row, "tls": None} for row in listeners("twice")]
    server.configure({"workers": 1, "listeners": rows})
    assert server.reload()["verdict"] == "committed"
    with server.connect() as sock:
        assert ask(sock, b"START", b"go\n").recv(1) == b""
    eventually(lambda: "the listener has no certificate; set `tls:`" in server.log())


def test_many_that_start_at_once_are_all_served(prepare: Prepare) -> None:
    server, authority = start(prepare, "echo")
    with Crowd() as crowd:
        clients = crowd.come(("127.0.0.1", server.port("framed")), 40)
        for sock in clients:
            sock.sendall(b"STARTTLS\n")
        for sock in clients:
            assert receive(sock, 3) == b"go\n"
        carried = [Carried(authority.client()) for _ in clients]
        for sock, one in zip(clients, carried, strict=True):
            sock.sendall(one.hello)
        for sock, one in zip(clients, carried, strict=True):
            assert isinstance(one.finish(sock), ssl.SSLObject)
    eventually(lambda: counters(server)["handshakes"] == 40)
