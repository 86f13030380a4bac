"""Names of unix sockets of both kinds: what stands in the way is judged, nothing else is touched."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from prefork.address import parse_address
from prefork.config import ListenerConfig
from prefork.config.model import Socket
from prefork.errors import ListenError
from prefork.process.listener import Listener

KINDS = {"unix": socket.SOCK_STREAM, "unixgram": socket.SOCK_DGRAM, "seqpacket": socket.SOCK_SEQPACKET}
LONGEST = 107  # sun_path less its NUL, unix(7)
SCHEMES = pytest.mark.parametrize("scheme", ["unix", "unixgram"])


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose paths are short enough for sun_path, unix(7)."""
    with TemporaryDirectory(prefix="n") as name:
        yield Path(name)


def opened(bind: str, **options: object) -> Listener:
    config = ListenerConfig(bind=bind, app="a:b", name="test", socket=Socket(**options))  # type: ignore[arg-type]
    return Listener(config, parse_address(bind), 2)


def is_served(scheme: str, path: str) -> bool:
    with socket.socket(socket.AF_UNIX, KINDS[scheme]) as client:
        return client.connect_ex(path) == 0


@contextmanager
def standing(path: str, kind: str, is_live: bool) -> Iterator[None]:
    """Put a socket in the way, of a server that lives or is gone."""
    with socket.socket(socket.AF_UNIX, KINDS[kind]) as sock:
        sock.bind(path)
        if kind != "unixgram":
            sock.listen()
        if not is_live:
            sock.close()
        yield


@SCHEMES
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_dead_server_has_left_is_replaced(folder: Path, scheme: str, kind: str) -> None:
    path = f"{folder}/x.sock"
    with standing(path, kind, is_live=False), closing(opened(f"{scheme}://{path}")):
        assert is_served(scheme, path)
        assert os.listdir(folder) == ["x.sock"]
    assert os.listdir(folder) == []


@SCHEMES
@pytest.mark.parametrize("kind", KINDS)
def test_a_live_server_of_any_kind_is_refused_and_left_alone(folder: Path, scheme: str, kind: str) -> None:
    path = f"{folder}/x.sock"
    with standing(path, kind, is_live=True):
        with pytest.raises(ListenError, match="a server answers there; stop it first"):
            opened(f"{scheme}://{path}")
        with socket.socket(socket.AF_UNIX, KINDS[kind]) as client:
            assert client.connect_ex(path) == 0
        assert os.listdir(folder) == ["x.sock"]


@SCHEMES
@pytest.mark.parametrize("what", ["file", "folder", "link", "link to a socket", "link to nothing"])
def test_what_is_no_socket_is_refused_and_left_alone(folder: Path, scheme: str, what: str) -> None:
    path, target = folder / "x.sock", folder / "target"
    if what == "file":
        path.write_text("precious")
    elif what == "folder":
        path.mkdir()
    elif what == "link":
        target.write_text("precious")
    with standing(str(target), "unix", is_live=True) if what == "link to a socket" else closing(socket.socket()):
        if what.startswith("link"):
            path.symlink_to(target)
        before = sorted(os.listdir(folder))
        with pytest.raises(ListenError, match="no socket"):
            opened(f"{scheme}://{path}")
        assert sorted(os.listdir(folder)) == before


@SCHEMES
def test_files_beside_the_path_are_nobodys_business(folder: Path, scheme: str) -> None:
    path = folder / "x.sock"
    others = [f"x.sock{end}" for end in ("~", ".tmp", ".new", ".lock", f".{os.getpid()}")] + ["~x.sock", ".x.sock"]
    for name in others:
        (folder / name).write_text("precious")
    with closing(opened(f"{scheme}://{path}")):
        assert is_served(scheme, str(path))
    assert sorted(os.listdir(folder)) == sorted(others)
    assert {(folder / name).read_text() for name in others} == {"precious"}


@SCHEMES
def test_the_name_that_peers_and_apps_see_is_the_path(folder: Path, scheme: str) -> None:
    """An answer's sender is that name: a client that checks it, or answers to it, must find the server there."""
    path = f"{folder}/x.sock"
    with closing(opened(f"{scheme}://{path}")) as listener, socket.socket(socket.AF_UNIX, KINDS[scheme]) as client:
        assert listener.sockets[0].getsockname() == path
        client.connect(path)
        assert client.getpeername() == path


@SCHEMES
@pytest.mark.parametrize("size", range(100, 110))
def test_a_path_that_is_accepted_can_be_bound(folder: Path, scheme: str, size: int) -> None:
    path = f"{folder}/".ljust(size, "x")
    if size > LONGEST:
        with pytest.raises(ValueError, match="at most"):
            parse_address(f"{scheme}://{path}")
        return
    with closing(opened(f"{scheme}://{path}")):
        assert is_served(scheme, path)


@SCHEMES
@pytest.mark.parametrize("size", [1, 50, LONGEST - 1])
def test_an_abstract_name_that_is_accepted_can_be_bound(scheme: str, size: int) -> None:
    name = f"{os.getpid()}"[:size].ljust(size, "x")
    with closing(opened(f"{scheme}://@{name}")):
        assert is_served(scheme, f"\0{name}")
        with pytest.raises(ListenError, match="a server answers there; stop it first"):
            opened(f"{scheme}://@{name}")
    with pytest.raises(ConnectionRefusedError), socket.socket(socket.AF_UNIX, KINDS[scheme]) as client:
        client.connect(f"\0{name}")


def test_kinds_do_not_share_abstract_names_by_mistake() -> None:
    """One name may be bound once for connections and once for datagrams, unix(7)."""
    name = f"prefork-test-{os.getpid()}"
    with closing(opened(f"unix://@{name}")), closing(opened(f"unixgram://@{name}")):
        assert is_served("unix", f"\0{name}")
        assert is_served("unixgram", f"\0{name}")


@SCHEMES
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o777, 0o000])
def test_the_mode_is_what_the_config_says_whatever_the_umask(folder: Path, scheme: str, mode: int) -> None:
    path = folder / "x.sock"
    for umask in (0o000, 0o022, 0o077):
        before = os.umask(umask)
        try:
            with closing(opened(f"{scheme}://{path}", mode=mode)):
                assert path.stat().st_mode & 0o7777 == mode
                assert os.umask(umask) == umask
        finally:
            os.umask(before)


@SCHEMES
def test_without_a_mode_it_is_the_umasks(folder: Path, scheme: str) -> None:
    path = folder / "x.sock"
    for umask in (0o000, 0o022, 0o027, 0o077):
        before = os.umask(umask)
        try:
            with closing(opened(f"{scheme}://{path}")):
                assert path.stat().st_mode & 0o777 == 0o777 & ~umask
        finally:
            os.umask(before)


@SCHEMES
def test_an_owner_that_does_not_exist_is_named_and_nothing_is_left(folder: Path, scheme: str) -> None:
    for owner in ("nosuchuser", "root:nosuchgroup", "4294967290"):
        with pytest.raises(ListenError, match=r"nosuch|4294967290") as caught:
            opened(f"{scheme}://{folder}/x.sock", owner=owner)
        assert "owner" in str(caught.value)
        assert os.listdir(folder) == []
