"""A whole server on prefork's loop: all that a worker serves, without the process around it.

Knows: how a worker puts loop, listeners and server together. Does not know: what is served, when it is to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

from prefork.config.limits import Limits
from prefork.config.model import ListenerConfig
from prefork.net.acceptor import Shift
from prefork.net.pulse import Pulse
from prefork.net.server import Loadout, Server
from prefork.watch import Watch
from tests.kernel.clients import PATIENCE_SECONDS
from tests.kernel.correspondents import Correspondent
from tests.kernel.serving import PULSE_SECONDS, Listening, Serving, within

NAME = "test"
AT_ONCE = (0.0, 0.0)  # when a connection may leave, in seconds after the drain has begun


class Whole(Serving):
    """One listener, of connections or of datagrams.

    Attributes:
        peers: of datagrams, to be closed at the end.
    """

    def __init__(self, app: Any, sock: socket.socket, limits: Limits) -> None:
        super().__init__(sock)
        credentials = sock.credentials if isinstance(sock, Listening) else None
        self._is_datagram = sock.type == socket.SOCK_DGRAM
        loadout = Loadout(
            {"app": app},
            {},
            {} if credentials is None else {NAME: credentials.security},
            frozenset({NAME} if self._is_datagram else ()),
        )
        listeners = [ListenerConfig("", "app", NAME, limits=limits)]
        self.server = Server(listeners, loadout, self.site, self.scoreboard, 0)
        self.is_over = asyncio.Event()
        self._begun_at = 0.0
        self.peers: list[Correspondent] = []
        self.pulse = Pulse(self.site, PULSE_SECONDS, self.server.tell_time)

    def watch(self, slot: int = 0) -> None:
        """Serve the socket, by a descriptor of its own."""
        shift = Shift(Watch.ONLY if self._is_datagram else Watch.FIRST)
        self.server.watch(NAME, slot, self.listening.dup().detach(), shift)

    def unwatch(self, slot: int = 0) -> None:
        """Leave the socket to others."""
        self.server.unwatch(NAME, slot)

    def come(self, is_named: bool = True, is_connected: bool = True) -> Correspondent:
        """Return a peer of datagrams."""
        self.peers.append(Correspondent(self.listening, is_named, is_connected))
        return self.peers[-1]

    def begin_drain(
        self, seconds: float = PATIENCE_SECONDS, leave: tuple[float, float] = AT_ONCE, is_last: bool = False
    ) -> None:
        """Begin a drain; at its end `is_over` is set, and the server is closed, as a worker does it."""
        self._begun_at = time.monotonic()
        self.server.drain(seconds, leave, is_last, self._on_over)

    def hasten_drain(self, seconds: float) -> None:
        self.server.hasten(seconds, AT_ONCE, self._on_over)

    def _on_over(self) -> None:
        self.is_over.set()
        self.site.loop.call_soon(self.server.close)

    async def until_over(self) -> float:
        """Wait for the end of the drain; return how many seconds it took."""
        await within(PATIENCE_SECONDS, self.is_over.wait())
        return time.monotonic() - self._begun_at

    def stop_accepting(self) -> None:
        self.server.close()
        for peer in self.peers:
            peer.close()


@contextlib.asynccontextmanager
async def whole(app: Any, sock: socket.socket, limits: Limits | None = None) -> AsyncIterator[Whole]:
    """Serve an app on a socket, on the loop that runs."""
    made = Whole(app, sock, limits or Limits(amplification=0))
    made.watch()
    try:
        yield made
    finally:
        await made.end()
