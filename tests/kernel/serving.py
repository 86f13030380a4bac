"""A service on prefork's loop, and clients with real sockets on the same loop: one process, one thread.

Knows: how a worker puts loop, service and acceptor together. Does not know: what is served, what is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from prefork.config.model import Limits
from prefork.net.acceptor import Acceptor, ListeningSocket, Reserve, Shift
from prefork.net.handler import build_protocol_factory
from prefork.net.loop import new_loop
from prefork.net.pulse import Pulse, transports
from prefork.net.service import Draining, Service, Worksite
from prefork.net.tally import Tally
from prefork.net.transport import StreamTransport
from prefork.scoreboard import Cell, Scoreboard
from prefork.watch import Watch

FAMILIES = ("tcp", "tcp6", "unix")
PATIENCE_SECONDS = 10.0
POLL_SECONDS = 0.002
PULSE_SECONDS = 0.02
Result = TypeVar("Result")


def listen(family: str, folder: Path, backlog: int = 128) -> socket.socket:
    """Return a listening socket on a free address."""
    if family == "unix":
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(folder / f"{time.monotonic_ns()}.sock"))
    else:
        sock = socket.socket(socket.AF_INET6 if family == "tcp6" else socket.AF_INET)
        sock.bind(("::1" if family == "tcp6" else "127.0.0.1", 0))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.listen(backlog)
    sock.setblocking(False)
    return sock


class Client:
    """The other side: a plain non-blocking socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self.socket, data)

    async def receive(self, count: int = 65_536) -> bytes:
        """Return what comes next, at most `count` bytes."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self._loop.sock_recv(self.socket, count)

    async def receive_exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count and (more := await self.receive(min(65_536, count - len(data)))):
            data += more
        return bytes(data)

    async def receive_all(self) -> bytes:
        """Return all that comes until the other side's FIN."""
        data = bytearray()
        while more := await self.receive():
            data += more
        return bytes(data)

    def finish(self) -> None:
        """Say that nothing more will come."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        self.socket.close()


class Serving:
    """One listening socket, one service, any number of clients."""

    def __init__(self, listening: socket.socket, site: Worksite, service: Service) -> None:
        self.listening = listening
        self.site = site
        self.service = service
        self.scoreboard = Scoreboard(2)
        self.reserve = Reserve()
        self.clients: list[Client] = []
        self.acceptors: list[Acceptor] = []

    def watch(self, watch: Watch = Watch.FIRST) -> Acceptor:
        """Accept from the socket."""
        acceptor = Acceptor(
            ListeningSocket(self.listening.dup().detach()), self.service, self.reserve, Shift(watch)
        )
        self.acceptors.append(acceptor)
        return acceptor

    async def connect(self, receive_bytes: int = 0) -> Client:
        """Connect a client.

        Args:
            receive_bytes: the size of its receive buffer; 0: the kernel's.
        """
        sock = socket.socket(self.listening.family)
        if receive_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.setblocking(False)
        client = Client(sock)
        self.clients.append(client)
        await self.site.loop.sock_connect(sock, self.listening.getsockname())
        return client

    @property
    def transports(self) -> list[StreamTransport]:
        return transports(self.site)

    def count(self, cell: Cell) -> int:
        return int(self.scoreboard.page(0)[cell])

    async def until_closed(self) -> None:
        """Wait until no connection is open."""
        await until(lambda: not self.site.tally.open)

    async def end(self) -> None:
        for acceptor in self.acceptors:
            acceptor.close()
        for client in self.clients:
            client.close()
        for transport in self.transports:
            transport.abort()
        await self.until_closed()
        self.reserve.close()
        self.site.pool.shutdown()


@contextlib.asynccontextmanager
async def serving(
    app: Any, listening: socket.socket, limits: Limits | None = None, watch: Watch | None = Watch.FIRST
) -> AsyncIterator[Serving]:
    """Serve an app on a listening socket, on the loop that runs.

    Args:
        watch: how the socket is watched from the beginning; None: not yet.
    """
    loop = asyncio.get_running_loop()
    site = Worksite(loop, loop.prefork_selector, None, Draining())  # type: ignore[attr-defined, arg-type]
    limits = limits or Limits()
    service = Service("test", limits, None, site)
    service.make_protocol = build_protocol_factory(app, service)
    made = Serving(listening, site, service)
    site.tally = Tally(made.scoreboard.page(0))
    Pulse(site, PULSE_SECONDS, lambda: setattr(service, "now", site.now))
    if watch is not None:
        made.watch(watch)
    try:
        yield made
    finally:
        await made.end()


def run(scenario: Coroutine[Any, Any, Result]) -> Result:
    """Run a scenario on a loop as a worker has it."""
    loop, selector = new_loop()
    loop.prefork_selector = selector  # type: ignore[attr-defined]
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        try:
            return runner.run(scenario)
        except (SystemExit, GeneratorExit, asyncio.CancelledError) as error:
            raise AssertionError(f"the loop was ended by {error!r}") from error


async def until(condition: Callable[[], Result], within: float = PATIENCE_SECONDS) -> Result:
    """Return the first true value of a condition, looked at between turns of the loop."""
    deadline = time.monotonic() + within
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {within} s; the last value was {value!r}")
        await turn(POLL_SECONDS)
    return value


async def turn(seconds: float = 0.0) -> None:
    """Let the loop go round, for so long at the least."""
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(seconds, future.set_result, None)
    await future


async def cpu_share(seconds: float) -> float:
    """Return how much of some time this process has spent computing: near 1 for a loop that spins."""
    before = time.process_time()
    await turn(seconds)
    return (time.process_time() - before) / seconds


async def within(seconds: float, awaitable: Awaitable[Result]) -> Result:
    async with asyncio.timeout(seconds):
        return await awaitable
