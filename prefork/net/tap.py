"""Writes down what handlers read and write; TLS is plain here.

A connection that is tapped changes its class for that time: one that is not pays nothing.

Knows: connections, a spool that other workers write to as well. Does not know: who asks for it, packets.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from time import time_ns
from typing import Any

from prefork.firewall import Firewall, build_network
from prefork.net.loop import READABLE
from prefork.net.outlet import BROKEN, Bytes
from prefork.net.pulse import transports
from prefork.net.service import USER_ERRORS, Worksite
from prefork.net.survey import is_within
from prefork.net.tls_transport import TlsTransport
from prefork.net.transport import READ_BYTES, StreamTransport
from prefork.spool import Batch, Event, sign

SPARE_BYTES = 1 << 20  # of the disk are left to others: a batch that is cut makes the spool unreadable
GATHERED_EVENTS, GATHERED_SECONDS = 256, 0.1  # that wait to be written
LARGE_BYTES = 16_384  # of one event: it does not wait

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
            fd: of a spool, see `prefork.spool`; the tap closes it.
            limit: bytes of the spool, over all who write to it: who finds it reached ends.
        """
        self._site = site
        self._slot = slot
        self._fd = fd
        self._limit = limit
        self._filter = chosen
        self._batch = Batch(os.getpid())
        self._numbers = count(1)
        self._recorders: dict[Any, Recorder] = {}
        self._is_over = False  # nothing more is written; it is closed in the next turn
        self.is_closed = False
        site.journal.tap = self
        self._timer = site.loop.call_later(GATHERED_SECONDS, self._flush_again)
        for transport in transports(site):
            self.adopt(transport)

    def adopt(self, transport: StreamTransport) -> None:
        """Tap a connection, if it is wanted."""
        kind = TAPPED.get(type(transport))
        if kind is None or self.is_closed or not self._filter.admits(transport):
            return
        service, details = transport.service, getattr(transport, "details", None)
        name = service.name_connection(transport.serial)
        told = {
            "comment": f"slot {self._slot}, connection {name}" + (f", {details.version}" if details else ""),
            "place": self._filter.places[service.name],
            "peer": describe_end(transport.peer),
            "local": describe_end(transport.get_extra_info("sockname")),
        }
        recorder = Recorder(self, self._batch, next(self._numbers), self._filter.max_bytes)
        self._recorders[transport] = transport.recorder = recorder
        transport.__class__ = kind
        recorder.note_opened(json.dumps(told).encode())

    def release(self, transport: Any) -> None:
        """Take note that a tapped connection has ended."""
        self._recorders.pop(transport, None)

    def _flush_again(self) -> None:
        self.flush()
        if not self.is_closed:
            self._timer = self._site.loop.call_later(GATHERED_SECONDS, self._flush_again)

    def flush(self) -> None:
        """Write what waits, together: that keeps batches whole, and costs one call."""
        if not self._batch.told:
            return
        size, parts = self._batch.take()
        if self._is_over:
            return
        try:
            disk = os.fstatvfs(self._fd)
            if disk.f_bavail * disk.f_frsize < SPARE_BYTES + size:
                self._end("the disk is full")
            elif os.fstat(self._fd).st_size > self._limit:
                self._end("its limit is reached")
            elif os.writev(self._fd, parts) < size:
                self._end("the disk is full")
        except OSError as error:
            self._end(str(error.strerror))

    def _end(self, reason: str) -> None:
        """Be closed from the loop: here a connection may be in the middle of what it does otherwise."""
        self._is_over = True
        self._site.loop.call_soon(self.close, reason)

    def close(self, reason: str) -> None:
        """Leave the connections as they were."""
        if self.is_closed:
            return
        self._timer.cancel()
        self.flush()
        self.is_closed = self._is_over = True
        log.info("the capture ends: %s", reason)
        if self._site.journal.tap is self:
            self._site.journal.tap, self._site.journal.untapped = None, reason
        for transport in self._recorders:
            transport.__class__ = PLAIN[type(transport)]
            transport.recorder = None
        self._recorders.clear()
        os.close(self._fd)
        self._fd = -1


def describe_end(address: Any) -> Any:
    """Return (host, port, …) as it is, and what else an end may be as text."""
    return address if isinstance(address, tuple) and isinstance(address[0], str) else str(address or "")


class Recorder:
    """One connection's part of a capture.

    Attributes:
        batch: where its events go.
        received, sent: their signs.
        most: bytes of each that are kept; None: all.
    """

    __slots__ = ("_number", "batch", "most", "received", "sent", "tap")

    def __init__(self, tap: Tap, batch: Batch, number: int, max_bytes: int) -> None:
        self.tap = tap
        self._number = number
        self.batch = batch
        self.most = max_bytes or None
        self.received, self.sent = sign(Event.RECEIVED, number), sign(Event.SENT, number)

    def note(self, signed: int, data: bytes) -> None:
        batch = self.batch
        batch.add(signed, time_ns(), data)
        if len(data) > LARGE_BYTES or len(batch.told) >= GATHERED_EVENTS:
            self.tap.flush()

    def note_sent(self, data: Bytes) -> None:
        kept = data[: self.most]
        self.note(self.sent, kept if type(kept) is bytes else bytes(kept))

    def note_opened(self, told: bytes) -> None:
        self.note(sign(Event.OPENED, self._number), told)

    def note_input_ended(self) -> None:
        self.note(sign(Event.INPUT_ENDED, self._number), b"")

    def note_closed(self, transport: Any, reason: str) -> None:
        self.note(sign(Event.CLOSED, self._number), reason.encode())
        self.tap.release(transport)


class Tapped:
    """What a transport does otherwise while it is tapped."""

    __slots__ = ()
    owes: bool | None

    def on_event(self: Any, mask: int) -> None:
        if not mask == self._mask == READABLE and not self._is_read_due(mask):
            return
        try:
            data = self._socket.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._on_receive_error(error)
            return
        recorder = self.recorder
        if not data:
            recorder.note_input_ended()
            self._on_eof()
            return
        self.touched = self._service.now
        self.received += len(data)
        most, batch = recorder.most, recorder.batch  # what `Recorder.note` would do, without the calls
        kept = data if most is None else data[:most]
        batch.events += (recorder.received, time_ns(), len(kept))
        batch.told.append(kept)
        self.held = b""
        try:
            self._deliver(data)
        except USER_ERRORS as error:
            self._fail(error)
            return
        held = self.held
        if held:
            self.held = None
            self.owes = False
            data = held if held.__class__ is bytes else b"".join(held)
            if self._phase or self._buffer is not None:
                self._send(data)
                return
            kept = data if most is None else data[:most]
            batch.events += (recorder.sent, time_ns(), len(kept))
            batch.told.append(kept)
            try:
                sent = self._socket.send(data)
            except OSError as error:
                sent = self._on_send_error(error)
            self.sent += sent
            if sent != len(data):
                self._keep(memoryview(data)[sent:])
        elif held is not None:
            self.held = None
            self.owes = True
        if len(batch.told) >= GATHERED_EVENTS or len(kept) > LARGE_BYTES:
            recorder.tap.flush()

    def _send(self: Any, data: Bytes) -> None:
        recorder = self.recorder
        if recorder is not None and self._phase < BROKEN:
            recorder.note_sent(data)
        super()._send(data)  # type: ignore[misc]  # of the transport that stands behind it

    def _keep_held(self: Any) -> None:
        if self.held and self.recorder is not None:
            self.recorder.note_sent(self.held if self.held.__class__ is bytes else b"".join(self.held))
        super()._keep_held()  # type: ignore[misc]

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
