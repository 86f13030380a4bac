"""A connection over TLS: the stream transport with a socket that speaks it.

Knows: what TLS does differently: its goodbye, its half-close, a read that has to write. Does not know: records,
certificates.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from prefork.net.handshake import Arrival, Handshake
from prefork.net.linger import Linger
from prefork.net.loop import READABLE, WRITABLE
from prefork.net.outlet import BROKEN, ENDED, EVENTS
from prefork.net.service import USER_ERRORS, Service
from prefork.net.tls_socket import TlsSocket
from prefork.net.transport import StreamTransport


@runtime_checkable
class Upgradable(Protocol):
    """A protocol of our own, which is told of its new transport before a byte comes from it."""

    def on_upgraded(self, transport: Any) -> None: ...


class TlsTransport(StreamTransport):
    """A connection on which TLS is agreed upon.

    Attributes:
        details: what was agreed.
    """

    __slots__ = ("_is_reply_due", "details")

    def __init__(self, sock: TlsSocket, peer: Any, service: Service, serial: int) -> None:
        super().__init__(sock, peer, service, serial)
        self.details = sock.describe()
        self._is_reply_due = False  # OpenSSL is to answer a key update, and can read on only then

    def _watch(self) -> None:
        self._service.site.selector.replace(self._socket.fileno(), self)

    def adopt(self, protocol: asyncio.BaseProtocol) -> None:
        """Serve a protocol that has a connection already."""
        self._watch()
        self.set_protocol(protocol)
        if isinstance(protocol, Upgradable):
            protocol.on_upgraded(self)
        self.join_drain()

    def _on_receive_error(self, error: OSError) -> None:
        if isinstance(error, ssl.SSLWantWriteError):
            self._is_reply_due = True
            self._set_mask(self._mask & ~READABLE | WRITABLE)
        else:
            self._lose(error)

    def _is_read_due(self, mask: int) -> bool:
        if mask & WRITABLE and self._is_reply_due:
            self._is_reply_due = False
            self._set_mask(self._mask | READABLE)
            self._flush()
            return self._phase < BROKEN
        return super()._is_read_due(mask)

    def can_write_eof(self) -> bool:
        """Return False: the goodbye of TLS ends both directions, as with asyncio's own."""
        return False

    def write_eof(self) -> None:
        raise NotImplementedError("cannot write EOF: TLS has no half-close; close the connection")

    def _finish(self) -> None:
        """Everything is flushed; a peer that has said goodbye has promised to send nothing more."""
        sock: Any = self._socket
        if not sock.say_goodbye():
            self._set_mask(self._mask | WRITABLE)
            return
        if self._mask & ENDED:
            self._release()
        else:
            self._shut_down()
            Linger(self._socket, self._service, self._mask & EVENTS, self.serial, self.reason)
        self._part(None)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        sock: Any = self._socket
        known: dict[str, Callable[[], Any]] = {
            "ssl_object": lambda: sock,
            "sslcontext": lambda: sock.context,
            "cipher": lambda: (self.details.cipher, self.details.version, self.details.bits),
            "compression": lambda: None,
            "peercert": lambda: self.details.peer_certificate,
        }
        return known[name]() if name in known else super().get_extra_info(name, default)


def accept_tls(sock: socket.socket, peer: Any, service: Service, serial: int) -> None:
    """Begin TLS on a connection that was accepted."""
    assert service.security is not None
    arrival = Arrival(sock, peer, serial, lambda tls: TlsTransport(tls, peer, service, serial).open())
    handshake = Handshake(arrival, service.security.context, service, service.security.alpn)
    service.site.selector.watch(sock.fileno(), handshake, handshake.mask)


async def upgrade(
    transport: StreamTransport, context: ssl.SSLContext, alpn: tuple[str, ...], timeout: float | None
) -> TlsTransport:
    """Begin TLS on a connection that is in use; return its new transport.

    Args:
        transport: all that was written to it is sent; it is without use from now on.
        timeout: of the handshake; None: `limits.handshake`.

    Raises:
        OSError: TLS was not agreed upon, and the connection is lost.
    """
    service = transport.service
    agreed: asyncio.Future[TlsTransport] = service.site.loop.create_future()
    sock, protocol = transport.hand_over()

    def on_agreed(tls: TlsSocket) -> None:
        upgraded = TlsTransport(tls, transport.peer, service, transport.serial)
        upgraded.continue_from(transport)
        transport.bequeath(upgraded)
        upgraded.adopt(protocol)
        if agreed.cancelled():  # as asyncio's start_tls() does
            upgraded.close()
        if not agreed.done():
            agreed.set_result(upgraded)

    def on_failed(error: OSError) -> None:
        if not agreed.done():
            agreed.set_exception(error)
        try:
            protocol.connection_lost(error)
        except USER_ERRORS as fault:
            service.report_error(fault, transport.serial, transport.peer)

    handshake = Handshake(
        Arrival(sock, transport.peer, transport.serial, on_agreed, on_failed), context, service, alpn
    )
    if timeout is not None:
        handshake.deadline = service.site.loop.time() + timeout
    selector = service.site.selector
    selector.replace(sock.fileno(), handshake)
    if handshake.mask != READABLE:
        selector.rewatch(sock.fileno(), READABLE, handshake.mask)
    try:
        return await agreed
    except asyncio.CancelledError:
        if not agreed.done() or agreed.cancelled():
            handshake.expire("the app has given up")
        raise
