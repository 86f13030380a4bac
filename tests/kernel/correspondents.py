"""Datagram sockets to be served, and peers that ask, wait for room, and read whatever comes.

Knows: udp(7), unix(7). Does not know: what is served, what is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.kernel.clients import PATIENCE_SECONDS

FAMILIES = ("udp", "udp6", "unixgram")
SOL_UDP, UDP_GRO = 17, 104  # linux/udp.h
HOSTS: dict[int, str] = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
READ_BYTES = 1 << 19  # above the largest of any family
UDP_BYTES: dict[int, int] = {socket.AF_INET: 65_507, socket.AF_INET6: 65_527}  # 65,535 less what counts in it
UNIX_OVERHEAD_BYTES = 32  # of the send buffer that one datagram may fill: unix_dgram_sendmsg() in af_unix.c
QUIET_SECONDS = 0.3
AT_ONCE = 50  # far from what fills a receive buffer of UDP: some 270 tiny datagrams


def bind(family: str, folder: Path) -> socket.socket:
    """Return a socket on a free address, on which the kernel may join datagrams, as on a listener's."""
    kind = {"udp": socket.AF_INET, "udp6": socket.AF_INET6, "unixgram": socket.AF_UNIX}[family]
    sock = socket.socket(kind, socket.SOCK_DGRAM)
    sock.setblocking(False)
    if kind == socket.AF_UNIX:
        sock.bind(f"{folder}/server.sock")
    else:
        sock.bind((HOSTS[kind], 0))
        sock.setsockopt(SOL_UDP, UDP_GRO, 1)
    return sock


def largest(sock: socket.socket) -> int:
    """Return the size of the largest datagram that a socket can send."""
    if sock.family != socket.AF_UNIX:
        return UDP_BYTES[sock.family]
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - UNIX_OVERHEAD_BYTES


class Correspondent:
    """A peer of a server."""

    def __init__(self, server: socket.socket, is_named: bool = True, is_connected: bool = True) -> None:
        """Open a socket.

        Args:
            is_named: it can be answered; without effect but on unixgram.
            is_connected: the queue of one that is not has few places on unixgram, not a limit in bytes alone.
        """
        self._loop = asyncio.get_running_loop()
        self._address: Any = server.getsockname()
        self.socket = socket.socket(server.family, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        if server.family != socket.AF_UNIX:
            self.socket.bind((HOSTS[server.family], 0))
        elif is_named:
            self.socket.bind("")  # the kernel chooses a name, unix(7)
        if is_connected:
            self.socket.connect(self._address)

    async def post(self, *datagrams: bytes) -> None:
        """Send datagrams, each when there is room."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            for data in datagrams:  # not by sock_sendall(), which takes an empty one for sent that was not
                await self._loop.sock_sendto(self.socket, data, self._address)

    async def receive(self) -> bytes:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self._loop.sock_recv(self.socket, READ_BYTES)

    async def ask(self, data: bytes) -> bytes:
        await self.post(data)
        return await self.receive()

    async def ask_all(self, questions: Sequence[bytes], at_once: int = AT_ONCE) -> list[bytes]:
        """Ask many questions; return the answers as they come.

        Args:
            at_once: so many may be asked and not answered yet.
        """
        room = asyncio.Semaphore(at_once)
        answers: list[bytes] = []

        async def post_all() -> None:
            for question in questions:
                await room.acquire()
                await self.post(question)

        posting = asyncio.ensure_future(post_all())
        try:
            while len(answers) < len(questions):
                answers.append(await self.receive())
                room.release()
        finally:
            posting.cancel()
        return answers

    def pending(self) -> list[bytes]:
        """Return what is there already."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self.socket.recv(READ_BYTES))
        return found

    async def receive_until_quiet(self) -> list[bytes]:
        """Return what comes until nothing has come for a moment."""
        found = [await self.receive()]
        with contextlib.suppress(TimeoutError):
            while True:
                async with asyncio.timeout(QUIET_SECONDS):
                    found.append(await self._loop.sock_recv(self.socket, READ_BYTES))
        return found

    def close(self) -> None:
        if self.socket.fileno() >= 0:
            self._loop.remove_reader(self.socket)
            self._loop.remove_writer(self.socket)
            self.socket.close()
