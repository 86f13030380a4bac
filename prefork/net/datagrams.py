"""One datagram socket on the loop: reads in batches, hands each datagram to the app, sends what is answered.

A run of datagrams from one sender makes the kernel join them (UDP_GRO, udp(7)); their answers then leave as one
(UDP_SEGMENT). Without such runs plain calls cost less.

Knows: one socket, its receiver. Does not know: slots, what a datagram means.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from prefork.net.loop import READABLE, WRITABLE
from prefork.net.service import USER_ERRORS, Service
from prefork.scoreboard import Cell

BATCH = 64  # datagrams per event; then others have their turn, and epoll reports the rest again
MAX_BYTES = 65_536  # above the largest of UDP, 65,507
SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104  # linux/udp.h
SEGMENT_FORMAT = "@H"
MAX_SEGMENTS, MAX_JOINED_BYTES = 64, 65_507 - 8  # UDP_MAX_SEGMENTS; of one joined datagram
RUN = 4  # datagrams in a row from one sender: from here on joining pays
DULL_EVENTS = 256  # reads without one that was joined: then plain calls are cheaper
ANCILLARY_BYTES = socket.CMSG_SPACE(4)
UNSENDABLE = frozenset({errno.EINVAL, errno.EMSGSIZE, errno.EIO, errno.ENOPROTOOPT})  # of a joined datagram

Bytes = bytes | bytearray | memoryview
Receiver = Callable[[bytes, Any], object]


class DatagramSocket:
    """Watches a datagram socket for one service.

    Attributes:
        is_closed: nothing is sent any more.
    """

    __slots__ = (
        "_dull",
        "_gathered",
        "_is_joined",
        "_is_segmenting",
        "_mask",
        "_queue",
        "_queued_bytes",
        "_receiver",
        "_service",
        "_socket",
        "is_closed",
    )

    def __init__(self, sock: socket.socket, service: Service) -> None:
        self._socket = sock
        self._service = service
        self._receiver: Receiver = drop
        self._gathered: list[tuple[Bytes, Any]] | None = None  # answers to datagrams that came as one
        self._queue: deque[tuple[Bytes, Any]] = deque()  # what the kernel has no room for
        self._queued_bytes = 0
        self._mask = 0
        self._is_joined = False
        self._is_segmenting = sock.family in (socket.AF_INET, socket.AF_INET6)
        self._dull = 0
        self.is_closed = False

    @property
    def socket(self) -> socket.socket:
        return self._socket

    def open(self, receiver: Receiver) -> None:
        """Begin to read; each datagram goes to `receiver(data, peer)`, which may raise."""
        self._receiver = receiver
        self.resume()

    def pause(self) -> None:
        """Leave what comes in the kernel's buffer, for others or for later."""
        self._set_mask(self._mask & ~READABLE)

    def resume(self) -> None:
        if not self.is_closed:
            self._set_mask(self._mask | READABLE)

    def finish(self) -> None:
        """Read what is there, then no more."""
        if self._mask & READABLE:
            while self._read():
                pass
            self.pause()

    def close(self) -> None:
        """Send what can be sent at once, and close."""
        if not self.is_closed:
            self._flush()
            self.is_closed = True
            self._set_mask(0)
            self._socket.close()

    def _set_mask(self, mask: int) -> None:
        before, self._mask = self._mask, mask
        selector, fd = self._service.site.selector, self._socket.fileno()
        if not before and mask:
            selector.watch(fd, self, mask)
        elif before and not mask:
            selector.unwatch(fd)
        elif before != mask:
            selector.rewatch(fd, before, mask)

    # --- the way in ---

    def on_event(self, mask: int) -> None:
        if mask & WRITABLE and self._mask & WRITABLE:
            self._flush()
        if self._mask & READABLE and mask & ~WRITABLE:
            self._read()

    def _read(self) -> int:
        """Read a batch; return how many datagrams there were."""
        count = self._read_joined() if self._is_joined else self._read_plain()
        if count:
            self._service.site.tally.count_datagrams(count)
        return count

    def _read_plain(self) -> int:
        receive, receiver = self._socket.recvfrom, self._receiver
        count = run = 0
        last = None
        try:
            while count < BATCH and self._mask & READABLE:
                data, peer = receive(MAX_BYTES)
                count += 1
                try:
                    receiver(data, peer)
                except USER_ERRORS as error:
                    self._service.report_datagram(error, peer)
                run = run + 1 if peer == last else 1
                last = peer
                if run == RUN and self._is_segmenting:
                    self._join()
                    break
        except OSError as error:
            self._on_error(error)
        return count

    def _join(self) -> None:
        """Have the kernel join datagrams of one sender from now on."""
        try:
            self._socket.setsockopt(SOL_UDP, UDP_GRO, 1)
        except OSError:  # kernels before 5.0
            self._is_segmenting = False
        else:
            self._is_joined, self._dull = True, 0

    def _part(self) -> None:
        """Get them one by one again; those that are joined already are still to be read joined."""
        self._socket.setsockopt(SOL_UDP, UDP_GRO, 0)
        self._dull = -BATCH

    def _read_joined(self) -> int:
        count = events = 0
        try:
            while count < BATCH and self._mask & READABLE:
                data, ancillary, _, peer = self._socket.recvmsg(MAX_BYTES, ANCILLARY_BYTES)
                events += 1
                if not ancillary:
                    count += 1
                    self._deliver((data,), peer)
                    continue
                size = int.from_bytes(ancillary[0][2], "little")
                self._dull = 0
                pieces = [data[at : at + size] for at in range(0, len(data), size)]
                count += len(pieces)
                self._gathered = []
                self._deliver(pieces, peer)
                gathered, self._gathered = self._gathered, None
                self._send_all(gathered)
        except OSError as error:
            self._on_error(error)
        self._count_dull(events)
        return count

    def _count_dull(self, events: int) -> None:
        self._dull += events
        if self._dull >= DULL_EVENTS:
            self._part()
        elif self._dull < 0 and not events:  # after _part(): the buffer is empty, so nothing is joined any more
            self._is_joined = False

    def _deliver(self, pieces: Iterable[bytes], peer: Any) -> None:
        for data in pieces:
            try:
                self._receiver(data, peer)
            except USER_ERRORS as error:
                self._service.report_datagram(error, peer)

    def _on_error(self, error: OSError) -> None:
        """The buffer is empty, or an earlier answer of ours could not be delivered: that is told here, udp(7)."""
        if not isinstance(error, BlockingIOError | InterruptedError):
            self._service.site.tally.count(Cell.UNSENT)

    # --- the way out ---

    def send(self, data: Bytes, peer: Any) -> None:
        """Send one datagram; what cannot be sent is counted, as a network that drops it would not say so."""
        if self._gathered is not None:
            self._gathered.append((data, peer))
        elif self._queue:
            self._keep(data, peer)
        else:
            self._send_now(data, peer)

    def send_many(self, datagrams: Sequence[Bytes], peer: Any) -> None:
        """Send several datagrams, with as few calls as the kernel allows."""
        self._send_all([(data, peer) for data in datagrams])

    def _send_now(self, data: Bytes, peer: Any) -> None:
        try:
            self._socket.sendto(data, peer)
        except BlockingIOError:
            self._keep(data, peer)
        except OSError as error:
            self._on_unsent(error, data)

    def _on_unsent(self, error: OSError, data: Bytes) -> None:
        if error.errno == errno.EMSGSIZE:
            raise ValueError(f"cannot send a datagram of {len(data)} bytes: it is too large") from error
        self._service.site.tally.count(Cell.UNSENT)

    def _send_all(self, gathered: Sequence[tuple[Bytes, Any]]) -> None:
        if self._queue:
            for data, peer in gathered:
                self._keep(data, peer)
            return
        for run in runs(gathered):
            peer = run[0][1]
            if len(run) == 1 or not (self._is_segmenting and self._send_joined([data for data, _ in run], peer)):
                for data, _ in run:
                    self._send_one(data, peer)

    def _send_one(self, data: Bytes, peer: Any) -> None:
        try:
            self._send_now(data, peer)
        except ValueError as error:
            self._service.report_datagram(error, peer)

    def _send_joined(self, datagrams: Sequence[Bytes], peer: Any) -> bool:
        """Send datagrams of one size as one; return False if they are still to be sent one by one."""
        segment = [(SOL_UDP, UDP_SEGMENT, struct.pack(SEGMENT_FORMAT, len(datagrams[0])))]
        try:
            self._socket.sendmsg(datagrams, segment, 0, peer)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in UNSENDABLE:  # larger than the path, or not known to this kernel
                return False
            self._service.site.tally.count(Cell.UNSENT)
        return True

    def _keep(self, data: Bytes, peer: Any) -> None:
        if self._queued_bytes + len(data) > self._service.limits.buffer:
            self._service.site.tally.count(Cell.UNSENT)
            return
        self._queue.append((bytes(data), peer))
        self._queued_bytes += len(data)
        self._set_mask(self._mask | WRITABLE)

    def _flush(self) -> None:
        while self._queue:
            data, peer = self._queue[0]
            try:
                self._socket.sendto(data, peer)
            except BlockingIOError:
                return
            except OSError:
                self._service.site.tally.count(Cell.UNSENT)
            self._queue.popleft()
            self._queued_bytes -= len(data)
        self._set_mask(self._mask & ~WRITABLE)


def drop(data: bytes, peer: Any) -> None:
    """Receive nothing."""


def runs(gathered: Iterable[tuple[Bytes, Any]]) -> Iterator[list[tuple[Bytes, Any]]]:
    """Cut datagrams into runs that can be sent as one: one peer, one size, of which the last may be smaller."""
    for peer, group in groupby(gathered, key=lambda one: one[1]):
        run: list[tuple[Bytes, Any]] = []
        size = 0
        for data, _ in group:
            is_over = size + len(data) > MAX_JOINED_BYTES or len(run) == MAX_SEGMENTS
            if run and (is_over or len(data) > len(run[0][0]) or len(run[-1][0]) != len(run[0][0]) or not data):
                yield run
                run, size = [], 0
            run.append((data, peer))
            size += len(data)
        yield run
