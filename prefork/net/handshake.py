"""A connection before it is one: the TLS handshake, in its own time, as one of a limited number.

Knows: a socket, a context, the deadline. Does not know: protocols, what is said once TLS is agreed upon.
"""

from __future__ import annotations

import math
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prefork.net.hello import MAX_HELLO_BYTES, NO_APPLICATION_PROTOCOL, read_offer
from prefork.net.linger import Linger
from prefork.net.loop import EDGE, READABLE, WRITABLE
from prefork.net.service import Service
from prefork.net.tls_socket import TlsSocket
from prefork.scoreboard import Cell


@dataclass(frozen=True, slots=True)
class Arrival:
    """A socket on which TLS is to be agreed upon: whose it is, and what comes after."""

    sock: socket.socket
    peer: Any
    serial: int
    on_agreed: Callable[[TlsSocket], None]
    on_failed: Callable[[OSError], None] = lambda error: None  # noqa: ARG005  # nobody waits


class Handshake:
    """Watches a socket until TLS is agreed upon, refused, or too late."""

    __slots__ = ("_alpn", "_arrival", "_context", "_fd", "_mask", "_seen", "_service", "_tls", "deadline")

    def __init__(self, arrival: Arrival, context: ssl.SSLContext, service: Service, alpn: tuple[str, ...]) -> None:
        self._arrival = arrival
        self._context = context
        self._service = service
        self._alpn = alpn
        self._tls: TlsSocket | None = None
        self._fd = arrival.sock.fileno()
        self._seen = 0  # bytes of the client's first words
        self._mask = READABLE | EDGE if alpn else READABLE  # half a hello is looked at again when more has come
        now = service.site.loop.time()
        self.deadline = now + service.limits.handshake if service.limits.handshake else math.inf
        under_way = service.site.handshakes
        if len(under_way) >= service.limits.handshakes:
            next(iter(under_way)).expire("limits.handshakes is reached, and it is the oldest")
        under_way[self] = None

    @property
    def mask(self) -> int:
        """The events that it waits for."""
        return self._mask

    def on_event(self, mask: int) -> None:  # noqa: ARG002  # OpenSSL finds out
        try:
            if self._tls is None:
                if self._alpn and not self._is_offer_known():
                    return
                self._tls = self._wrap()
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._expect(READABLE)
        except ssl.SSLWantWriteError:
            self._expect(WRITABLE)
        except OSError as error:
            self._fail(error)
        else:
            self._agree(self._tls)

    def _is_offer_known(self) -> bool:
        """Look at the client's first words without taking them.

        Raises:
            OSError: it offers protocols, and none of ours.
        """
        try:
            begun = self._arrival.sock.recv(MAX_HELLO_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        offer = read_offer(begun)
        if offer and not set(offer) & set(self._alpn):
            self._arrival.sock.send(NO_APPLICATION_PROTOCOL)
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, "no application protocol in common")
        has_grown = len(begun) > self._seen
        self._seen = len(begun)
        return offer is not None or not has_grown  # what comes to no more is for OpenSSL to refuse

    def _wrap(self) -> TlsSocket:
        context = self._context
        theirs, context.sslsocket_class = context.sslsocket_class, TlsSocket
        wrapped = context.wrap_socket(
            self._arrival.sock, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
        context.sslsocket_class = theirs
        assert isinstance(wrapped, TlsSocket)
        return wrapped

    def _expect(self, mask: int) -> None:
        if mask != self._mask:
            self._service.site.selector.rewatch(self._fd, self._mask, mask)
            self._mask = mask

    @property
    def _socket(self) -> socket.socket:
        return self._arrival.sock if self._tls is None else self._tls

    def _agree(self, sock: TlsSocket) -> None:
        self._expect(READABLE)
        del self._service.site.handshakes[self]
        tally = self._service.site.tally
        tally.count(Cell.HANDSHAKES)
        if sock.session_reused:
            tally.count(Cell.RESUMED)
        self._arrival.on_agreed(sock)

    def _fail(self, error: OSError) -> None:
        service, arrival = self._service, self._arrival
        del service.site.handshakes[self]
        service.site.tally.count(Cell.UNSECURED)
        service.tell_peer(f"TLS handshake failed: {describe(error)}", arrival.serial, arrival.peer)
        sock = self._socket
        try:
            sock.shutdown(socket.SHUT_WR)  # behind OpenSSL's alert, which a reset would overtake
        except OSError:  # the peer is gone
            service.site.selector.forget(self._fd)
            sock.close()
            service.count_closed()
        else:
            Linger(sock, service, self._mask)
        arrival.on_failed(error)

    def expire(self, reason: str = "limits.handshake has passed") -> None:
        """End it, if it has not ended: it is too late."""
        if self in self._service.site.handshakes:
            self._fail(TimeoutError(reason))


def describe(error: OSError) -> str:
    """Return why a handshake failed, in a few words without the peer's bytes."""
    reason = getattr(error, "reason", None)
    if isinstance(reason, str):
        return reason.replace("_", " ").lower()
    return str(error.strerror or error) or type(error).__name__
