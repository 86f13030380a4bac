"""A service on prefork's loop, and clients with real sockets on the same loop: one process, one thread.

Knows: how a worker puts loop, service and acceptor together. Does not know: what is served, what is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from prefork.config.limits import Limits
from prefork.net.acceptor import Acceptor, ListeningSocket, Reserve, Shift
from prefork.net.handler import build_protocol_factory
from prefork.net.loop import new_loop
from prefork.net.pulse import Pulse, transports
from prefork.net.service import Draining, Service, Worksite
from prefork.net.tally import Tally
from prefork.net.transport import StreamTransport
from prefork.scoreboard import Cell, Count, Page, Scoreboard, block
from prefork.watch import Watch
from tests.kernel.certificates import HOST, Credentials
from tests.kernel.clients import PATIENCE_SECONDS, Client, TlsClient

FAMILIES = ("tcp", "tcp6", "tls", "unix")
POLL_SECONDS = 0.002
DATA_SEGMENTS_OUT = 156  # offset of tcpi_data_segs_out in struct tcp_info, linux/tcp.h
PULSE_SECONDS = 0.02
Result = TypeVar("Result")


class Listening(socket.socket):
    """A listening socket; with credentials TLS is spoken on it."""

    credentials: Credentials | None = None

    @property
    def is_unix(self) -> bool:
        return self.family == socket.AF_UNIX

    def new_client(self, receive_bytes: int = 0) -> Client:
        """Return a client that is not connected yet; it has its descriptor already.

        Args:
            receive_bytes: the size of its receive buffer; 0: the kernel's.
        """
        sock = socket.socket(self.family)
        if receive_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.setblocking(False)
        return Client(sock) if self.credentials is None else TlsClient(sock, self.credentials.client)


def listen(family: str, folder: Path, backlog: int = 128, credentials: Credentials | None = None) -> Listening:
    """Return a listening socket on a free address.

    Args:
        credentials: for TLS; only the family "tls" takes them.
    """
    if family == "unix":
        sock = Listening(socket.AF_UNIX)
        sock.bind(str(folder / f"{time.monotonic_ns()}.sock"))
    else:
        sock = Listening(socket.AF_INET6 if family == "tcp6" else socket.AF_INET)
        sock.bind(("::1" if family == "tcp6" else HOST, 0))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if family == "tls":
        assert credentials is not None
        sock.credentials = credentials
    sock.listen(backlog)
    sock.setblocking(False)
    return sock


class Serving:
    """One socket, what serves it, any number of clients."""

    def __init__(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        selector = loop.prefork_selector  # type: ignore[attr-defined]
        self.listening = listening
        self.scoreboard = Scoreboard(2)
        self.site = Worksite(loop, selector, Tally(self.scoreboard.page(0)), Draining())
        self.clients: list[Client] = []
        self.pulse: Pulse | None = None

    async def connect(self, receive_bytes: int = 0) -> Client:
        """Connect a client.

        Args:
            receive_bytes: the size of its receive buffer; 0: the kernel's.
        """
        client = self.new_client(receive_bytes)
        await client.connect(self.listening.getsockname())
        return client

    def new_client(self, receive_bytes: int = 0) -> Client:
        """Return a client that is not connected yet."""
        assert isinstance(self.listening, Listening)
        self.clients.append(self.listening.new_client(receive_bytes))
        return self.clients[-1]

    @property
    def transports(self) -> list[StreamTransport]:
        return transports(self.site)

    def count(self, cell: Cell | Count) -> int:
        page = self.scoreboard.page(0)
        return int((page if isinstance(cell, Cell) else block(page, 0))[cell])

    async def until_closed(self) -> None:
        """Wait until no connection is open."""
        await until(lambda: not self.site.tally.open)

    def stop_accepting(self) -> None:
        """Leave the socket to others."""

    async def end(self) -> None:
        self.stop_accepting()
        for client in self.clients:
            await client.end()
        for transport in self.transports:
            transport.abort()
        await self.until_closed()
        if self.pulse is not None:
            self.pulse.close()
        self.site.pool.shutdown()


class Accepting(Serving):
    """Any number of acceptors, each with a descriptor of its own, and one service."""

    def __init__(self, app: Any, listening: Listening, limits: Limits) -> None:
        super().__init__(listening)
        credentials = listening.credentials
        self.service = service = Service("test", limits, None, self.site)
        service.make_protocol = build_protocol_factory(app, service)
        service.security = None if credentials is None else credentials.security
        self.reserve = Reserve()
        self.acceptors: list[Acceptor] = []
        self.pulse = Pulse(self.site, PULSE_SECONDS, lambda: setattr(service, "now", self.site.now))

    def watch(self, watch: Watch = Watch.FIRST, partner: Page | None = None) -> Acceptor:
        """Accept from the socket.

        Args:
            partner: the page of the other worker that watches it.
        """
        listening = ListeningSocket(self.listening.dup().detach())
        acceptor = Acceptor(listening, self.service, self.reserve, Shift(watch, partner))
        self.acceptors.append(acceptor)
        return acceptor

    def stop_accepting(self) -> None:
        for acceptor in self.acceptors:
            acceptor.close()
        self.reserve.close()


@contextlib.asynccontextmanager
async def serving(
    app: Any, listening: Listening, limits: Limits | None = None, watch: Watch | None = Watch.FIRST
) -> AsyncIterator[Accepting]:
    """Serve an app on a listening socket, on the loop that runs.

    Args:
        watch: how the socket is watched from the beginning; None: not yet.
    """
    made = Accepting(app, listening, limits or Limits())
    if watch is not None:
        made.watch(watch)
    try:
        yield made
    finally:
        await made.end()


def run(scenario: Coroutine[Any, Any, Result]) -> Result:
    """Run a scenario on a loop as a worker has it; nothing may fail there that nobody hears of."""
    loop, selector = new_loop()
    loop.prefork_selector = selector  # type: ignore[attr-defined]
    unheard: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: unheard.append(context))
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        try:
            result = runner.run(scenario)
        except (SystemExit, GeneratorExit, asyncio.CancelledError) as error:
            raise AssertionError(f"the loop was ended by {error!r}") from error
    assert not unheard
    return result


async def until(condition: Callable[[], Result], within: float = PATIENCE_SECONDS) -> Result:
    """Return the first true value of a condition, looked at between turns of the loop."""
    deadline = time.monotonic() + within
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {within} s; the last value was {value!r}")
        await turn(POLL_SECONDS)
    return value


def data_segments_out(sock: socket.socket) -> int:
    """Return how many segments with data a socket has sent: each send of a few bytes makes one."""
    told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, DATA_SEGMENTS_OUT + 4)
    return int.from_bytes(told[DATA_SEGMENTS_OUT:], "little")


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
