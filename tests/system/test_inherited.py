"""Sockets that were opened by who starts the server: by number, by systemd's names, held by nobody else."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.eventually import eventually
from tests.system.conftest import Prepare
from tests.system.datagrams import Flows, Load, call, caller
from tests.system.processes import find, stopped
from tests.system.running import Running, exchange
from tests.system.traffic import Crowd, Stream, answers, dial, send_all

KILLED = "was ended by SIGKILL"
APPS = """
import os, subprocess, sys

LIST = \"\"\"
import os
for name in os.listdir("/proc/self/fd"):
    if os.path.exists(f"/proc/self/fd/{name}"):
        print(os.readlink(f"/proc/self/fd/{name}"))
\"\"\"

async def stream(conn):
    async for data in conn:
        await conn.send(data)

def dgram(data, peer, reply):
    reply(data)

async def children(conn):
    async for _ in conn:
        done = subprocess.run([sys.executable, "-c", LIST], close_fds=False, capture_output=True, check=True)
        await conn.send(done.stdout)

async def mine(conn):
    async for _ in conn:
        names = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
        await conn.send(" ".join(os.readlink(name) for name in names if os.path.exists(name)).encode())
"""

# Puts descriptors at the numbers from 3 on, as sd_listen_fds(3) wants them, and becomes the server.
STARTER = """
import fcntl, os, sys

fds, pid, *command = sys.argv[1:]
high = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 500) for fd in fds.split(",") if fd]
os.closerange(3, 500)
for place, fd in enumerate(high):
    os.dup2(fd, 3 + place, True)
os.closerange(500, 600)
if pid:
    os.environ["LISTEN_PID"] = str(os.getpid()) if pid == "mine" else pid
os.execv(sys.executable, [sys.executable, "-m", "prefork", *command])
"""


class Given:
    """Sockets of a starter: one of each kind."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.path = f"{folder}/given"
        self.tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=512))
        self.unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        self.unix.bind(self.path)
        self.unix.listen(512)
        self.udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.udp.bind(("127.0.0.1", 0))

    @property
    def all(self) -> list[socket.socket]:
        return [self.tcp, self.unix, self.udp]

    def inodes(self) -> set[str]:
        return {os.readlink(f"/proc/self/fd/{sock.fileno()}") for sock in self.all}


@pytest.fixture
def given() -> Iterator[Given]:
    with TemporaryDirectory(prefix="i") as name, ExitStack() as stack:
        yield Given(Path(name), stack)


def launch(server: Running, sockets: Sequence[socket.socket], pid: str = "", **environ: str) -> None:
    """Start a server that inherits sockets, from descriptor 3 on.

    Args:
        pid: for LISTEN_PID; "mine" is the server's own.
        environ: further variables.
    """
    fds = [sock.fileno() for sock in sockets]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LISTEN_")}
    server.process = subprocess.Popen(
        [sys.executable, "-c", STARTER, ",".join(map(str, fds)), pid, "run", "test.yaml"],
        cwd=server.folder,
        env={**clean, "PYTHONPATH": str(Path(__file__).parents[2]), **environ},
        pass_fds=fds,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start(server: Running, sockets: Sequence[socket.socket], pid: str = "", **environ: str) -> Running:
    """Start a server that inherits sockets; wait until it serves."""
    launch(server, sockets, pid, **environ)
    process = server.process
    assert process is not None
    eventually(lambda: process.poll() is not None or server.is_ready(), within=30)
    assert process.poll() is None, server.output()
    return server


def refusal(server: Running, sockets: Sequence[socket.socket], pid: str = "", **environ: str) -> str:
    """Start a server that cannot; return the one line that it says."""
    server.expected_errors.append("exit")
    launch(server, sockets, pid, **environ)
    assert server.process is not None
    assert server.process.stdout is not None
    output = server.process.communicate(timeout=20)[0]
    assert server.process.returncode == 3, output
    lines = output.splitlines()
    assert len(lines) == 1, output
    return str(lines[0])


def rows(**apps: str) -> list[dict[str, Any]]:
    """Return listeners from what stands behind fd:// and the app."""
    return [{"name": f"l{name}", "bind": f"fd://{name}", "app": f"app:{app}"} for name, app in apps.items()]


NUMBERS: Mapping[str, str] = {"3": "stream", "4": "stream", "5": "dgram"}


def prepare_given(prepare: Prepare, workers: int = 2) -> Running:
    return prepare({"app.py": APPS}, workers=workers, listeners=rows(**NUMBERS))


def are_served(given: Given) -> bool:
    with (
        dial(given.tcp.getsockname()) as tcp,
        dial(given.path) as unix,
        caller(given.udp.getsockname()) as udp,
    ):
        return exchange(tcp, b"hello") == exchange(unix, b"hello") == call(udp, b"hello") == b"hello"


# --- by number ---


def test_sockets_of_each_kind_are_served_by_their_numbers(prepare: Prepare, given: Given) -> None:
    server = start(prepare_given(prepare), given.all)
    for _ in range(10):
        assert are_served(given)
    assert [row["bind"] for row in server.status()["listeners"]] == ["fd://3", "fd://4", "fd://5"]
    assert "lists" not in server.log()
    assert server.stop() == 0
    assert os.path.exists(given.path)  # it is not the server's to remove


def test_all_workers_serve_what_was_inherited(prepare: Prepare, given: Given) -> None:
    server = start(prepare_given(prepare), given.all)
    for pid in server.worker_pids():
        with stopped(pid), Crowd() as crowd:
            assert answers(send_all(crowd.come(given.tcp.getsockname(), 20)), 5) == [b"hello"] * 20
            assert answers(send_all(crowd.come(given.path, 20)), 5) == [b"hello"] * 20


def test_reloads_scales_and_crashes_lose_nothing(prepare: Prepare, given: Given) -> None:
    server = start(prepare_given(prepare), given.all)
    server.expected_errors.append(KILLED)
    with (
        Stream(given.tcp.getsockname()) as tcp,
        Stream(given.path) as unix,
        Load(given.udp.getsockname(), 40) as udp,
    ):
        for count in (3, 1, 2):
            assert server.reload()["verdict"] == "committed"
            server.ask("scale", count=count)
            eventually(lambda: len(server.workers()) == len(server.worker_pids()) == count)  # noqa: B023
            udp.wait_for_more(200)
        eventually(lambda: tcp.answered > 50 and unix.answered > 50)
    assert (tcp.failures, unix.failures, udp.failures) == ([], [], [])
    workers = server.worker_pids()
    with Crowd() as crowd, Flows(given.udp.getsockname(), 100) as flows:
        with stopped(*workers):
            clients = send_all(crowd.come(given.tcp.getsockname(), 50)), send_all(crowd.come(given.path, 50))
            flows.send(b"hello")
            for pid in workers:
                os.kill(pid, signal.SIGKILL)
        for some in clients:
            assert answers(some, 5) == [b"hello"] * 50
        assert flows.take() == [b"hello"] * 100
    eventually(server.is_ready)


def test_what_comes_after_the_end_waits_for_the_next_server(prepare: Prepare, given: Given) -> None:
    """That is why somebody else holds the sockets: a restart refuses nobody."""
    server = start(prepare_given(prepare), given.all)
    assert are_served(given)
    assert server.stop() == 0
    with Crowd() as crowd, Flows(given.udp.getsockname(), 20) as flows:
        clients = send_all(crowd.come(given.tcp.getsockname(), 20)), send_all(crowd.come(given.path, 20))
        flows.send(b"hello")
        start(prepare_given(prepare), given.all)
        for some in clients:
            assert answers(some, 5) == [b"hello"] * 20
        assert flows.take() == [b"hello"] * 20


def test_new_connections_during_a_stop_wait_for_the_next_server(prepare: Prepare, given: Given) -> None:
    server = start(prepare_given(prepare), given.all)
    with Stream(given.tcp.getsockname()) as tcp, Stream(given.path) as unix:
        eventually(lambda: tcp.answered > 20 and unix.answered > 20)
        assert server.stop() == 0
        start(prepare_given(prepare), given.all)
        wanted = tcp.answered + 20, unix.answered + 20
        eventually(lambda: tcp.answered > wanted[0] and unix.answered > wanted[1])
    assert (tcp.failures, unix.failures) == ([], [])


def test_a_reload_may_add_and_remove_what_was_inherited(prepare: Prepare, given: Given) -> None:
    server = prepare({"app.py": APPS}, listeners=rows(**{"3": "stream"}))
    start(server, given.all)
    server.configure({"listeners": rows(**{"4": "stream", "5": "dgram"})})
    assert server.reload()["verdict"] == "committed"
    with dial(given.path) as unix, caller(given.udp.getsockname()) as udp:
        assert exchange(unix, b"hello") == call(udp, b"hello") == b"hello"
    server.configure({"listeners": rows(**NUMBERS)})
    assert server.reload()["verdict"] == "committed"
    assert are_served(given)


# --- by name ---


def test_sockets_are_served_by_the_names_that_systemd_gives(prepare: Prepare, given: Given) -> None:
    server = prepare({"app.py": APPS}, listeners=rows(web="stream", local="stream", metrics="dgram"))
    start(server, given.all, "mine", LISTEN_FDS="3", LISTEN_FDNAMES="web:local:metrics")
    assert are_served(given)
    assert server.reload()["verdict"] == "committed"
    assert are_served(given)
    assert [row["bind"] for row in server.status()["listeners"]] == ["fd://web", "fd://local", "fd://metrics"]


def test_numbers_and_names_may_be_mixed(prepare: Prepare, given: Given) -> None:
    server = prepare({"app.py": APPS}, listeners=rows(**{"web": "stream", "4": "stream", "metrics": "dgram"}))
    start(server, given.all, "mine", LISTEN_FDS="3", LISTEN_FDNAMES="web:local:metrics")
    assert are_served(given)


REFUSED: Mapping[str, tuple[str, dict[str, str], str]] = {
    "no such name": ("mine", {"LISTEN_FDS": "3", "LISTEN_FDNAMES": "web:local:metrics"}, "metrics"),
    "for another process": ("1", {"LISTEN_FDS": "3", "LISTEN_FDNAMES": "nosuch:b:c"}, "fd://nosuch"),
    "fewer than named": ("mine", {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "web:nosuch"}, "web"),
    "no names": ("mine", {"LISTEN_FDS": "3"}, "fd://nosuch"),
    "no number": ("mine", {"LISTEN_FDS": "many", "LISTEN_FDNAMES": "nosuch"}, "fd://nosuch"),
    "a negative number": ("mine", {"LISTEN_FDS": "-3", "LISTEN_FDNAMES": "nosuch"}, "fd://nosuch"),
    "a huge number": ("mine", {"LISTEN_FDS": "9" * 30, "LISTEN_FDNAMES": "web"}, "fd://nosuch"),
    "more than there are": ("mine", {"LISTEN_FDS": "9", "LISTEN_FDNAMES": ":::::::nosuch:"}, "fd://nosuch"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_name_that_was_not_given_is_refused_in_one_line(prepare: Prepare, given: Given, name: str) -> None:
    pid, environ, word = REFUSED[name]
    server = prepare({"app.py": APPS}, listeners=rows(nosuch="stream"), log={"format": "text"})
    line = refusal(server, given.all, pid, **environ)
    assert word in line
    assert "fd://nosuch" in line


# --- what cannot be served ---


def unfit(kind: str, stack: ExitStack) -> socket.socket:
    """Return a socket that no server can serve."""
    if kind == "connected":
        one, other = socket.socketpair()
        stack.enter_context(one)
        return stack.enter_context(other)
    if kind == "packets":
        sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        sock.bind("")
        sock.listen()
        return sock
    sock = stack.enter_context(socket.socket())
    sock.bind(("127.0.0.1", 0))
    return sock


@pytest.mark.parametrize("kind", ["bound", "connected", "packets"])
def test_a_socket_that_cannot_be_served_is_refused_in_one_line(prepare: Prepare, kind: str) -> None:
    server = prepare({"app.py": APPS}, listeners=rows(**{"3": "stream"}), log={"format": "text"})
    with ExitStack() as stack:
        assert "cannot serve fd://3" in refusal(server, [unfit(kind, stack)])


@pytest.mark.parametrize("number", [0, 2, 3, 4, 5, 1023, 10**20])
def test_a_number_that_is_no_inherited_socket_is_refused_in_one_line(prepare: Prepare, number: int) -> None:
    """Not even one that the server has opened for itself by then."""
    server = prepare({"app.py": APPS}, listeners=rows(**{str(number): "stream"}), log={"format": "text"})
    assert f"cannot serve fd://{number}" in refusal(server, [])


def test_a_reload_refuses_what_the_master_has_opened_for_itself(prepare: Prepare, given: Given) -> None:
    server = start(prepare_given(prepare), given.all)
    server.expected_errors.append("reload refused")
    own = sorted(int(name) for name in server.open_fds() if int(name) > 5)
    assert own
    for number in own:
        server.configure({"listeners": rows(**NUMBERS, **{str(number): "stream"})})
        verdict = server.reload()
        assert verdict["verdict"] == "refused", server.open_fds()[str(number)]
        assert f"fd://{number}" in verdict["reason"]
    assert are_served(given)


@pytest.mark.parametrize("more", [{"framing": "lines"}, {"tls": {"cert": "cert.pem"}}], ids=["framing", "tls"])
def test_what_is_not_for_datagrams_is_refused_on_an_inherited_socket_too(
    prepare: Prepare, given: Given, more: dict[str, Any]
) -> None:
    (row,) = rows(**{"3": "dgram"})
    server = prepare({"app.py": APPS}, listeners=[{**row, **more}], log={"format": "text"})
    server.expected_errors.append("exit")
    launch(server, [given.udp])
    assert server.process is not None
    output = server.process.communicate(timeout=20)[0]
    assert server.process.returncode in (2, 3), output
    assert "Traceback" not in output
    assert next(iter(more)) in output.lower()


@pytest.mark.parametrize(("number", "app"), [("3", "dgram"), ("5", "stream")])
def test_an_app_of_the_wrong_kind_is_refused(prepare: Prepare, given: Given, number: str, app: str) -> None:
    server = prepare({"app.py": APPS}, listeners=rows(**{number: app}), log={"format": "text"})
    server.expected_errors.append("exit")
    launch(server, given.all)
    assert server.process is not None
    output = server.process.communicate(timeout=20)[0]
    assert server.process.returncode == 3, output
    assert f"cannot serve app app:{app}" in output


def test_a_check_needs_no_inherited_socket(prepare: Prepare) -> None:
    server = prepare({"app.py": APPS}, listeners=rows(**NUMBERS, web="stream"))
    done = server.run("check", "test.yaml")
    assert (done.returncode, done.stderr) == (0, "")


# --- who holds what ---


def only(pids: list[int]) -> list[int]:
    """Return a list of one; for others, as while a worker is on its way and still has its parent's title, none."""
    return pids if len(pids) == 1 else []


def test_nobody_holds_what_is_not_his(prepare: Prepare, given: Given) -> None:
    """The listed sockets are served; one more was passed that no listener names."""
    with socket.create_server(("127.0.0.1", 0)) as spare:
        server = prepare({"app.py": APPS}, listeners=rows(**{"3": "children", "4": "mine"}))
        start(server, [*given.all, spare], "mine", LISTEN_FDS="4", LISTEN_FDNAMES="a:b:c:d")
        unwanted = {f"/proc/self/fd/{sock.fileno()}" for sock in (given.udp, spare)}
        inodes = {os.readlink(name) for name in unwanted}
        (mold,) = eventually(lambda: only(find(server.descendants(), "prefork: mold")))
        for pid in (mold, *server.worker_pids()):
            held = {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()}
            assert not held & inodes, pid
            assert not (pid == mold and held & given.inodes())
        with dial(given.tcp.getsockname()) as client:
            client.sendall(b"?")
            listed = client.recv(65_536).decode()
        assert not set(listed.split()) & (given.inodes() | inodes)
        with dial(given.path) as client:
            client.sendall(b"?")
            assert not set(client.recv(65_536).decode().split()) & inodes
