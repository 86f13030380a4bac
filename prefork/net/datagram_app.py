"""How an app serves datagrams: as a function of one datagram, or as an asyncio protocol.

Knows: the kinds of apps. Does not know: sockets, the kernel, slots.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from prefork.app import AppKind, recognise
from prefork.net.datagrams import Bytes, DatagramSocket
from prefork.net.service import USER_ERRORS, Service


class Reply:
    """Answers one datagram: `reply(data)`. It may be kept, and called later, and more than once.

    Attributes:
        peer: the address that it answers to.
    """

    __slots__ = ("_socket", "peer")

    def __init__(self, sock: DatagramSocket, peer: Any) -> None:
        self._socket = sock
        self.peer = peer

    def __call__(self, data: Bytes) -> None:
        """Send one datagram back.

        Raises:
            ValueError: it is larger than a datagram can be.
        """
        if self.peer is not None and not self._socket.is_closed:
            self._socket.send(data, self.peer)

    def many(self, datagrams: Sequence[Bytes]) -> None:
        """Send several datagrams back, in one call to the kernel where it can (UDP_SEGMENT, udp(7))."""
        if self.peer is not None and not self._socket.is_closed:
            self._socket.send_many(datagrams, self.peer)


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
        function = self._function
        sock.open(lambda data, peer: function(data, peer, Reply(sock, peer)))

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
        sock.open(lambda data, peer: self._start(data, peer, sock))

    def close(self, sock: DatagramSocket) -> None:
        self._sockets.remove(sock)

    def _start(self, data: bytes, peer: Any, sock: DatagramSocket) -> None:
        service = self._service
        service.open += 1
        service.site.handlers += 1
        if service.is_full:
            for each in self._sockets:
                each.pause()
        task = service.site.loop.create_task(self._function(data, peer, Reply(sock, peer)))
        task.add_done_callback(lambda done: self._on_done(done, peer))

    def _on_done(self, task: asyncio.Task[object], peer: Any) -> None:
        service = self._service
        was_full = service.is_full
        service.open -= 1
        service.site.handlers -= 1
        if was_full and not service.site.draining.begun:
            for each in self._sockets:
                each.resume()
        if not task.cancelled() and task.exception() is not None:
            service.report_datagram(task.exception(), peer)
        if service.site.draining.begun:
            service.site.check_empty()


class _Protocols:
    """Gives each socket a protocol and a transport, as `loop.create_datagram_endpoint` would."""

    def __init__(self, factory: Callable[[], asyncio.DatagramProtocol], service: Service) -> None:
        self._factory = factory
        self._service = service
        self._protocols: dict[DatagramSocket, asyncio.DatagramProtocol] = {}

    def open(self, sock: DatagramSocket) -> None:
        try:
            self._protocols[sock] = protocol = self._factory()
            protocol.connection_made(Endpoint(sock, protocol))
        except USER_ERRORS as error:
            self._service.report_datagram(error, "itself")
            return
        sock.open(protocol.datagram_received)

    def close(self, sock: DatagramSocket) -> None:
        protocol = self._protocols.pop(sock, None)
        if protocol is None:
            return
        try:
            protocol.connection_lost(None)
        except USER_ERRORS as error:
            self._service.report_datagram(error, "itself")


class Endpoint(asyncio.DatagramTransport):
    """A datagram socket with the methods of `asyncio.DatagramTransport`."""

    def __init__(self, sock: DatagramSocket, protocol: asyncio.DatagramProtocol) -> None:
        super().__init__({"socket": sock.socket, "sockname": sock.socket.getsockname()})
        self._socket = sock
        self._protocol: asyncio.BaseProtocol = protocol

    def sendto(self, data: Bytes, addr: Any = None) -> None:
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if addr is None:
            raise ValueError("cannot send: a server's socket has no peer of its own; give the address")
        if not self._socket.is_closed:
            self._socket.send(data, addr)

    def close(self) -> None:
        """Read no more; the listener's socket itself stays with the server."""
        self._socket.pause()

    def abort(self) -> None:
        self.close()

    def is_closing(self) -> bool:
        return self._socket.is_closed

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol
