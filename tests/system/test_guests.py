"""Libraries of asyncio run unchanged in a worker, and their sessions outlive a reload."""

from __future__ import annotations

import hashlib
import random
import shutil
import signal
import smtplib
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosedOK
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as connect_websocket

from tests.eventually import eventually
from tests.system import guests
from tests.system.conftest import Prepare
from tests.system.guests import Guest, certify, serve_tls
from tests.system.processes import is_gone
from tests.system.running import Running, receive
from tests.system.sources import noted
from tests.system.traffic import Stream, dial

MIB = 1 << 20
NOISE = random.Random(7).randbytes(MIB)  # no compression makes it shorter
SECONDS = 30.0  # that a client waits for an answer on a busy machine
ERRANDS = ("serve", "run", "think", "wait", "share", "fail", "resolve", "call", "upgrade")

Host = Callable[[Guest], Running]
Meanwhile = Callable[[], None]
Ask = Callable[[Meanwhile], str]  # asks for the server's word, and does something in the middle of the question
Session = Callable[[Running], AbstractContextManager[Ask]]


@pytest.fixture(scope="module")
def certificates() -> dict[str, str]:
    return certify()


@pytest.fixture
def host(prepare: Prepare, certificates: dict[str, str]) -> Host:
    """Start a server with a guest that says `old`; what the guest leaves unclosed is an error."""

    def _host(guest: Guest) -> Running:
        server = prepare({"app.py": guest.saying("old"), **certificates}, **guest.config())
        return server.start(environ={"PYTHONWARNINGS": "default::ResourceWarning"})

    return _host


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[None]:
    """Run a Redis on a unix socket beside the folders of the servers."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    path = tmp_path / "redis.sock"
    options = ["--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(tmp_path)]
    process = subprocess.Popen([program, *options], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        eventually(lambda: path.exists() or process.poll() is not None, within=SECONDS)
        assert process.poll() is None, f"redis-server left with status {process.returncode}"
        yield
    finally:
        process.terminate()
        assert process.wait(SECONDS) == 0


# --- clients ---


def open_mail(server: Running, is_secret: bool = False) -> smtplib.SMTP:
    client = smtplib.SMTP("127.0.0.1", server.port("guest"), local_hostname="localhost", timeout=SECONDS)
    if is_secret:
        client.starttls(context=ssl.create_default_context(cafile=str(server.folder / "ca.pem")))
    client.ehlo()
    return client


def address(client: smtplib.SMTP) -> None:
    assert client.mail("sender@example.org")[0] == 250
    assert client.rcpt("receiver@example.org")[0] == 250


def deliver(client: smtplib.SMTP, mail: bytes) -> list[str]:
    """Send a mail; return the server's word, how it came, and its digest."""
    address(client)
    code, answer = client.data(mail)
    assert code == 250, answer
    return answer.decode().split()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextmanager
def mail_session(server: Running, is_secret: bool = False) -> Iterator[Ask]:
    def ask(meanwhile: Meanwhile) -> str:
        address(client)
        assert client.docmd("DATA")[0] == 354
        client.send(b"Subject: hello\r\n\r\nhel")
        meanwhile()
        client.send(b"lo\r\n.\r\n")
        return client.getreply()[1].decode().split()[0]

    with open_mail(server, is_secret) as client:
        yield ask
        assert client.quit()[0] == 221


@contextmanager
def open_websocket(server: Running) -> Iterator[ClientConnection]:
    """Return a client; it is closed with a handshake that the server has to answer."""
    open_client = partial(connect_websocket, open_timeout=SECONDS, close_timeout=SECONDS, max_size=2 * MIB)
    with open_client("ws://localhost/", sock=server.connect("guest", SECONDS)) as client:
        yield client
    assert client.protocol.close_code in (1000, 1001)


def say(client: ClientConnection, message: str | bytes) -> str | bytes:
    client.send(message)
    return client.recv(SECONDS)


@contextmanager
def websocket_session(server: Running) -> Iterator[Ask]:
    def ask(meanwhile: Meanwhile) -> str:
        client.send(fragments(meanwhile))
        return str(client.recv(SECONDS))

    def fragments(meanwhile: Meanwhile) -> Iterator[str]:
        yield "wh"
        meanwhile()
        yield "o?"

    with open_websocket(server) as client:
        yield ask


class Lines:
    """A client that sends a line and gets one."""

    def __init__(self, server: Running, newline: bytes = b"\n") -> None:
        self.socket = server.connect("guest", SECONDS)
        self._newline = newline
        self._input = self.socket.makefile("rb")

    def send(self, line: str) -> None:
        self.socket.sendall(line.encode() + self._newline)

    def take(self) -> str:
        return self._input.readline().decode().rstrip("\n")

    def ask(self, line: str = "who?") -> str:
        self.send(line)
        return self.take()

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Say that there is no more, and see the server agree."""
        with self.socket, self._input:
            if kind is None:
                self.socket.shutdown(socket.SHUT_WR)
                assert self._input.read() == b""


@contextmanager
def lines_session(server: Running, question: str = "who?\n") -> Iterator[Ask]:
    def ask(meanwhile: Meanwhile) -> str:
        client.socket.sendall(question[:2].encode())
        meanwhile()
        client.socket.sendall(question[2:].encode())
        return client.take().split()[0]

    with Lines(server) as client:
        yield ask


def record(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


# --- SMTP: aiosmtpd ---


@pytest.mark.parametrize("is_secret", [False, True], ids=["plain", "starttls"])
def test_mails_arrive_whole(host: Host, is_secret: bool) -> None:
    server = host(guests.MAIL)
    way = "secretly" if is_secret else "plainly"
    with open_mail(server, is_secret) as client:
        line = b"x" * 62 + b"\r\n"
        for mail in (b"Subject: hello\r\n\r\n.\r\n..hidden dots\r\n", line * (MIB // len(line)), b"\r\n"):
            assert deliver(client, mail) == ["old", way, digest(mail)]
        assert client.quit() == (221, b"Bye")


def test_a_session_is_plain_or_secret_whatever_its_neighbours_are(host: Host) -> None:
    server = host(guests.MAIL)
    mail = b"Subject: hello\r\n\r\n" + b"line\r\n" * 1000
    with ExitStack() as stack:
        clients = [stack.enter_context(open_mail(server, is_secret)) for is_secret in (True, False) * 5]
        answers = [deliver(client, mail) for client in clients]
    assert answers == [["old", way, digest(mail)] for way in ("secretly", "plainly")] * 5


# --- WebSocket: websockets ---


def test_a_websocket_carries_text_binary_and_large_messages(host: Host) -> None:
    server = host(guests.WEBSOCKET)
    with open_websocket(server) as client:
        for message in ("hello", "grüß dich 🐍", b"\0\1\2", "", "x" * MIB, NOISE):
            assert say(client, message) == message
        assert client.ping().wait(SECONDS)
        assert say(client, b"after the ping") == b"after the ping"


def test_a_websocket_is_closed_by_either_side_with_a_handshake(host: Host) -> None:
    server = host(guests.WEBSOCKET)
    with open_websocket(server) as client:
        client.close(1000, "I am done")
        assert client.protocol.close_rcvd is not None
        assert (client.protocol.close_rcvd.code, client.protocol.close_rcvd_then_sent) == (1000, False)
    with open_websocket(server) as client, pytest.raises(ConnectionClosedOK, match="bye"):
        say(client, "bye")


def test_a_websocket_that_looks_at_drains_says_goodbye_with_1001(host: Host) -> None:
    server = host(guests.POLITE_WEBSOCKET)
    with open_websocket(server) as client:
        assert say(client, "who?") == "old"
        reload(server, guests.POLITE_WEBSOCKET)
        with pytest.raises(ConnectionClosedOK, match="the server has new code"):
            client.recv(SECONDS)
        assert client.protocol.close_code == 1001


# --- Redis: redis-py ---


@pytest.mark.usefixtures("redis_server")
def test_a_pool_that_is_opened_in_the_lifespan_serves_all_handlers_of_a_worker(host: Host) -> None:
    server = host(guests.STORE)
    with ExitStack() as stack:
        clients = [stack.enter_context(Lines(server)) for _ in range(20)]
        for client in clients:
            client.send("count visits")
        assert sorted(int(client.take()) for client in clients) == list(range(1, 21))
        for client in clients:
            client.send("wait presents")
        with Lines(server) as giver:
            for _ in clients:
                giver.ask("push presents")
        assert [client.take() for client in clients] == ["a present"] * 20
        assert clients[0].ask("keep treasure") == "True"


@pytest.mark.usefixtures("redis_server")
def test_a_handler_hears_what_another_publishes(host: Host) -> None:
    server = host(guests.STORE)
    with Lines(server) as hearer, Lines(server) as speaker:
        assert hearer.ask("hear the radio") == "subscribe"
        assert speaker.ask("publish the radio") == "1"
        assert [hearer.take(), hearer.take()] == ["message", "the news"]
        assert hearer.ask("count visits") == "1"


# --- what libraries are built on: asyncio's own ---


def test_what_asyncio_gives_to_libraries_works_in_a_handler(host: Host) -> None:
    server = host(guests.ERRANDS)
    with serve_tls(server.folder / "server.pem") as port, Lines(server) as client:
        assert {errand: client.ask(f"{errand} {port}") for errand in ERRANDS} == dict.fromkeys(ERRANDS, "True")


def test_all_of_it_at_once_disturbs_nobody(host: Host) -> None:
    server = host(guests.ERRANDS)
    with Stream(("127.0.0.1", server.port("echo"))) as stream, ExitStack() as stack:
        port = stack.enter_context(serve_tls(server.folder / "server.pem"))
        clients = [stack.enter_context(Lines(server)) for _ in range(len(ERRANDS))]
        for turn in range(len(ERRANDS)):
            for number, client in enumerate(clients):
                client.send(f"{ERRANDS[(turn + number) % len(ERRANDS)]} {port}")
        for client in clients:
            assert [client.take() for _ in ERRANDS] == ["True"] * len(ERRANDS)
        eventually(lambda: stream.answered > 10)
    assert not stream.failures


# --- a BufferedProtocol, and asyncio's streams ---


def test_a_buffered_protocol_gets_each_byte_into_the_buffer_that_it_named(host: Host) -> None:
    server = host(guests.BUFFERED)
    records = [b"x", NOISE, b"hello", NOISE[:65_537], NOISE[:65_536]]
    with Lines(server) as client:
        for data in records:
            client.socket.sendall(record(data))
            assert client.take() == f"old {digest(data)}"
        client.socket.sendall(b"".join(map(record, records)))
        assert [client.take() for _ in records] == [f"old {digest(data)}" for data in records]
        for number in record(b"byte by byte"):
            client.socket.sendall(bytes([number]))
        assert client.take() == f"old {digest(b'byte by byte')}"


def test_streams_read_until_a_mark_and_so_many_bytes(host: Host) -> None:
    server = host(guests.STREAMS)
    with Lines(server, b"\r\n") as client:
        client.send(f"take {MIB}")
        client.socket.sendall(NOISE + b"who?\r\nta")
        assert [client.take(), client.take()] == [digest(NOISE), "old"]
        client.socket.sendall(b"ke 3\r\n\r\n\r")
        assert client.take() == digest(b"\r\n\r")


def test_drain_waits_for_a_slow_client(host: Host) -> None:
    server = host(guests.STREAMS)
    with Lines(server, b"\r\n") as client:
        client.send("give")
        eventually(lambda: noted(server.folder, "full"), within=SECONDS)
        given = client.take()
        sent, peak, left = map(int, client.take().split())
        assert len(given) == sent
        assert 65_536 < peak <= 2 * 65_536
        assert left <= 65_536
        assert noted(server.folder, "full") == "+"


def test_write_eof_ends_one_half_and_the_other_goes_on(host: Host) -> None:
    server = host(guests.STREAMS)
    with dial(("127.0.0.1", server.port("guest")), SECONDS) as client:
        client.sendall(b"bye\r\n")
        assert receive(client, 100) == b"bye\n"
        client.sendall(NOISE)
        client.shutdown(socket.SHUT_WR)
        eventually(lambda: noted(server.folder, "rest"), within=SECONDS)
    assert noted(server.folder, "rest") == str(MIB)


# --- reload ---


def reload(server: Running, guest: Guest) -> None:
    """Reload by a signal, with new code."""
    server.write("app.py", guest.saying("new"))
    server.send(signal.SIGHUP)
    verdict = eventually(lambda: server.status()["last_reload"]["verdict"], within=SECONDS)
    assert verdict == "committed", server.log()


SESSIONS: dict[str, tuple[Guest, Session]] = {
    "mail": (guests.MAIL, mail_session),
    "secret mail": (guests.MAIL, partial(mail_session, is_secret=True)),
    "websocket": (guests.WEBSOCKET, websocket_session),
    "errands": (guests.ERRANDS, lines_session),
    "buffered": (guests.BUFFERED, partial(lines_session, question="\0\0\0\4who?")),
    "streams": (guests.STREAMS, partial(lines_session, question="who?\r\n")),
}


def nothing() -> None:
    pass


def check_reload(server: Running, guest: Guest, session: Session) -> None:
    old = server.worker_pids()
    with session(server) as ask:
        assert ask(nothing) == "old"
        assert ask(lambda: reload(server, guest)) == "old"
        with session(server) as ask_again:
            assert ask_again(nothing) == "new"
            assert ask(nothing) == "old"
    eventually(lambda: all(map(is_gone, old)), within=SECONDS)
    with session(server) as ask:
        assert ask(nothing) == "new"


@pytest.mark.parametrize("name", SESSIONS)
def test_a_session_outlives_a_reload_and_the_next_is_served_by_new_code(host: Host, name: str) -> None:
    guest, session = SESSIONS[name]
    check_reload(host(guest), guest, session)


@pytest.mark.usefixtures("redis_server")
def test_a_pool_serves_old_sessions_while_the_next_generation_has_its_own(host: Host) -> None:
    check_reload(host(guests.STORE), guests.STORE, lines_session)
