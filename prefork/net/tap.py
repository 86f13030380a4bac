"""Writes down what handlers read and write, as packets that Wireshark reads; TLS is plain here.

A connection that is tapped changes its class for that time: one that is not pays nothing.

Knows: connections, one file that other workers write to as well. Does not know: who asks for it, packets.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prefork.firewall import Firewall, build_network
from prefork.net.outlet import BROKEN, Bytes
from prefork.net.pulse import transports
from prefork.net.service import USER_ERRORS, Worksite
from prefork.net.survey import is_within
from prefork.net.tls_transport import TlsTransport
from prefork.net.transport import READ_BYTES, StreamTransport
from prefork.pcapng import Close, Stream

SPARE_BYTES = 1 << 20  # of the disk are left to others: a block that is cut makes the file unreadable
GATHERED_BYTES, GATHERED_SECONDS = 16_384, 0.1  # of what waits to be written
FAULTS = {"broken": Close.RESET_BY_PEER}

log = logging.getLogger("prefork.capture")


@dataclass(frozen=True, slots=True)
class Filter:
    """Which connections are tapped.

    Attributes:
        places: the number of each listener in the file, by its name.
        network: of peers; None: of all.
        conn: the id of one connection; empty: all.
        max_bytes: of each read or write that are kept; 0: all.
    """

    places: Mapping[str, int]
    network: Firewall | None = None
    conn: str = ""
    max_bytes: int = 0

    def admits(self, transport: StreamTransport) -> bool:
        service = transport.service
        return (
            service.name in self.places
            and self.conn in ("", service.name_connection(transport.serial))
            and (self.network is None or is_within(transport, self.network))
        )


class Tap:
    """Taps the connections of a worker that a filter admits, those that come too, until it is closed."""

    def __init__(self, site: Worksite, slot: int, fd: int, limit: int, chosen: Filter) -> None:
        """Begin.

        Args:
            fd: of a file that is appended to; the tap closes it.
            limit: bytes of the file, over all who write to it.
        """
        self._site = site
        self._slot = slot
        self._fd = fd
        self._limit = limit
        self._filter = chosen
        self._blocks: list[bytes] = []
        self._size = 0  # of these
        self._timer: asyncio.TimerHandle | None = None
        self._recorders: dict[Any, Recorder] = {}
        self.is_closed = False
        site.journal.tap = self
        for transport in transports(site):
            self.adopt(transport)

    def adopt(self, transport: StreamTransport) -> None:
        """Tap a connection, if it is wanted."""
        kind = TAPPED.get(type(transport))
        if kind is None or self.is_closed or not self._filter.admits(transport):
            return
        service, details = transport.service, getattr(transport, "details", None)
        name = service.name_connection(transport.serial)
        comment = f"slot {self._slot}, connection {name}" + (f", {details.version}" if details else "")
        local = transport.get_extra_info("sockname")
        place, number = self._filter.places[service.name], self._slot << 32 | transport.serial
        recorder = Recorder(self, Stream(place, transport.peer, local, comment, number), self._filter.max_bytes)
        self._recorders[transport] = transport.recorder = recorder
        transport.__class__ = kind
        self.write(recorder.stream.opened(time.time_ns()))

    def release(self, transport: Any) -> None:
        """Take note that a tapped connection has ended."""
        self._recorders.pop(transport, None)

    def write(self, blocks: bytes) -> None:
        """Have blocks written soon, many together: that keeps them whole, and costs one call."""
        self._blocks.append(blocks)
        self._size += len(blocks)
        if self._size >= GATHERED_BYTES:
            self._flush()
        elif self._timer is None:
            self._timer = self._site.loop.call_later(GATHERED_SECONDS, self._flush)

    def _flush(self) -> None:
        blocks, self._blocks, self._size = b"".join(self._blocks), [], 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not blocks or self._fd < 0:
            return
        try:
            disk = os.fstatvfs(self._fd)
            if disk.f_bavail * disk.f_frsize < SPARE_BYTES + len(blocks):
                self.close("the disk is full")
            elif os.fstat(self._fd).st_size + len(blocks) > self._limit:
                self.close("its limit is reached")
            else:
                os.write(self._fd, blocks)
        except OSError as error:
            self.close(str(error.strerror))

    def close(self, reason: str) -> None:
        """Leave the connections as they were."""
        if self.is_closed:
            return
        self.is_closed = True
        self._flush()
        log.info("the capture ends: %s", reason)
        if self._site.journal.tap is self:
            self._site.journal.tap = None
        for transport in self._recorders:
            transport.__class__ = PLAIN[type(transport)]
            transport.recorder = None
        self._recorders.clear()
        os.close(self._fd)
        self._fd = -1


class Recorder:
    """One connection's part of a capture."""

    __slots__ = ("_max_bytes", "_tap", "stream")

    def __init__(self, tap: Tap, stream: Stream, max_bytes: int) -> None:
        self._tap = tap
        self._max_bytes = max_bytes
        self.stream = stream

    def note_received(self, data: Bytes) -> None:
        self._tap.write(self.stream.received(time.time_ns(), data[: self._max_bytes] if self._max_bytes else data))

    def note_sent(self, data: Bytes) -> None:
        self._tap.write(self.stream.sent(time.time_ns(), data[: self._max_bytes] if self._max_bytes else data))

    def note_input_ended(self) -> None:
        self._tap.write(self.stream.input_ended(time.time_ns()))

    def note_closed(self, transport: Any, reason: str) -> None:
        self._tap.write(self.stream.closed(time.time_ns(), reason, FAULTS.get(reason, Close.FINISHED)))
        self._tap.release(transport)


class Tapped:
    """What a transport does otherwise while it is tapped; writes are not gathered meanwhile."""

    __slots__ = ()
    owes: bool | None

    def on_event(self: Any, mask: int) -> None:
        if not self._is_read_due(mask):
            return
        try:
            data = self._socket.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._on_receive_error(error)
            return
        if not data:
            self.recorder.note_input_ended()
            self._on_eof()
            return
        self.touched = self.service.now
        self.received += len(data)
        self.recorder.note_received(data)
        self.owes = True
        try:
            self._deliver(data)
        except USER_ERRORS as error:
            self._fail(error)

    def _write(self: Any, data: Bytes) -> None:
        if self._phase < BROKEN and self.recorder is not None:
            self.recorder.note_sent(data)
        super()._write(data)  # type: ignore[misc]  # of the transport that stands behind it

    def _part(self: Any, error: OSError | None) -> None:
        recorder, self.recorder = self.recorder, None
        super()._part(error)  # type: ignore[misc]
        if recorder is not None:
            recorder.note_closed(self, self.reason or "done")


class TappedTransport(Tapped, StreamTransport):
    """A plain connection that is tapped."""

    __slots__ = ()


class TappedTlsTransport(Tapped, TlsTransport):
    """A connection over TLS that is tapped: its plain text."""

    __slots__ = ()


TAPPED: Mapping[type, Any] = {StreamTransport: TappedTransport, TlsTransport: TappedTlsTransport}
PLAIN: Mapping[type, Any] = {tapped: plain for plain, tapped in TAPPED.items()}


def open_tap(site: Worksite, slot: int, fd: int, wanted: Mapping[str, Any]) -> Tap:
    """Begin to capture what an operator wants.

    Args:
        fd: see `Tap`.
        wanted: `listeners` (all names in the order of the file), `listener`, `peer`, `conn`, `limit`, `seconds`,
            `max_bytes`; as `prefork.process.commands` has checked them.
    """
    names = list(wanted["listeners"])
    places = {name: names.index(name) for name in names if wanted.get("listener") in (None, name)}
    peer = wanted.get("peer")
    network = None if peer is None else build_network(peer)
    chosen = Filter(places, network, str(wanted.get("conn") or ""), int(wanted.get("max_bytes") or 0))
    tap = Tap(site, slot, fd, int(wanted["limit"]), chosen)
    asyncio.get_running_loop().call_later(float(wanted["seconds"]), tap.close, "its time is over")
    return tap
