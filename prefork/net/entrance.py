"""What a connection passes between accept(2) and the protocol that serves it: rules, its PROXY header, TLS.

Knows: one connection that has just come, its listener's rules. Does not know: who accepts, what is served.
"""

from __future__ import annotations

import math
import socket
from typing import Any

from prefork.errors import RemoteProtocolError
from prefork.net.guard import Guard, host_of
from prefork.net.handshake import HASTE, queue_up
from prefork.net.linger import NO_LINGER
from prefork.net.loop import EDGE, ENDS, READABLE
from prefork.net.proxy_header import MAX_HEADER_BYTES, ProxyHeader, parse_header
from prefork.net.service import Service
from prefork.net.tls_transport import accept_tls
from prefork.net.transport import StreamTransport
from prefork.scoreboard import Rule


def enter(sock: socket.socket, peer: Any, service: Service) -> None:
    """Let a connection in, or turn it away; who may not come in makes nobody else give way."""
    guard, host = service.guard, host_of(peer)
    is_balancer = False
    key: int | None = 0
    if guard is not None and host:
        is_balancer = guard.balancers is not None and guard.is_balancer(host)
        if is_balancer:
            key = 0 if guard.tolerates_balancer(host, service.enforces) else None
        else:
            key = guard.admit(host, service.enforces)
    if key is None:
        turn_away(sock, service)
        return
    is_full = service.ledger.open >= service.limits.connections
    if (is_full or service.site.tally.open >= service.site.pressure.max_open) and not has_room(
        service, peer, is_balancer
    ):
        if guard is not None and key:
            guard.give_back(key)
        turn_away(sock, service)
    elif guard is not None and is_balancer:
        HeaderArrival(sock, peer, service, guard)
    else:
        serial = service.ledger.count_opened()
        if guard is not None and key:
            guard.claim(serial, key)
        begin(sock, peer, service, serial)


def has_room(service: Service, peer: Any, is_balancer: bool) -> bool:
    """Whether a limit of the worker or of the listener lets one more in; the oldest may give way for it.

    Args:
        is_balancer: for whom it is, and whether that one may come in, is told later.
    """
    site = service.site
    if service.is_full and not (is_balancer and evicts(service)) and not make_room(service, peer):
        return False
    return site.tally.open < site.pressure.max_open or not service.enforces(Rule.DESCRIPTORS, peer)


def evicts(service: Service) -> bool:
    """Whether the oldest connection of a full listener gives way."""
    return service.limits.when_full == "oldest" and "connections" not in service.limits.dry_run


def make_room(service: Service, peer: Any) -> bool:
    """Let the oldest idle connection of a full listener give way; return False if the one who comes has to."""
    find, oldest = service.site.pressure.find_oldest, None
    if evicts(service):
        oldest = find(service.name, service.transports, service.site.now)
    if not service.enforces(Rule.CONNECTIONS, peer if oldest is None else oldest.peer):
        return True
    if oldest is not None:
        oldest.evict(Rule.CONNECTIONS.key)
    return oldest is not None


def turn_away(sock: socket.socket, service: Service) -> None:
    """Close a connection that may not come in: with a goodbye, if there is one for plain clients, or a reset."""
    goodbye = service.limits.goodbye
    try:
        if goodbye is not None and service.security is None:
            sock.send(goodbye.encode() + b"\n")
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
    except OSError:  # it has gone by itself
        pass
    sock.close()


def begin(sock: socket.socket, peer: Any, service: Service, serial: int) -> None:
    """Serve a connection that may come in, and is counted."""
    if service.security is not None and not service.security.is_on_request:
        accept_tls(sock, peer, service, serial)
        return
    transport = StreamTransport(sock, peer, service, serial)
    transport.open()
    guard = service.guard
    if guard is not None and guard.balancers is not None and serial not in guard.headers:
        transport.expect_no_header()


class HeaderArrival:
    """Watches the socket of a balancer until its PROXY header has told whom it stands for, or it is too late."""

    __slots__ = ("_guard", "_service", "_socket", "deadline", "peer", "serial")

    def __init__(self, sock: socket.socket, peer: Any, service: Service, guard: Guard) -> None:
        self._socket = sock
        self.peer = peer
        self._service = service
        self._guard = guard
        self.serial = service.ledger.count_opened()
        timeout = service.limits.handshake
        self.deadline = service.site.loop.time() + timeout * HASTE if timeout else math.inf
        queue_up(self, service)
        service.site.selector.watch(sock.fileno(), self, READABLE | EDGE | ENDS)

    def on_event(self, mask: int) -> None:
        try:
            begun = self._socket.recv(MAX_HEADER_BYTES, socket.MSG_PEEK)
            header = parse_header(begun)
            if header is None and (mask & ENDS or not begun):
                raise RemoteProtocolError("cannot read the PROXY header: the input ended before it did")
        except BlockingIOError:
            return
        except (OSError, RemoteProtocolError) as error:
            self._refuse(str(error))
            return
        if header is not None:
            self._socket.recv(header.size)
            self._go_on(header)

    def _go_on(self, header: ProxyHeader) -> None:
        service, guard, serial = self._service, self._guard, self.serial
        peer = self.peer if header.is_local else header.peer
        host = "" if header.is_local else host_of(peer)
        key = guard.admit(host, service.enforces) if host else 0
        is_over = service.ledger.open > service.limits.connections
        if key is None or (is_over and evicts(service) and not make_room(service, peer)):
            if key:
                guard.give_back(key)
            self.close("connections" if key is not None else "ban")
            return
        if key:
            guard.claim(serial, key)
        guard.headers[serial] = header
        service.site.selector.unwatch(self._socket.fileno())
        del service.ledger.handshakes[self]
        begin(self._socket, peer, service, serial)

    def _refuse(self, reason: str) -> None:
        if self._service.enforces(Rule.PROXY, self.peer):
            self._service.log.debug("the PROXY header of %s: %s", self.peer, reason)
            self.close()

    def close(self, reason: str = "broken") -> None:
        """Turn it away, for a reason of `End`."""
        del self._service.ledger.handshakes[self]
        self._service.site.selector.forget(self._socket.fileno())
        turn_away(self._socket, self._service)
        self._service.count_closed(self.serial, reason)

    def expire(self, words: str = "", reason: str = "handshake") -> None:
        """End it, if it has not ended; without other words, since it is too late."""
        if self not in self._service.ledger.handshakes:
            return
        if words:
            self._service.tell_peer(words, self.serial, self.peer)
            self.close(reason)
        elif self._service.enforces_once(Rule.HANDSHAKE, self.serial, self.peer):
            self.close(reason)
        else:
            self.deadline = math.inf
