"""A connection before it is one: the TLS handshake, in its own time, as one of a limited number.

Knows: a socket, a context, the deadline. Does not know: protocols, what is said once TLS is agreed upon.
"""

from __future__ import annotations

import math
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from prefork.net.hello import MAX_HELLO_BYTES, NO_APPLICATION_PROTOCOL, read_offer
from prefork.net.linger import Linger
from prefork.net.loop import EDGE, ENDS, READABLE, WRITABLE
from prefork.net.service import REASONS, Service
from prefork.net.tls_socket import TlsSocket
from prefork.scoreboard import Count, Rule

HASTE = 0.99  # of limits.handshake: the peer's clock began with its connect(2), before ours
ENDED_AT_ONCE, PAUSE_SECONDS = 8, 0.002  # half a millisecond of work, and then others have their turn


@dataclass(frozen=True, slots=True)
class Arrival:
    """A socket on which TLS is to be agreed upon: whose it is, and what comes after."""

    sock: socket.socket
    peer: Any
    serial: int
    on_agreed: Callable[[TlsSocket], None]
    on_failed: Callable[[OSError], None] = lambda error: None  # noqa: ARG005  # nobody waits


def end_late(service: Service) -> None:
    """End the handshakes of a service whose time is over, and come back for the next."""
    loop, ledger = service.site.loop, service.ledger
    for handshake in list(islice(ledger.handshakes, ENDED_AT_ONCE)):
        if handshake.deadline <= loop.time():
            handshake.expire()
    next_one = min((one.deadline for one in islice(ledger.handshakes, ENDED_AT_ONCE)), default=math.inf)
    ledger.is_timed = next_one < math.inf
    if ledger.is_timed:
        loop.call_at(max(next_one, loop.time() + PAUSE_SECONDS), end_late, service)


def queue_up(newcomer: Any, service: Service) -> None:
    """Be one of a limited number that are under way, and are ended when their time is over.

    Args:
        newcomer: has `peer`, `deadline` and `expire(words, reason)`.
    """
    under_way = service.ledger.handshakes
    if len(under_way) >= service.limits.handshakes:
        oldest = next(iter(under_way))
        if service.enforces(Rule.HANDSHAKES, oldest.peer, is_told=True):
            oldest.expire(REASONS[Rule.HANDSHAKES])
    under_way[newcomer] = None
    if not service.ledger.is_timed:
        end_late(service)


class Handshake:
    """Watches a socket until TLS is agreed upon, refused, or too late."""

    __slots__ = ("_alpn", "_arrival", "_begun_at", "_context", "_fd", "_mask", "_service", "_tls", "deadline")

    def __init__(self, arrival: Arrival, context: ssl.SSLContext, service: Service, alpn: tuple[str, ...]) -> None:
        self._arrival = arrival
        self._context = context
        self._service = service
        self._alpn = alpn
        self._tls: TlsSocket | None = None
        self._fd = arrival.sock.fileno()
        self._mask = (
            READABLE | EDGE | ENDS if alpn else READABLE
        )  # half a hello is looked at again when more comes
        now = service.site.loop.time()
        self._begun_at = now
        self.deadline = now + service.limits.handshake * HASTE if service.limits.handshake else math.inf
        queue_up(self, service)

    @property
    def _under_way(self) -> dict[Any, None]:
        return self._service.ledger.handshakes

    @property
    def peer(self) -> Any:
        """Who has come."""
        return self._arrival.peer

    @property
    def mask(self) -> int:
        """The events that it waits for."""
        return self._mask

    def on_event(self, mask: int) -> None:
        try:
            if self._tls is None:
                if self._alpn and not self._is_offer_known() and not mask & ENDS:
                    return
                self._tls = self._wrap()
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._expect(READABLE)
        except ssl.SSLWantWriteError:
            self._expect(WRITABLE)
        except (OSError, ValueError) as error:
            self._fail(error if isinstance(error, OSError) else OSError(str(error)))
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
        return offer is not None

    def _wrap(self) -> TlsSocket:
        context = self._context
        theirs, context.sslsocket_class = context.sslsocket_class, TlsSocket
        try:
            wrapped = context.wrap_socket(
                self._arrival.sock, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=False
            )
        finally:
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
        service = self._service
        if service.guard is not None and not service.guard.tolerates_peer(self.peer, service.enforces):
            self._fail(PermissionError("its network may not connect any more"), "ban")
            return
        self._expect(READABLE)
        del self._under_way[self]
        ledger = service.ledger
        ledger.count(Count.HANDSHAKES)
        ledger.note_handshake(self._service.site.loop.time() - self._begun_at)
        if sock.session_reused:
            ledger.count(Count.RESUMED)
        self._arrival.on_agreed(sock)

    def _fail(self, error: OSError, reason: str = "broken") -> None:
        service, arrival = self._service, self._arrival
        del self._under_way[self]
        service.ledger.count(Count.UNSECURED)
        service.tell_peer(f"TLS handshake failed: {describe(error)}", arrival.serial, arrival.peer)
        service.site.journal.note_failure(
            service, arrival.peer, arrival.serial, service.site.loop.time() - self._begun_at, reason
        )
        sock = self._socket
        try:
            sock.shutdown(socket.SHUT_WR)  # behind OpenSSL's alert, which a reset would overtake
        except OSError:  # the peer is gone
            service.site.selector.forget(self._fd)
            sock.close()
            service.count_closed(arrival.serial, reason)
        else:
            Linger(sock, service, self._mask, arrival.serial, reason)
        arrival.on_failed(error)

    def expire(self, words: str = "", reason: str = "handshake") -> None:
        """End it, if it has not ended; without other words, since it is too late.

        Args:
            reason: for the books, see `prefork.scoreboard.End`.
        """
        if self not in self._under_way:
            return
        serial, peer = self._arrival.serial, self._arrival.peer
        if not words and not self._service.enforces_once(Rule.HANDSHAKE, serial, peer, is_told=True):
            self.deadline = math.inf
        else:
            self._fail(TimeoutError(words or "limits.handshake has passed"), reason)


def describe(error: OSError) -> str:
    """Return why a handshake failed, in a few words without the peer's bytes."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    reason = getattr(error, "reason", None)
    if isinstance(reason, str):
        return reason.replace("_", " ").lower()
    return str(error.strerror or error) or type(error).__name__
