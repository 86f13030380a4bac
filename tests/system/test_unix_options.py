"""Unix sockets of both kinds: who may connect, who has connected, names without a file, and the end of a path."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.eventually import eventually
from tests.system.conftest import Prepare
from tests.system.datagrams import Load, call, caller, take
from tests.system.processes import stopped
from tests.system.running import Running, exchange
from tests.system.traffic import Stream, dial

APPS = """
import os

async def stream(conn):
    async for data in conn:
        await conn.send(data)

def dgram(data, peer, reply):
    reply(data)

async def peer(conn):
    async for _ in conn:
        who = conn.peer
        await conn.send(f"{who.pid} {who.uid} {who.gid} {tuple(who)} {who[0]} {conn.local!r}".encode())
"""
SCHEMES = {"stream": "unix", "dgram": "unixgram", "peer": "unix"}
KILLED = "was ended by SIGKILL"
NOBODY = pwd.getpwnam("nobody")
IS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root can give files away and be others")

# Notes, whenever it is about to do anything, how each socket in a folder can be reached.
WATCHED = """
import os, stat, sys

folder, notes = sys.argv.pop(1), os.open(sys.argv.pop(1), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
known, is_looking = set(), []

def look(event, arguments):
    if is_looking or not event.startswith(("os.", "socket.")):
        return
    is_looking.append(True)
    try:
        for name in os.listdir(folder):
            found = os.lstat(os.path.join(folder, name))
            line = f"{stat.S_IMODE(found.st_mode):o} {found.st_uid} {found.st_gid}\\n"
            if stat.S_ISSOCK(found.st_mode) and line not in known:
                known.add(line)
                os.write(notes, line.encode())
    except OSError:
        pass
    is_looking.clear()

os.umask(0)
sys.addaudithook(look)
from prefork.cli import main
sys.exit(main())
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose paths are short enough for sun_path, unix(7), and which all may enter."""
    with TemporaryDirectory(prefix="u") as name:
        os.chmod(name, 0o755)
        yield Path(name)
        assert not os.listdir(name), "a file was left behind"


def rows(folder: Path, *names: str, **options: Any) -> list[dict[str, Any]]:
    return [
        {"name": name, "bind": f"{SCHEMES[name]}://{folder}/{name}", "app": f"app:{name}", "socket": dict(options)}
        for name in names
    ]


def serve(prepare: Prepare, listeners: list[dict[str, Any]], workers: int = 2) -> Running:
    return prepare({"app.py": APPS}, workers=workers, listeners=listeners).start()


def modes(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return mode, owner and group of each socket in a folder."""
    found = {path.name: path.lstat() for path in folder.iterdir()}
    return {name: (stat.S_IMODE(one.st_mode), one.st_uid, one.st_gid) for name, one in sorted(found.items())}


def are_served(folder: Path) -> bool:
    with dial(f"{folder}/stream") as stream, caller(f"{folder}/dgram") as dgram:
        return exchange(stream, b"hello") == call(dgram, b"hello") == b"hello"


@contextmanager
def as_nobody() -> Iterator[None]:
    os.setegid(NOBODY.pw_gid)
    os.seteuid(NOBODY.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def may_connect(path: Path, kind: int) -> bool:
    with socket.socket(socket.AF_UNIX, kind) as sock:
        try:
            sock.connect(str(path))
        except PermissionError:
            return False
    return True


# --- mode and owner ---


@needs_root
def test_the_mode_says_who_may_connect_and_a_reload_changes_it(folder: Path, prepare: Prepare) -> None:
    server = serve(prepare, rows(folder, "stream", "dgram", mode="0600"))
    kinds = {"stream": socket.SOCK_STREAM, "dgram": socket.SOCK_DGRAM}
    with as_nobody():
        assert not [name for name in kinds if may_connect(folder / name, kinds[name])]
    assert are_served(folder)
    server.configure({"listeners": rows(folder, "stream", "dgram", mode="0666")})
    assert server.reload()["verdict"] == "committed"
    assert {mode for mode, _, _ in modes(folder).values()} == {0o666}
    with as_nobody():
        assert [name for name in kinds if may_connect(folder / name, kinds[name])] == list(kinds)
        assert are_served(folder)


@needs_root
def test_the_owner_is_a_user_and_its_group_or_another(folder: Path, prepare: Prepare) -> None:
    server = serve(prepare, rows(folder, "stream", "dgram", mode="0660", owner="nobody"))
    wanted = (0o660, NOBODY.pw_uid, NOBODY.pw_gid)
    assert modes(folder) == {"dgram": wanted, "stream": wanted}
    with as_nobody():
        assert are_served(folder)
    server.configure({"listeners": rows(folder, "stream", "dgram", mode="0600", owner="root:nogroup")})
    assert server.reload()["verdict"] == "committed"
    assert set(modes(folder).values()) == {(0o600, 0, NOBODY.pw_gid)}


@needs_root
@pytest.mark.parametrize("kind", ["stream", "dgram"])
def test_nobody_may_connect_before_mode_and_owner_are_what_they_are_to_be(
    folder: Path, prepare: Prepare, kind: str
) -> None:
    """With a umask of 0 a socket is open to all from bind(2) on, unless something is done against it."""
    server = prepare(
        {"app.py": APPS, "watched.py": WATCHED}, listeners=rows(folder, kind, mode="0640", owner="nobody")
    )
    notes = server.folder / "notes"
    server.process = subprocess.Popen(
        [sys.executable, "watched.py", folder, notes, "run", "test.yaml"],
        cwd=server.folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    eventually(server.is_ready, within=30)
    seen = [
        (int(mode, 8), int(uid), int(gid)) for mode, uid, gid in map(str.split, notes.read_text().splitlines())
    ]
    wanted = (0o640, NOBODY.pw_uid, NOBODY.pw_gid)
    assert wanted in seen
    for mode, *owner in seen:
        assert mode & ~(0o640 if tuple(owner) == wanted[1:] else 0o600) == 0, seen


@needs_root
def test_a_reload_touches_no_file_that_somebody_has_put_in_the_place_of_the_socket(
    folder: Path, prepare: Prepare
) -> None:
    """Who may write to the folder, a worker's user perhaps, must not be given the files of root."""
    server = serve(prepare, rows(folder, "stream", "dgram", mode="0666", owner="nobody"))
    server.expected_errors.append("cannot set the socket options")
    precious = server.folder / "precious"
    precious.write_text("root:x:0:0")
    precious.chmod(0o600)
    for name in ("stream", "dgram"):
        (folder / name).unlink()
        (folder / name).symlink_to(precious)
    server.reload()
    eventually(lambda: len(server.workers()) == 2)
    found = precious.stat()
    for name in ("stream", "dgram"):
        (folder / name).unlink()
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o600, 0)


@pytest.mark.parametrize("owner", ["nosuchuser", "root:nosuchgroup"])
def test_an_owner_that_does_not_exist_refuses_boot_and_reload(folder: Path, prepare: Prepare, owner: str) -> None:
    fresh = prepare({"app.py": APPS}, listeners=rows(folder, "dgram", "stream", owner=owner))
    done = fresh.run("run", "test.yaml")
    assert done.returncode in (2, 3)
    assert "owner" in done.stderr + fresh.log()
    assert owner.rpartition(":")[2] in done.stderr + fresh.log()
    assert os.listdir(folder) == []
    server = serve(prepare, rows(folder, "stream", "dgram"))
    server.expected_errors += ["reload refused", owner]
    server.configure({"listeners": rows(folder, "stream", "dgram", owner=owner)})
    verdict = server.reload()
    assert verdict["verdict"] == "refused"
    assert "owner" in verdict["reason"]
    assert are_served(folder)


def test_mode_and_owner_are_refused_where_there_is_no_file(prepare: Prepare) -> None:
    binds = ["tcp://127.0.0.1:0", "udp://127.0.0.1:0", "unix://@name", "unixgram://@name", "fd://3"]
    listeners = [{"bind": bind, "app": "app:x", "socket": {"mode": "0600", "owner": "root"}} for bind in binds]
    done = prepare(listeners=listeners).run("run", "test.yaml")
    assert done.returncode == 2
    for option in ("mode", "owner"):
        assert done.stderr.count(f"{option} is for unix:// and unixgram:// listeners") == len(binds)


# --- who has connected ---


def test_a_handler_is_told_who_has_connected(folder: Path, prepare: Prepare) -> None:
    abstract = f"{folder.name}-peer"
    listeners = [*rows(folder, "peer"), {"name": "abstract", "bind": f"unix://@{abstract}", "app": "app:peer"}]
    serve(prepare, listeners)
    me = (os.getpid(), os.geteuid(), os.getegid())
    for where in (f"{folder}/peer", f"\0{abstract}"):
        with dial(where) as client:
            client.sendall(b"who")
            answer = client.recv(1000).decode()
        assert answer.startswith(f"{me[0]} {me[1]} {me[2]} {me} {me[0]} ")
        assert where.strip("\0") in answer


@needs_root
def test_another_user_is_told_apart(folder: Path, prepare: Prepare) -> None:
    serve(prepare, rows(folder, "peer", mode="0666"))
    with as_nobody(), dial(f"{folder}/peer") as client:
        client.sendall(b"who")
        assert client.recv(1000).decode().startswith(f"{os.getpid()} {NOBODY.pw_uid} {NOBODY.pw_gid} ")


# --- names without a file ---


def test_abstract_names_of_both_kinds_are_served_kept_and_given_back(prepare: Prepare) -> None:
    name = f"prefork/{os.getpid()} of-a test"
    listeners = [
        {"name": kind, "bind": f"{SCHEMES[kind]}://@{name}", "app": f"app:{kind}"} for kind in ("stream", "dgram")
    ]
    server = serve(prepare, listeners)
    server.expected_errors.append(KILLED)
    assert [row["bind"] for row in server.status()["listeners"]] == [f"unix://@{name}", f"unixgram://@{name}"]
    second = prepare({"app.py": APPS}, listeners=listeners)
    assert second.run("run", "test.yaml").returncode == 3
    with Stream(f"\0{name}") as stream, Load(f"\0{name}", 8) as load:
        for count in (3, 1):
            assert server.reload()["verdict"] == "committed"
            server.ask("scale", count=count)
            eventually(lambda: len(server.workers()) == len(server.worker_pids()) == count)  # noqa: B023
        load.wait_for_more(100)
        eventually(lambda: stream.answered > 50)
    assert (stream.failures, load.failures) == ([], [])
    assert server.stop() == 0
    with pytest.raises(ConnectionRefusedError):
        dial(f"\0{name}")
    serve(prepare, listeners)
    with dial(f"\0{name}") as client:
        assert exchange(client, b"hello") == b"hello"


# --- datagrams of a path ---


def test_the_path_of_datagrams_stays_over_reloads_and_goes_with_the_server(folder: Path, prepare: Prepare) -> None:
    server = serve(prepare, rows(folder, "dgram"), workers=3)
    server.expected_errors.append(KILLED)
    inode = os.stat(folder / "dgram").st_ino
    with Load(f"{folder}/dgram", 8) as load:
        for count in (4, 1, 2):
            assert server.reload()["verdict"] == "committed"
            server.ask("scale", count=count)
            eventually(lambda: len(server.workers()) == len(server.worker_pids()) == count)  # noqa: B023
            load.wait_for_more(100)
    assert load.failures == []
    assert os.stat(folder / "dgram").st_ino == inode
    assert server.stop() == 0
    assert os.listdir(folder) == []


def test_datagrams_that_wait_when_their_worker_is_killed_are_answered_by_another(
    folder: Path, prepare: Prepare
) -> None:
    server = serve(prepare, rows(folder, "dgram"))
    server.expected_errors.append(KILLED)
    workers = server.worker_pids()
    with caller(f"{folder}/dgram") as sock:
        with stopped(*workers):
            for number in range(8):  # of the 10 that net.unix.max_dgram_qlen lets wait
                sock.send(b"%d" % number)
            for pid in workers:
                os.kill(pid, signal.SIGKILL)
        assert take(sock, 8) == [b"%d" % number for number in range(8)]
    eventually(server.is_ready)


def test_a_server_that_ends_does_not_remove_its_successors_path(folder: Path, prepare: Prepare) -> None:
    first = serve(prepare, rows(folder, "dgram", "stream"))
    for name in ("dgram", "stream"):
        os.unlink(folder / name)
    serve(prepare, rows(folder, "dgram", "stream"))
    assert first.stop() == 0
    assert are_served(folder)


def test_a_reload_that_removes_a_path_and_one_that_brings_it_back(folder: Path, prepare: Prepare) -> None:
    server = serve(prepare, rows(folder, "stream", "dgram"))
    server.configure({"listeners": rows(folder, "stream")})
    assert server.reload()["verdict"] == "committed"
    eventually(lambda: os.listdir(folder) == ["stream"])
    server.configure({"listeners": rows(folder, "stream", "dgram", mode="0600")})
    assert server.reload()["verdict"] == "committed"
    assert are_served(folder)
    assert {mode for mode, _, _ in modes(folder).values()} == {0o600}
