"""Everything is taken: connections of a worker, descriptors, memory for slow readers; who waits, who goes."""

from __future__ import annotations

import resource
import socket
import time
from typing import Any

import pytest

from tests.eventually import eventually
from tests.system.conftest import Prepare
from tests.system.processes import count_fds, cpu_seconds
from tests.system.running import Running, exchange
from tests.system.visitors import (
    TINY_BYTES,
    Visitors,
    ask,
    counted,
    has_ended,
    listener,
    open_connections,
    rejections,
    told,
    visit,
    wait_empty,
)

TCP_CLOSE = 7  # of tcpi_state, include/net/tcp_states.h
BUSY = (
    "import asyncio, os\n"
    "async def echo(conn):\n"
    "    async for data in conn:\n"
    "        while data == b'hold!' and not os.path.exists('gate'):\n"
    "            await asyncio.sleep(0.01)\n"
    "        await conn.send(data)\n"
)
FLOOD = (  # answers five digits with so many KiB
    "import asyncio\n"
    "class Flood(asyncio.Protocol):\n"
    "    def connection_made(self, transport):\n"
    "        self.transport = transport\n"
    "    def data_received(self, data):\n"
    "        if data == b'hello':\n"
    "            self.transport.write(data)\n"
    "        else:\n"
    "            for at in range(0, len(data), 5):\n"
    "                self.transport.write(bytes(1024 * int(data[at : at + 5])))\n"
    "def echo():\n"
    "    return Flood()\n"
)


def start(prepare: Prepare, limits: dict[str, Any], workers: int = 1, app: str = BUSY, **more: Any) -> Running:
    return prepare({"app.py": app}, workers=workers, listeners=[listener(limits, **more)]).start()


# --- connections ---


def test_those_who_come_when_it_is_full_wait_and_are_served_when_one_goes(prepare: Prepare) -> None:
    server = start(prepare, {"connections": 10})
    with Visitors(server) as visitors:
        first = visitors.come(10)
        late = [visitors.one() for _ in range(5)]
        for sock in late:
            sock.sendall(b"hello")
        assert [ask(sock) for sock in first] == [b"hello"] * 10
        assert not any(map(has_ended, late))
        assert open_connections(server) == 10
        visitors.leave(first[:5])
        assert [sock.recv(5) for sock in late] == [b"hello"] * 5
    assert not rejections(server)


@pytest.mark.parametrize("goodbye", [None, "421 full"])
def test_those_who_come_when_it_is_full_are_refused_at_once(prepare: Prepare, goodbye: str | None) -> None:
    server = start(prepare, {"connections": 10, "when_full": "refuse", "goodbye": goodbye})
    with Visitors(server) as visitors:
        first = visitors.come(10)
        begun = time.monotonic()
        with visit(visitors.port) as sock:
            if goodbye is None:
                assert ask(sock) != b"hello"
            else:
                assert sock.recv(100) == b"421 full\n"
        assert time.monotonic() - begun < 0.5
        assert [ask(sock) for sock in first] == [b"hello"] * 10
        assert counted(server, "connections") == 1
        visitors.leave(first[:1])
        eventually(lambda: visitors.come())


def test_the_longest_idle_connection_gives_way(prepare: Prepare) -> None:
    server = start(prepare, {"connections": 4, "when_full": "oldest"})
    with Visitors(server) as visitors:
        sockets = visitors.come(4)
        for sock in (sockets[0], sockets[2], sockets[3]):
            begun = time.monotonic()
            eventually(lambda: time.monotonic() - begun > 0.6)  # the coarse clock goes on  # noqa: B023
            assert ask(sock) == b"hello"
        assert len(visitors.come()) == 1
        eventually(lambda: has_ended(sockets[1]))
        assert [has_ended(sock) for sock in sockets] == [False, True, False, False]
        assert len(visitors.come()) == 1
        eventually(lambda: has_ended(sockets[0]))
        assert counted(server, "connections") == 2
        assert open_connections(server) == 4


def test_who_has_a_request_under_way_does_not_give_way(prepare: Prepare) -> None:
    server = start(prepare, {"connections": 3, "when_full": "oldest"})
    with Visitors(server) as visitors:
        busy = visitors.come(2)
        (idle,) = visitors.come()
        for sock in busy:
            sock.sendall(b"hold!")
        assert len(visitors.come()) == 1
        eventually(lambda: has_ended(idle))
        (server.folder / "gate").touch()
        assert [sock.recv(5) for sock in busy] == [b"hold!"] * 2


def test_who_got_a_request_since_the_oldest_were_looked_for_does_not_give_way(prepare: Prepare) -> None:
    server = start(prepare, {"connections": 3, "when_full": "oldest"})
    with Visitors(server) as visitors:
        for sock in [visitors.one() for _ in range(3)]:
            assert ask(sock) == b"hello"
        held = visitors.sockets[1]
        visitors.come()  # the first goes; who is next is remembered
        held.sendall(b"hold!")
        visitors.come()
        (server.folder / "gate").touch()
        try:
            assert held.recv(5) == b"hold!"
        except ConnectionResetError:
            pytest.fail("a connection with a request under way was closed, and idle ones were left")


@pytest.mark.parametrize("refusal", [{"deny": ["127.0.0.2"]}, {"limits": {"per_ip": 3}}])
def test_nobody_gives_way_for_one_who_may_not_come_in(prepare: Prepare, refusal: dict[str, Any]) -> None:
    limits = {"connections": 8, "when_full": "oldest", **refusal.get("limits", {})}
    more = {key: value for key, value in refusal.items() if key != "limits"}
    server = start(prepare, limits, **more)
    with Visitors(server) as visitors:
        own = visitors.come(3, "127.0.0.2")
        good = [sock for last in range(8 - len(own)) for sock in visitors.come(1, f"127.0.1.{last}")]
        assert len(own + good) == 8
        for _ in range(10):
            assert not visitors.come(1, "127.0.0.2")
        gone = [has_ended(sock) for sock in good].count(True)
        assert not gone, f"{gone} good clients were closed for the sake of refused ones"


def test_a_trial_of_connections_refuses_nobody(prepare: Prepare) -> None:
    server = start(prepare, {"connections": {"value": 10, "dry_run": True}, "when_full": "refuse"})
    with Visitors(server) as visitors:
        assert len(visitors.come(30)) == 30
    assert counted(server, "connections", "dry_run") == 20


def test_a_full_worker_is_steered_around(prepare: Prepare) -> None:
    server = start(prepare, {"connections": 20}, workers=4)
    with Visitors(server) as visitors:
        begun = time.monotonic()
        sockets = [visitors.one() for _ in range(80)]
        for sock in sockets:
            sock.sendall(b"hello")
        assert [sock.recv(5) for sock in sockets] == [b"hello"] * 80
        assert time.monotonic() - begun < 5
        assert [row["connections"] for row in server.workers()] == [20] * 4
        extra = visitors.one()
        extra.sendall(b"hello")
        visitors.leave(sockets[:1])
        assert extra.recv(5) == b"hello"


def test_nobody_is_refused_while_another_worker_has_room(prepare: Prepare) -> None:
    server = start(prepare, {"connections": 20, "when_full": "refuse"}, workers=4)
    with Visitors(server) as visitors:
        assert len(visitors.come(60)) == 60
    assert not rejections(server)


# --- descriptors ---


def test_a_fifth_of_the_descriptors_is_left_to_the_app_and_the_excess_is_told_at_once(prepare: Prepare) -> None:
    server = prepare(workers=1)
    server.start_by(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)))
    (worker,) = server.worker_pids()
    fds = count_fds(worker)
    with Visitors(server) as visitors:
        come = visitors.come(500)
        assert 200 <= len(come) <= 205
        assert counted(server, "descriptors") == 500 - len(come)
        begun = time.monotonic()
        with visit(visitors.port) as sock:
            assert ask(sock) != b"hello"
        assert time.monotonic() - begun < 0.1
        used, begun = cpu_seconds(worker), time.monotonic()
        eventually(lambda: time.monotonic() - begun > 1)
        assert cpu_seconds(worker) - used < 0.1
        assert [ask(sock) for sock in come] == [b"hello"] * len(come)
        assert len(told(server, "descriptors")) == 1
    with visit(server.port()) as sock:
        assert eventually(lambda: exchange(sock, b"hello"), within=1) == b"hello"
    wait_empty(server)
    assert count_fds(worker) <= fds + 1
    assert server.worker_pids() == {worker}


# --- memory for slow readers ---


def slow(port: int, source: str = "127.0.0.1") -> socket.socket:
    """Return a connection whose kernel takes little on its own."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, TINY_BYTES)
    sock.bind((source, 0))
    sock.settimeout(10)
    sock.connect(("127.0.0.1", port))
    return sock


def is_cut(sock: socket.socket) -> bool:
    """Whether the server has reset a connection whose input waits unread."""
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == TCP_CLOSE


def test_who_lets_more_than_limits_buffer_wait_is_cut(prepare: Prepare) -> None:
    server = start(prepare, {"buffer": "256KiB"}, app=FLOOD)
    with slow(server.port()) as bad, visit(server.port()) as good:
        bad.sendall(b"16384")
        eventually(lambda: is_cut(bad), within=6)
        assert ask(good) == b"hello"
    assert counted(server, "buffer") == 1
    assert not counted(server, "buffers")


def test_the_slowest_readers_go_when_the_worker_has_limits_buffers(prepare: Prepare) -> None:
    server = start(prepare, {"buffer": "64MiB", "buffers": "40MiB", "min_rate": 0}, app=FLOOD)
    port = server.port()
    small, large = [slow(port) for _ in range(6)], [slow(port) for _ in range(2)]
    for sock in small:
        sock.sendall(b"04096")
    for sock in large:
        sock.sendall(b"16384")
    eventually(lambda: any(map(is_cut, large)))
    assert not any(map(is_cut, small))
    with visit(port) as good:
        assert ask(good) == b"hello"
    assert counted(server, "buffers") == sum(map(is_cut, small + large))
    for sock in small + large:
        sock.close()
    wait_empty(server)


def test_a_trial_of_buffers_counts_each_connection_once_and_cuts_none(prepare: Prepare) -> None:
    limits = {"buffer": "1MiB", "buffers": "1MiB", "min_rate": 0, "dry_run": ["buffer", "buffers"]}
    server = start(prepare, limits, app=FLOOD)
    sockets = [slow(server.port()) for _ in range(4)]
    for _ in range(5):
        for sock in sockets:
            sock.sendall(b"02048")
        eventually(lambda: ask_aside(server) == b"hello")
    assert 1 <= counted(server, "buffers", "dry_run") <= 4
    assert not any(map(is_cut, sockets))
    for sock in sockets:
        sock.close()


def ask_aside(server: Running) -> bytes:
    """Return what another client hears: the worker has had a turn."""
    with visit(server.port()) as sock:
        return ask(sock)
