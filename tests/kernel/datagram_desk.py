"""A datagram socket served on prefork's loop, and peers with real sockets on the same loop.

Knows: how a worker puts loop, service and app together. Does not know: what is served, what is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from prefork.address import parse_address
from prefork.config import ListenerConfig
from prefork.config.limits import Limits
from prefork.net.datagram_app import build_datagram_app
from prefork.net.datagrams import DatagramSocket
from prefork.net.service import Draining, Service, Worksite
from prefork.net.tally import Tally
from prefork.process.listener import Listener
from prefork.scoreboard import Count, Scoreboard, block

FAMILIES = ("udp", "udp6", "unixgram")
PATIENCE_SECONDS = 3.0
SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104  # linux/udp.h
WARM_UP = b"warm-up"
NAME = "desk.sock"  # of a unix socket, in a folder of its own
_HOSTS = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


def bind(family: str, folder: Path) -> socket.socket:
    """Return a bound datagram socket; one of UDP is opened as the master opens it."""
    if family == "unixgram":
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.bind(str(folder / NAME))
        sock.setblocking(False)
        return sock
    config = ListenerConfig(
        bind="udp://[::1]:0" if family == "udp6" else "udp://127.0.0.1:0", app="a:b", name="desk"
    )
    with closing(Listener(config, parse_address(config.bind), 1)) as listener:
        return listener.sockets[0].dup()


class Peer:
    """One who sends, and counts what comes back."""

    def __init__(self, desk: socket.socket, is_named: bool = True) -> None:
        self.socket = socket.socket(desk.family, socket.SOCK_DGRAM)
        if desk.family != socket.AF_UNIX:
            self.socket.bind((_HOSTS[socket.AddressFamily(desk.family)], 0))
        elif is_named:
            self.socket.bind("")  # the kernel gives it a name, unix(7)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
        self.socket.setblocking(False)
        self.socket.connect(desk.getsockname())

    def send(self, *datagrams: bytes) -> None:
        for data in datagrams:
            self.socket.send(data)

    def burst(self, datagrams: Iterable[bytes]) -> None:
        """Send datagrams of one size, of which the last may be smaller, as one that the kernel cuts."""
        pieces = list(datagrams)
        self.socket.sendmsg(pieces, [(SOL_UDP, UDP_SEGMENT, struct.pack("@H", len(pieces[0])))])

    async def receive(self) -> bytes | None:
        """Return the next answer; None: none comes."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await asyncio.get_running_loop().sock_recv(self.socket, 65_536)
        except TimeoutError:
            return None

    async def answers(self, count: int) -> list[bytes]:
        """Return so many answers; fewer, if no more come."""
        found: list[bytes] = []
        while len(found) < count and (data := await self.receive()) is not None:
            found.append(data)
        return found

    def pending(self) -> list[bytes]:
        """Return what is there already."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self.socket.recv(65_536))
        return found

    def close(self) -> None:
        self.socket.close()


class Desk:
    """A socket, and the app that answers on it."""

    def __init__(self, app: Any, sock: socket.socket, limits: Limits) -> None:
        loop = asyncio.get_running_loop()
        self.scoreboard = Scoreboard(2)
        selector = loop.prefork_selector  # type: ignore[attr-defined]
        self.site = Worksite(loop, selector, Tally(self.scoreboard.page(0)), Draining())
        self.service = Service("test", limits, None, self.site)
        self.app = build_datagram_app(app, self.service)
        self.socket = sock
        self.watched: list[DatagramSocket] = []
        self.peers: list[Peer] = []

    def watch(self) -> DatagramSocket:
        """Serve the socket, by a descriptor of its own, as each worker has one."""
        made = DatagramSocket(self.socket.dup(), self.service)
        self.watched.append(made)
        self.app.open(made)
        return made

    def leave(self) -> None:
        """Close the descriptor that was opened first; the socket itself stays."""
        sock = self.watched.pop(0)
        self.app.close(sock)
        sock.close()

    def come(self, is_named: bool = True) -> Peer:
        self.peers.append(Peer(self.socket, is_named))
        return self.peers[-1]

    async def warm_up(self, peer: Peer) -> None:
        """Send a run of datagrams that is there at once, and is answered: a reason to join what comes."""
        peer.send(*[WARM_UP] * 32)
        assert await peer.answers(32) == [WARM_UP] * 32

    @property
    def is_joining(self) -> bool:
        return bool(self.socket.getsockopt(SOL_UDP, UDP_GRO))

    def count(self, cell: Count) -> int:
        return int(block(self.scoreboard.page(0), 0)[cell])

    def end(self) -> None:
        while self.watched:
            self.leave()
        for peer in self.peers:
            peer.close()
        self.site.pool.shutdown()


@contextlib.asynccontextmanager
async def serving(app: Any, sock: socket.socket, limits: Limits | None = None) -> AsyncIterator[Desk]:
    """Serve an app on a datagram socket, on the loop that runs."""
    made = Desk(app, sock, limits or Limits(amplification=0))
    made.watch()
    try:
        yield made
    finally:
        made.end()
