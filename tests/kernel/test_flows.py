"""Flows of datagrams on real sockets: the kernel gives each one the socket that the table has for it."""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from prefork.address import parse_address
from prefork.config import ListenerConfig
from prefork.config.model import Steer
from prefork.process.flows import spread_flows
from prefork.process.listener import Listener
from tests.bpf import datagram, run

FLOWS = 200
SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104  # linux/udp.h
HOSTS = {"udp://127.0.0.1:0": "127.0.0.1", "udp://[::1]:0": "::1"}
PATIENCE_SECONDS = 5.0


class Group:
    """The sockets of a listener, and clients that each have a port of their own."""

    def __init__(self, bind: str, slots: int, steer: Steer, stack: ExitStack) -> None:
        self.config = ListenerConfig(bind=bind, app="a:b", name="test", steer=steer)
        self.host = HOSTS[bind]
        self.listener = stack.enter_context(closing(Listener(self.config, parse_address(bind), slots)))
        self.where = (self.host, self.listener.bound.port)
        self._stack = stack
        self.steer(slots)

    def steer(self, wanted: int, steer: Steer | None = None) -> None:
        if steer is not None:
            self.config = ListenerConfig(bind=self.config.bind, app="a:b", name="test", steer=steer)
            self.listener.configure(self.config)
        self.listener.grow(wanted, self.config)
        if not self.listener.steer(tuple(range(wanted)), wanted):
            pytest.skip("this kernel refuses SO_ATTACH_REUSEPORT_CBPF")

    def come(self, count: int) -> list[socket.socket]:
        """Return clients, each bound to a port of its own."""
        clients = []
        for _ in range(count):
            family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
            client = self._stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            client.bind((self.host, 0))
            clients.append(client)
        return clients

    def take(self, count: int) -> list[tuple[int, bytes, int]]:
        """Return so many datagrams: the place of the socket, the payload, the sender's port."""
        found: list[tuple[int, bytes, int]] = []
        while len(found) < count:
            readable, _, _ = select.select(self.listener.sockets, [], [], PATIENCE_SECONDS)
            assert readable, f"{count - len(found)} datagrams of {count} never came"
            for sock in readable:
                data, peer = sock.recvfrom(65_536)
                found.append((self.listener.sockets.index(sock), data, peer[1]))
        return found

    def ask(self, clients: list[socket.socket], data: bytes = b"hello") -> dict[int, int]:
        """Let each client send; return by its port the place that its datagram came to."""
        for client in clients:
            client.sendto(data, self.where)
        return {port: place for place, _, port in self.take(len(clients))}

    def expected(self, clients: list[socket.socket], count: int, data: bytes = b"hello") -> dict[int, int]:
        program = spread_flows(self.config.steer, count)
        ports = [client.getsockname()[1] for client in clients]
        return {port: run(program, datagram(self.host, port, data)) for port in ports}


@pytest.fixture(params=list(HOSTS))
def group(request: pytest.FixtureRequest) -> Iterator[Group]:
    """Four sockets, steered by source."""
    with ExitStack() as stack:
        yield Group(request.param, 4, Steer(), stack)


@pytest.fixture(params=list(HOSTS))
def devices(request: pytest.FixtureRequest) -> Iterator[Group]:
    """Four sockets, steered by the first four bytes."""
    with ExitStack() as stack:
        yield Group(request.param, 4, Steer(0, 4), stack)


def test_each_flow_comes_to_the_socket_of_its_bucket(group: Group) -> None:
    clients = group.come(FLOWS)
    found = group.ask(clients)
    assert found == group.expected(clients, 4)
    assert set(found.values()) == {0, 1, 2, 3}
    assert group.ask(clients, b"") == group.ask(clients, b"x" * 300) == found


def test_a_fifth_socket_moves_its_share_and_nothing_else(group: Group) -> None:
    clients = group.come(FLOWS)
    before = group.ask(clients)
    group.steer(5)
    after = group.ask(clients)
    moved = {port for port in before if before[port] != after[port]}
    assert after == group.expected(clients, 5)
    assert 0 < len(moved) < FLOWS / 2  # of a fifth
    assert {after[port] for port in moved} == {4}
    group.steer(4)
    assert group.ask(clients) == before


def test_fewer_flows_sockets_leave_what_is_queued_in_the_others(group: Group) -> None:
    clients = group.come(FLOWS)
    for client in clients:
        client.sendto(b"early", group.where)
    group.steer(2)
    early = group.take(FLOWS)
    assert {place for place, _, _ in early} == {0, 1, 2, 3}
    late = group.ask(clients, b"late")
    assert late == group.expected(clients, 2)
    assert set(late.values()) == {0, 1}


def test_a_socket_that_is_added_gets_nothing_before_it_is_wanted(group: Group) -> None:
    clients = group.come(FLOWS)
    group.listener.grow(6, group.config)
    assert group.ask(clients) == group.expected(clients, 4)


def test_flows_have_their_sockets_from_the_beginning() -> None:
    """A datagram may come before any worker is ready: its answer must come from the flow's own worker."""
    config = ListenerConfig(bind="udp://127.0.0.1:0", app="a:b", name="test")
    with ExitStack() as stack:
        group = Group("udp://127.0.0.1:0", 4, Steer(), stack)
        fresh = stack.enter_context(closing(Listener(config, parse_address(config.bind), 4)))
        clients = group.come(FLOWS)
        group.listener, group.where = fresh, ("127.0.0.1", fresh.bound.port)
        assert group.ask(clients) == group.expected(clients, 4)


@pytest.mark.parametrize("bind", HOSTS)
def test_more_sockets_than_buckets_are_steered_too(bind: str) -> None:
    with ExitStack() as stack:
        group = Group(bind, 260, Steer(), stack)
        clients = group.come(FLOWS)
        assert group.ask(clients) == group.expected(clients, 260)


def test_no_datagram_is_lost_while_programs_are_replaced(group: Group) -> None:
    (client,) = group.come(1)
    count = 2000
    room = threading.Semaphore(100)  # what a buffer holds for certain

    def send() -> None:
        for number in range(count):
            assert room.acquire(timeout=PATIENCE_SECONDS)
            client.sendto(b"%d" % number, group.where)

    received: list[int] = []
    sender = threading.Thread(target=send)
    sender.start()
    while len(received) < count:
        group.steer(1 + len(received) % 4)
        new = [int(data) for _, data, _ in group.take(1)]
        room.release(len(new))
        received += new
    sender.join()
    assert sorted(received) == list(range(count))


# --- by payload ---


def test_a_device_comes_to_its_socket_from_any_port(devices: Group) -> None:
    clients = devices.come(40)
    places = set()
    for number in range(20):
        name = number.to_bytes(4, "big")
        found = devices.ask(clients, name + b" and more")
        assert len(set(found.values())) == 1
        assert found == devices.expected(clients, 4, name)
        places |= set(found.values())
    assert places == {0, 1, 2, 3}


@pytest.mark.parametrize("size", range(4))
def test_a_datagram_without_the_whole_name_goes_by_its_source(devices: Group, size: int) -> None:
    clients = devices.come(60)
    found = devices.ask(clients, b"\0\0\0"[:size])
    assert found == devices.expected(clients, 4, b"\0\0\0"[:size])
    assert set(found.values()) == {0, 1, 2, 3}


def test_what_steers_can_be_changed_while_datagrams_come(devices: Group) -> None:
    clients = devices.come(60)
    assert len(set(devices.ask(clients).values())) == 1
    devices.steer(4, Steer())
    assert devices.ask(clients) == devices.expected(clients, 4)
    devices.steer(4, Steer(3, 5))
    one, other = devices.ask(clients, b"abcde"), devices.ask(clients, b"xyzdex")
    assert one == other == devices.expected(clients, 4, b"...de")


def test_devices_behind_one_port_are_not_joined_by_the_kernel(devices: Group, group: Group) -> None:
    """A joined datagram goes to one socket, chosen by its first part: those of other devices would go with it."""
    assert [sock.getsockopt(SOL_UDP, UDP_GRO) for sock in devices.listener.sockets] == [0] * 4
    assert [sock.getsockopt(SOL_UDP, UDP_GRO) for sock in group.listener.sockets] == [1] * 4


@pytest.mark.parametrize("steer", [Steer(0, 1), Steer(1, 3), Steer(0, 64), Steer(1000, 1024)], ids=str)
def test_any_bytes_can_steer(steer: Steer) -> None:
    with ExitStack() as stack:
        group = Group("udp://127.0.0.1:0", 5, steer, stack)
        (client,) = group.come(1)
        for number in range(64):
            data = bytes([number]) * 1024
            assert group.ask([client], data) == group.expected([client], 5, data)


def test_a_burst_that_the_kernel_cuts_comes_to_the_socket_of_its_sender(group: Group) -> None:
    """It is picked once for all of them, before they are cut, or handed over as one."""
    clients = group.come(20)
    expected = group.expected(clients, 4)
    for sock in group.listener.sockets:
        sock.setsockopt(SOL_UDP, UDP_GRO, 0)
    for client in clients:
        segment = struct.pack("@H", 3)
        client.sendmsg([b"abcdefghij"], [(SOL_UDP, UDP_SEGMENT, segment)], 0, group.where)
        found = group.take(4)
        assert [data for _, data, _ in found] == [b"abc", b"def", b"ghi", b"j"]
        assert {place for place, _, _ in found} == {expected[client.getsockname()[1]]}
