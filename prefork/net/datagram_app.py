"""How an app serves datagrams: as a function of one datagram, or as an asyncio protocol.

Knows: the kinds of apps. Does not know: sockets, the kernel, slots.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from prefork.app import AppKind, recognise
from prefork.net.datagrams import DatagramSocket, Reply
from prefork.net.outbox import Bytes
from prefork.net.service import USER_ERRORS, Service


class DatagramApp(Protocol):
    """What serves the sockets of one listener."""

    def open(self, sock: DatagramSocket) -> None:
        """Serve a socket."""

    def close(self, sock: DatagramSocket) -> None:
        """The socket is closed next."""


def build_datagram_app(app: Any, service: Service) -> DatagramApp:
    """Return what serves a datagram listener.

    Raises:
        ConfigError: the app is of no known kind.
    """
    kind = recognise(app, service.name, is_datagram=True)
    if kind is AppKind.DATAGRAM:
        return _Function(app)
    return _Coroutines(app, service) if kind is AppKind.ASYNC_DATAGRAM else _Protocols(app, service)


class _Function:
    """Calls a function for each datagram."""

    def __init__(self, function: Callable[[bytes, Any, Reply], object]) -> None:
        self._function = function

    def open(self, sock: DatagramSocket) -> None:
        sock.open(function=self._function)

    def close(self, sock: DatagramSocket) -> None:
        """A function has nothing to end."""


class _Coroutines:
    """Runs a task for each datagram, of which there are never more than `limits.connections` at once."""

    def __init__(self, function: Callable[..., Coroutine[Any, Any, object]], service: Service) -> None:
        self._function = function
        self._service = service
        self._sockets: list[DatagramSocket] = []

    def open(self, sock: DatagramSocket) -> None:
        self._sockets.append(sock)
        if self._service.is_full:
            sock.hold()
        sock.open(function=self._start)

    def close(self, sock: DatagramSocket) -> None:
        self._sockets.remove(sock)

    def _start(self, data: bytes, peer: Any, reply: Reply) -> None:
        service = self._service
        service.ledger.open += 1
        service.site.handlers += 1
        if service.is_full:
            for each in self._sockets:
                each.hold()
        task = service.site.loop.create_task(self._function(data, peer, reply))
        task.add_done_callback(lambda done: self._on_done(done, peer))

    def _on_done(self, task: asyncio.Task[object], peer: Any) -> None:
        service = self._service
        was_full = service.is_full
        service.ledger.open -= 1
        service.site.handlers -= 1
        if was_full:
            for each in self._sockets:
                each.release()
        if not task.cancelled() and task.exception() is not None:
            service.report_datagram(task.exception(), peer)
        if service.site.draining.begun:
            service.site.check_empty()


class _Protocols:
    """Gives each socket a protocol and a transport, as `loop.create_datagram_endpoint` would."""

    def __init__(self, factory: Callable[[], asyncio.DatagramProtocol], service: Service) -> None:
        self._factory = factory
        self._service = service
        self._endpoints: dict[DatagramSocket, Endpoint] = {}

    def open(self, sock: DatagramSocket) -> None:
        protocol = self._factory()  # what it raises ends the worker: it cannot serve
        self._endpoints[sock] = endpoint = Endpoint(sock, protocol, self._service)
        protocol.connection_made(endpoint)
        sock.open(endpoint.receiver)

    def close(self, sock: DatagramSocket) -> None:
        self._endpoints.pop(sock).lose()


class Endpoint(asyncio.DatagramTransport):
    """A datagram socket with the methods of `asyncio.DatagramTransport`."""

    def __init__(self, sock: DatagramSocket, protocol: asyncio.DatagramProtocol, service: Service) -> None:
        super().__init__({"socket": sock.socket, "sockname": sock.socket.getsockname()})
        self._socket = sock
        self._service = service
        self._protocol: Any = protocol
        self._is_closing = False
        self._is_lost = False

    @property
    def receiver(self) -> Callable[[bytes, Any], object]:
        """What gets the datagrams."""
        receiver: Callable[[bytes, Any], object] = self._protocol.datagram_received
        return receiver

    def sendto(self, data: Bytes, addr: Any = None) -> None:
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if addr is None:
            raise ValueError("cannot send: a server's socket has no peer of its own; give the address")
        if not self._is_closing:
            self._socket.outbox.send(data, addr)

    def close(self) -> None:
        """Read no more; the listener's socket itself stays with the server."""
        if not self._is_closing:
            self._is_closing = True
            self._socket.hold()
            self._service.site.loop.call_soon(self.lose)

    def abort(self) -> None:
        self.close()

    def lose(self) -> None:
        """Tell the protocol, once, that it is over."""
        self._is_closing = True
        if self._is_lost:
            return
        self._is_lost = True
        try:
            self._protocol.connection_lost(None)
        except USER_ERRORS as error:
            self._service.report_datagram(error, "itself")

    def is_closing(self) -> bool:
        return self._is_closing

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol
        self._socket.give_to(self.receiver)

    def get_protocol(self) -> asyncio.BaseProtocol:
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol
