"""Steering by classic BPF: which socket of a group gets a connection, and who is let in no more."""

from __future__ import annotations

import select
import socket
from collections import Counter
from collections.abc import Iterator

import pytest

from prefork.process import steering

CONNECTIONS = 400


@pytest.fixture
def group() -> Iterator[list[socket.socket]]:
    """Four listening sockets of one address."""
    sockets: list[socket.socket] = []
    for _ in range(4):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(sockets[0].getsockname() if sockets else ("127.0.0.1", 0))
        sock.listen(1024)
        sock.setblocking(False)
        sockets.append(sock)
    yield sockets
    for sock in sockets:
        sock.close()


def spread(group: list[socket.socket], count: int = CONNECTIONS) -> Counter[int]:
    """Connect and count which socket of the group each connection comes to."""
    came: Counter[int] = Counter()
    for _ in range(count):
        with socket.create_connection(group[0].getsockname(), 5):
            ready, _, _ = select.select(group, [], [], 5)
            for sock in ready:
                sock.accept()[0].close()
                came[group.index(sock)] += 1
    return came


def test_connections_go_to_the_named_sockets_alone(group: list[socket.socket]) -> None:
    if not steering.attach(group[0], steering.spread((1, 3))):
        pytest.skip("this kernel refuses SO_ATTACH_REUSEPORT_CBPF")
    came = spread(group)
    assert set(came) == {1, 3}
    assert min(came.values()) > CONNECTIONS * 0.35


def test_a_socket_that_is_named_more_often_gets_more(group: list[socket.socket]) -> None:
    if not steering.attach(group[0], steering.spread((0, 0, 0, 2))):
        pytest.skip("this kernel refuses SO_ATTACH_REUSEPORT_CBPF")
    came = spread(group)
    assert set(came) == {0, 2}
    assert 0.6 < came[0] / CONNECTIONS < 0.88


def test_all_sockets_in_order_get_about_the_same(group: list[socket.socket]) -> None:
    if not steering.attach(group[0], steering.spread((0, 1, 2, 3))):
        pytest.skip("this kernel refuses SO_ATTACH_REUSEPORT_CBPF")
    came = spread(group)
    assert min(came.values()) > CONNECTIONS / 4 * 0.6


def test_a_program_is_replaced_by_the_next_one(group: list[socket.socket]) -> None:
    for slots in ((0,), (2,), (0, 1, 2, 3), (3,)):
        if not steering.attach(group[0], steering.spread(slots)):
            pytest.skip("this kernel refuses SO_ATTACH_REUSEPORT_CBPF")
        assert set(spread(group, 40)) <= set(slots)


def test_a_program_for_512_slots_fits() -> None:
    assert len(steering.spread(range(1, 513))) <= steering.MAX_INSTRUCTIONS


def test_what_the_kernel_refuses_is_told_and_not_raised() -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        assert steering.attach(sock, steering.spread((0,))) is False
    with socket.socket() as sock:
        assert steering.attach(sock, steering.spread(range(1, 5000))) is False


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(16)
        yield sock


def test_after_handshakes_are_dropped_who_is_connected_is_served(listening: socket.socket) -> None:
    with socket.create_connection(listening.getsockname(), 5) as early:
        early.send(b"in the queue")
        if not steering.drop_handshakes(listening):
            pytest.skip("this kernel refuses SO_ATTACH_FILTER")
        accepted, _ = listening.accept()
        with accepted, accepted.makefile("rb") as file:
            early.send(b", and later")
            early.shutdown(socket.SHUT_WR)
            assert file.read() == b"in the queue, and later"
            accepted.send(b"answered")
            assert early.recv(100) == b"answered"


def test_after_handshakes_are_dropped_nobody_else_comes_in(listening: socket.socket) -> None:
    if not steering.drop_handshakes(listening):
        pytest.skip("this kernel refuses SO_ATTACH_FILTER")
    with socket.socket() as late:
        late.setblocking(False)
        late.connect_ex(listening.getsockname())
        assert select.select([listening], [late], [], 0.3) == ([], [], [])
