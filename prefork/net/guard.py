"""Who may have a connection of a listener: networks, bans, and how many a source has over all workers.

Knows: a listener's rules, addresses. Does not know: sockets, what is served, why a rule is there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from prefork.config.limits import Limits
from prefork.firewall import Bans, Firewall, pack_host, source_of
from prefork.net.proxy_header import ProxyHeader
from prefork.net.sources import SourceTable
from prefork.scoreboard import Notice, Rule

AUTO_PER_IP = 256  # postfix: 50 of mail servers; a household or an office behind one address has more
LOOPBACK = bytes(15) + b"\1"
Enforces = Callable[[Rule, object], bool]


class BanBoard:
    """What the master has banned, as its notice tells."""

    def __init__(self, notice: Notice) -> None:
        self._notice = notice
        self._version = notice.version
        self._bans = Bans()
        self.is_any = False
        self._read()

    @property
    def version(self) -> int:
        """Of what was read last."""
        return self._version

    def is_news(self) -> bool:
        """Whether anybody is banned, or may be by now."""
        return self.is_any or self._notice.version != self._version

    def refresh(self) -> None:
        """Read the notice if it is new."""
        if self._notice.version != self._version:
            self._read()

    def _read(self) -> None:
        found = self._notice.read()
        if found is not None:
            self._version, text = found
            self._bans, self.is_any = Bans.unpack(text), bool(text)

    def covers(self, packed: bytes) -> bool:
        """Whether an address is banned."""
        return self.is_any and self._bans.covers(packed)


class Guard:
    """The rules of one listener in one worker.

    Attributes:
        balancers: networks that PROXY headers are required of; None: the listener has none.
        is_strict: whether an address may be refused for itself, as of the last `look`.
        headers: those that have told of clients, by the numbers of the connections.
        claims: keys of counted sources, by the same.
    """

    def __init__(
        self, name: str, limits: Limits, firewall: Firewall, sources: SourceTable, board: BanBoard
    ) -> None:
        self._prefix = name.encode() + b"\0"
        self._limits = limits
        self._firewall = firewall
        self._is_walled = not firewall.is_open
        self._sources = sources
        self._board = board
        self._all = sources.key_of(self._prefix)
        self.claims: dict[int, int] = {}  # keys of counted sources by the numbers of their connections
        self._has_rates = bool(limits.rate or limits.per_ip_rate)
        self.is_strict = self._is_walled or board.is_any
        self.balancers: Firewall | None = None
        self.headers: dict[int, ProxyHeader] = {}

    def look(self) -> None:
        """Find out whether anybody is banned now."""
        self.is_strict = self._is_walled or self._board.is_any

    def is_balancer(self, host: str) -> bool:
        """Whether a peer must tell with a PROXY header whom it stands for."""
        if self.balancers is None:
            return False
        packed = pack_host(host)
        return packed is not None and self.balancers.admits(packed)

    def tolerates_balancer(self, host: str, enforces: Enforces) -> bool:
        """Whether a balancer may come: the lists are for clients, but a ban is for whom it names."""
        packed = pack_host(host)
        self._board.refresh()
        return packed is None or not (self._board.covers(packed) and enforces(Rule.BAN, host))

    def admit(self, host: str, enforces: Enforces) -> int | None:
        """Return the key that a connection is counted under, 0 if it is not; None: it is refused.

        Args:
            enforces: called with a rule and the host when one is broken; returns whether that is held.
        """
        packed = pack_host(host)
        if packed is None:
            return 0
        limits = self._limits
        if (self._is_walled or self._board.is_news()) and not self.tolerates(packed, enforces, host):
            return None
        per_ip = limits.per_ip
        if per_ip is None:
            per_ip = 0 if packed[0] in PRIVATE_FIRST and is_private(packed) else AUTO_PER_IP
        if not per_ip and not self._has_rates:
            return 0
        sources = self._sources
        key = sources.key_of(self._prefix + source_of(packed, limits.prefix_v4, limits.prefix_v6))
        now, of_source, of_all = time.monotonic(), limits.per_ip_rate, limits.rate
        if of_source and not sources.hit(key, of_source, now) and enforces(Rule.PER_IP_RATE, host):
            return None
        if per_ip and not sources.enter(key, per_ip, now):
            if enforces(Rule.PER_IP, host):
                return None
            sources.enter(key, 0, now)
        if of_all and not sources.hit(self._all, of_all, now) and enforces(Rule.RATE, host):
            if per_ip:
                sources.leave(key)
            return None
        return key if per_ip else 0

    def tolerates_peer(self, peer: Any, enforces: Enforces) -> bool:
        """Whether a datagram of a peer may come in."""
        packed = pack_host(host_of(peer))
        return packed is None or self.tolerates(packed, enforces, peer[0])

    def tolerates(self, packed: bytes, enforces: Enforces, host: str) -> bool:
        """Whether an address may come at all."""
        if self._is_walled and not self._firewall.admits(packed) and enforces(Rule.DENY, host):
            return False
        board = self._board
        board.refresh()
        return not (board.is_any and board.covers(packed) and enforces(Rule.BAN, host))

    def give_back(self, key: int) -> None:
        """Take note that a connection was counted in vain."""
        self._sources.leave(key)

    def claim(self, serial: int, key: int) -> None:
        """Remember under which key a connection is counted."""
        self.claims[serial] = key

    def release(self, serial: int) -> None:
        """Take note that a connection has ended, whether it was counted or not."""
        self.headers.pop(serial, None)
        key = self.claims.pop(serial, 0)
        if key:
            self._sources.leave(key)


PRIVATE_FIRST = frozenset((0, 10, 127, 172, 192, 169, 100, 0xFC, 0xFD, 0xFE))  # bytes that those begin with


def is_private(packed: bytes) -> bool:
    """Whether an address is of a private network, where one may stand for many: RFC 1918, 3927, 4193, 6598."""
    first, second = packed[0], packed[1]
    if len(packed) == 4:
        return (
            first in (0, 10, 127)
            or (first == 172 and 16 <= second < 32)
            or (first, second) in ((192, 168), (169, 254))
            or (first == 100 and 64 <= second < 128)
        )
    return first & 0xFE == 0xFC or (first == 0xFE and second & 0xC0 == 0x80) or packed == LOOPBACK


def host_of(peer: Any) -> str:
    """Return the host of a peer as accept(2) gives it; empty: it has none."""
    return peer[0] if type(peer) is tuple and peer and type(peer[0]) is str else ""
