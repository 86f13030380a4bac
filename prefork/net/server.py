"""All that one worker serves: its services, the sockets it watches for them, and their end.

Knows: services, acceptors, transports. Does not know: processes, who decides what is watched.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prefork.config.model import ListenerConfig
from prefork.firewall import OPEN_TO_ALL, Firewalls, pack_host
from prefork.net.acceptor import Acceptor, ListeningSocket, Reserve, Shift
from prefork.net.datagram_app import build_datagram_app
from prefork.net.datagram_sockets import DatagramSockets
from prefork.net.entrance import evicts
from prefork.net.framings import build_framing
from prefork.net.guard import BanBoard, Guard, host_of
from prefork.net.handler import build_protocol_factory
from prefork.net.linger import Linger
from prefork.net.pulse import transports
from prefork.net.service import Departures, Service, Worksite
from prefork.net.sources import SourceTable
from prefork.scoreboard import Cell, Count, Rule, Scoreboard
from prefork.tls import Security
from prefork.watch import Watch

LAST_WORDS_SECONDS = 0.25  # for handlers that are cancelled at the end of a drain

LAST_ACCEPTS_SECONDS = 0.25  # a round trip, for handshakes under way when a server stops

log = logging.getLogger("prefork")


@dataclass(frozen=True, slots=True)
class Loadout:
    """What the listeners need beside their config.

    Attributes:
        apps: what their `app` names stand for.
        firewalls: of those that do not serve everybody, by their names.
        securities: of those that speak TLS, by their names.
        datagrams: the names of those that have datagrams.
    """

    apps: Mapping[str, Any]
    firewalls: Mapping[str, Firewalls] = field(default_factory=dict)
    securities: Mapping[str, Security] = field(default_factory=dict)
    datagrams: frozenset[str] = frozenset()


class Server:
    """The listeners of a config, served on one loop."""

    def __init__(
        self,
        listeners: Sequence[ListenerConfig],
        loaded: Loadout,
        site: Worksite,
        scoreboard: Scoreboard,
        seat: int,
    ) -> None:
        """Make a service of each listener; nothing is accepted before a socket is given.

        Args:
            seat: of this worker on the scoreboard.

        Raises:
            ConfigError: an app is of no kind that can be served.
        """
        self.site = site
        self._reserve = Reserve()
        self._is_last = False
        self._board = BanBoard(scoreboard.notice)
        self._banned_version = self._board.version
        self._sources = SourceTable(scoreboard.rows, seat)
        self._acceptors: dict[tuple[str, int], Acceptor] = {}
        self._datagrams = DatagramSockets()
        self._services = {each.name: self._open_service(each, loaded, i) for i, each in enumerate(listeners)}

    def _open_service(self, listener: ListenerConfig, loaded: Loadout, place: int) -> Service:
        framing = build_framing(listener.framing, listener.limits.frame, loaded.apps)
        service = Service(listener.name, listener.limits, framing, self.site, place)
        service.security = loaded.securities.get(listener.name)
        if service.security is not None:
            service.security.write_keys()
        firewalls = loaded.firewalls.get(listener.name, OPEN_TO_ALL)
        service.guard = Guard(listener.name, listener.limits, firewalls.clients, self._sources, self._board)
        service.guard.balancers = firewalls.balancers
        if listener.limits.life:
            service.departures = Departures()
        app = loaded.apps[listener.app]
        if listener.name in loaded.datagrams:
            self._datagrams.apps[listener.name] = build_datagram_app(app, service)
        else:
            service.make_protocol = build_protocol_factory(app, service)
        return service

    def tell_time(self) -> None:
        """Pass the pulse's time on to the services, and do what is due."""
        for service in self._services.values():
            service.now = self.site.now
            service.ledger.tell_times()
        self._board.refresh()
        if self._board.version != self._banned_version:
            self._banned_version = self._board.version
            self._end_banned()
            for service in self._services.values():
                if service.guard is not None:
                    service.guard.look()
        self.site.tally.write(Cell.FULL, int(self._is_full()))

    def _is_full(self) -> bool:
        """Whether nobody new is accepted for any listener."""
        streams = [s for name, s in self._services.items() if name not in self._datagrams.apps]
        return self.site.pressure.is_short or (bool(streams) and all(s.is_full and not evicts(s) for s in streams))

    def _end_banned(self) -> None:
        """End the connections of those who are banned from now on."""
        for transport in transports(self.site):
            if self._is_banned(transport.peer) and transport.service.enforces(Rule.BAN, transport.peer):
                transport.evict_soon(Rule.BAN.key)
        for handshake in self.handshakes:
            if self._is_banned(handshake.peer):
                handshake.expire("its network is banned", "ban")

    def _is_banned(self, peer: Any) -> bool:
        packed = pack_host(host_of(peer))
        return packed is not None and self._board.covers(packed)

    @property
    def names(self) -> list[str]:
        """The names of the listeners."""
        return list(self._services)

    @property
    def handshakes(self) -> list[Any]:
        """The TLS handshakes and PROXY headers under way."""
        return [one for service in self._services.values() for one in service.ledger.handshakes]

    def watch(self, listener: str, slot: int, fd: int, shift: Shift) -> None:
        """Serve a socket; it is closed when it is given again, or up."""
        self.unwatch(listener, slot)
        service = self._services[listener]
        if shift.watch is Watch.ONLY:
            self._datagrams.watch((listener, slot), fd, service)
            return
        self._acceptors[listener, slot] = Acceptor(ListeningSocket(fd), service, self._reserve, shift)

    def unwatch(self, listener: str, slot: int) -> None:
        """Leave a socket to others."""
        self._datagrams.unwatch((listener, slot))
        acceptor = self._acceptors.pop((listener, slot), None)
        if acceptor is not None:
            acceptor.close()

    def drain(
        self, seconds: float, leave: tuple[float, float], is_last: bool, on_done: Callable[[], None]
    ) -> None:
        """Accept nothing more, let what is open finish; call `on_done` when nothing is open any more.

        Args:
            seconds: after these what is still open is cut.
            leave: each connection may end from a random time between these on, in seconds from now.
            is_last: nobody comes after this worker: accept for a moment more what is on its way.
        """
        site = self.site
        site.draining.begin()
        for service in self._services.values():
            service.departures = Departures()
        site.loop.call_later(seconds, self._cut, on_done)
        self._is_last = is_last
        if not is_last:
            self._datagrams.leave()
        if is_last:
            site.loop.call_later(min(seconds, LAST_ACCEPTS_SECONDS), self._let_leave, leave, on_done)
        else:
            self._let_leave(leave, on_done)

    def hasten(self, seconds: float, leave: tuple[float, float], on_done: Callable[[], None]) -> None:
        """Give a drain that has begun new times; the earlier end counts."""
        self.site.loop.call_later(seconds, self._cut, on_done)
        self._let_leave(leave, on_done)

    def stop_accepting(self) -> None:
        """Close the listening sockets, and read no more datagrams."""
        self._datagrams.pause()
        self._close_acceptors()

    def _close_acceptors(self) -> None:
        while self._acceptors:
            self._acceptors.popitem()[1].close()

    def close(self) -> None:
        """Close what is left, at the worker's end."""
        for watcher in list(self.site.selector.watchers.values()):
            if isinstance(watcher, Linger):
                watcher.expire()
        self.give_up()
        self._reserve.close()

    def give_up(self) -> None:
        """Serve nobody new, and write down what is known of the others."""
        for transport in transports(self.site):
            transport.tell_bytes()
        for service in self._services.values():
            service.ledger.tell_times()
        self.stop_accepting()
        self._datagrams.close()

    def _let_leave(self, leave: tuple[float, float], on_done: Callable[[], None]) -> None:
        if self._is_last:
            self._datagrams.finish()
        self._close_acceptors()
        site = self.site
        now = site.loop.time()
        for service in self._services.values():
            if service.departures is not None:
                service.departures.window = (now + leave[0], now + leave[1])
        for transport in transports(site):
            transport.join_drain()
        site.on_empty = on_done
        site.check_empty()

    def _cut(self, on_done: Callable[[], None]) -> None:
        self._datagrams.pause()
        rest = transports(self.site)
        if rest:
            log.warning("cut %d connections that were open at the end of the drain", len(rest))
        for transport in rest:
            transport.service.ledger.count(Count.CUT)
            transport.cut()
        for handshake in self.handshakes:
            handshake.expire("the server stops", "cut")
        self.site.loop.call_later(LAST_WORDS_SECONDS, on_done)
