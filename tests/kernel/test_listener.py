"""Listening sockets: a second server is refused, slots are added, unix paths are taken over or left alone."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from prefork.address import parse_address
from prefork.config import ListenerConfig
from prefork.config.model import Socket
from prefork.errors import ListenError
from prefork.process.binding import refuse_live
from prefork.process.listener import Listener


def opened(bind: str, slots: int = 2, options: Socket | None = None) -> Listener:
    return Listener(config_of(bind, options), parse_address(bind), slots)


def config_of(bind: str, options: Socket | None = None) -> ListenerConfig:
    return ListenerConfig(bind=bind, app="a:b", name="test", socket=options or Socket())


@pytest.fixture(params=["tcp://127.0.0.1:0", "tcp://[::1]:0"])
def listener(request: pytest.FixtureRequest) -> Iterator[Listener]:
    with closing(opened(request.param, 3)) as made:
        yield made


def test_every_slot_has_a_socket_on_one_port(listener: Listener) -> None:
    ports = {sock.getsockname()[1] for sock in listener.sockets}
    assert len(listener.sockets) == 3
    assert ports == {listener.bound.port}
    assert listener.bound.port > 0


def test_a_second_server_on_the_same_address_is_refused(listener: Listener) -> None:
    """SO_REUSEPORT alone would let it join, and take half of the connections."""
    with pytest.raises(ListenError, match="in use"):
        opened(str(listener.bound))


def test_an_address_is_free_again_when_its_listener_is_closed(listener: Listener) -> None:
    bind = str(listener.bound)
    client = socket.create_connection(listener.sockets[0].getsockname()[:2], 5)
    listener.close()
    client.close()
    opened(bind).close()


def test_slots_are_added_in_order_and_those_that_are_there_stay(listener: Listener) -> None:
    before = [sock.fileno() for sock in listener.sockets]
    listener.grow(5, config_of(str(listener.address)))
    listener.grow(2, config_of(str(listener.address)))
    assert [sock.fileno() for sock in listener.sockets[:3]] == before
    assert len({sock.getsockname()[1] for sock in listener.sockets}) == 1
    assert len(listener.sockets) == 5


def test_a_slot_that_is_added_gets_connections_and_a_parked_one_can_be_closed(listener: Listener) -> None:
    if not listener.steer((2,), 3):
        pytest.skip("this kernel refuses SO_ATTACH_REUSEPORT_CBPF")
    where = listener.sockets[0].getsockname()[:2]
    with socket.create_connection(where, 5):
        assert select.select(listener.sockets, [], [], 5)[0] == [listener.sockets[2]]
        assert not listener.is_queue_empty()
        listener.sockets[2].accept()[0].close()
    assert listener.is_queue_empty()
    assert not listener.is_parked
    listener.steer((0, 1), 2)
    assert listener.is_parked
    listener.shrink()
    with socket.create_connection(where, 5):
        assert select.select(listener.sockets, [], [], 5)[0][0] in listener.sockets


def test_the_options_of_the_config_are_set_and_inherited() -> None:
    options = Socket(nodelay=True, keepalive=61.0, user_timeout=2.5)
    with closing(opened("tcp://127.0.0.1:0", 1, options)) as listener:
        (sock,) = listener.sockets
        with socket.create_connection(sock.getsockname(), 5):
            select.select([sock], [], [], 5)
            accepted, _ = sock.accept()
            with accepted:
                tcp = socket.IPPROTO_TCP
                assert accepted.getsockopt(tcp, socket.TCP_NODELAY) == 1
                assert accepted.getsockopt(tcp, socket.TCP_KEEPIDLE) == 61
                assert accepted.getsockopt(tcp, socket.TCP_USER_TIMEOUT) == 2500
        listener.configure(config_of(str(listener.address), Socket(nodelay=False, keepalive=0.0)))
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0


def test_ipv6_takes_no_ipv4_so_that_both_can_be_bound() -> None:
    with closing(opened("tcp://[::]:0", 1)) as six:
        port = six.bound.port
        try:
            four = opened(f"tcp://0.0.0.0:{port}", 1)
        except ListenError:
            pytest.skip("somebody else has that port on IPv4")
        four.close()


@pytest.mark.parametrize(
    ("bind", "words"),
    [("tcp://192.0.2.1:0", "no interface"), ("tcp://no-such-host.invalid:1", "has no address")],
)
def test_an_address_that_cannot_be_bound_is_named_with_the_cure(bind: str, words: str) -> None:
    with pytest.raises(ListenError, match=words) as caught:
        opened(bind)
    assert bind in str(caught.value)


# --- unix ---


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "x.sock")


def test_a_unix_path_appears_only_when_it_answers_and_goes_with_its_listener(path: str) -> None:
    listener = opened(f"unix://{path}", 4)
    assert len(listener.sockets) == 1
    assert listener.is_shared
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
    assert os.listdir(os.path.dirname(path)) == ["x.sock"]
    listener.close()
    assert os.listdir(os.path.dirname(path)) == []


def test_a_stale_unix_path_is_replaced(path: str) -> None:
    """Regression 26."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
        dead.listen()
    with closing(opened(f"unix://{path}")), socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


def test_a_live_unix_path_is_refused_and_left_alone(path: str) -> None:
    with closing(opened(f"unix://{path}")):
        with pytest.raises(ListenError, match="a server answers there"):
            opened(f"unix://{path}")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)


def test_a_live_server_whose_queue_is_full_is_not_taken_for_dead(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(path)
        live.listen(0)
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(5)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(path)
        with pytest.raises(ListenError, match="a server answers there"):
            refuse_live(parse_address(f"unix://{path}"), socket.SOCK_STREAM)
        for client in waiting:
            client.close()


def test_a_file_that_is_no_socket_is_refused_and_left_alone(path: str) -> None:
    Path(path).write_text("precious")
    with pytest.raises(ListenError, match="no socket"):
        opened(f"unix://{path}")
    assert Path(path).read_text() == "precious"


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ListenError, match="No such file"):
        opened(f"unix://{tmp_path}/missing/x.sock")
    assert os.listdir(tmp_path) == []


def test_a_successors_path_is_not_removed(path: str) -> None:
    old = opened(f"unix://{path}")
    os.unlink(path)
    with closing(opened(f"unix://{path}")):
        old.close()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)


def test_refusing_newcomers_leaves_who_waits_in_the_queue(path: str) -> None:
    with closing(opened(f"unix://{path}")) as listener, socket.socket(socket.AF_UNIX) as early:
        early.connect(path)
        listener.refuse_new()
        with socket.socket(socket.AF_UNIX) as late, pytest.raises(FileNotFoundError):
            late.connect(path)
        accepted, _ = listener.sockets[0].accept()
        accepted.close()
