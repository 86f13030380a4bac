"""What an operator asks a worker: who is connected; and what is done to one connection.

Knows: open connections, what may be asked of them. Does not know: who asks, how answers travel.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from prefork.errors import LocalProtocolError, PreforkError
from prefork.firewall import Firewall, build_network, pack_host
from prefork.net.guard import host_of
from prefork.net.peer import name_peer
from prefork.net.pulse import transports
from prefork.net.service import Worksite
from prefork.net.transport import StreamTransport
from prefork.scoreboard import Rule


def answer_survey(site: Worksite, slot: int, command: str, arguments: dict[str, Any]) -> list[Any]:
    """Return the rows that a question gets.

    Raises:
        LocalProtocolError: there is no such question, or it is asked wrongly.
    """
    if command == "conns":
        return list(list_connections(site, slot, arguments))
    if command == "kick":
        return kick(site, str(arguments.get("id", "")))
    raise LocalProtocolError(f"there is no question {command!r}")


def list_connections(site: Worksite, slot: int, wanted: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return a row for each connection that is wanted.

    Args:
        wanted: any of `listener` (a name), `peer` (a network), `older` and `idle` (seconds).
    """
    now = site.loop.time()
    network = None
    if wanted.get("peer"):
        try:
            network = build_network(str(wanted["peer"]))
        except PreforkError as error:
            raise LocalProtocolError(f"cannot look for {wanted['peer']!r}: {error}") from error
    for transport in transports(site):
        row = describe(transport, slot, now)
        if wanted.get("listener") not in (None, row["listener"]):
            continue
        if row["age"] < float(wanted.get("older") or 0) or row["idle"] < float(wanted.get("idle") or 0):
            continue
        if network is None or is_within(transport, network):
            yield row


def describe(transport: StreamTransport, slot: int, now: float) -> dict[str, Any]:
    """Return what is known of a connection."""
    service = transport.service
    return {
        "id": service.name_connection(transport.serial),
        "listener": service.name,
        "slot": slot,
        "peer": name_peer(transport.peer),
        "age": round(max(0.0, now - transport.born), 1),
        "idle": round(max(0.0, now - transport.touched), 1),
        "received": transport.received,
        "sent": transport.sent,
        "waiting": transport.get_write_buffer_size(),
    }


def is_within(transport: StreamTransport, network: Firewall) -> bool:
    """Whether the peer of a connection is of a network; those of Unix sockets are of none."""
    packed = pack_host(host_of(transport.peer))
    return packed is not None and network.admits(packed)


def end_denied(site: Worksite, listener: str, fd: int) -> list[Any]:
    """End the connections of a listener that a reload denies; return how many.

    Args:
        fd: of a file that has the firewall, packed; it is closed.
    """
    wall, ended = Firewall.unpack(os.pread(fd, os.fstat(fd).st_size, 0)), 0  # others read the file, too
    os.close(fd)
    for transport in transports(site):
        packed = pack_host(host_of(transport.peer)) if transport.service.name == listener else None
        if packed and not wall.admits(packed) and transport.service.enforces(Rule.DENY, transport.peer):
            transport.evict_soon(Rule.DENY.key)
            ended += 1
    return [ended]


def kick(site: Worksite, name: str) -> list[Any]:
    """End a connection at once; return its name, if it is here."""
    for transport in transports(site):
        if transport.service.name_connection(transport.serial) == name:
            transport.evict_soon("kicked")
            return [name]
    return []
