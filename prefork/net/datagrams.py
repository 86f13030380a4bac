"""One datagram socket on the loop: reads in batches, hands each datagram to the app, sends what is answered.

A run of datagrams from one sender makes the kernel join them (UDP_GRO, udp(7)); their answers then leave as one
(UDP_SEGMENT). Without such runs plain calls cost less.

Knows: one socket, its app's function. Does not know: slots, what a datagram means.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from prefork.net.loop import READABLE, WRITABLE
from prefork.net.outbox import Bytes, Outbox
from prefork.net.service import USER_ERRORS, Service
from prefork.scoreboard import Cell

BATCH = 64  # datagrams per event; then others have their turn, and epoll reports the rest again
MAX_BYTES = 65_536  # above the largest of UDP, 65,507
SOL_UDP, UDP_GRO = 17, 104  # linux/udp.h
LOOK = 7  # at each eighth datagram of a batch: if it has the sender of the one before, joining pays
DULL_READS = 256  # without a joined datagram: then plain calls are cheaper
ANCILLARY_BYTES = socket.CMSG_SPACE(4)

Receiver = Callable[[bytes, Any], object]
Function = Callable[[bytes, Any, "Reply"], object]


class Reply:
    """Answers one datagram: `reply(data)`. It may be kept, and called later, and more than once.

    Attributes:
        peer: the address that it answers to; None: a unix socket without a name, which cannot be answered.
    """

    __slots__ = ("_outbox", "peer")

    def __init__(self, outbox: Outbox, peer: Any) -> None:
        self._outbox = outbox
        self.peer = peer

    def __call__(self, data: Bytes) -> None:
        """Send one datagram back.

        Raises:
            ValueError: it is larger than a datagram can be.
        """
        outbox = self._outbox
        if not outbox.is_direct:
            outbox.send(data, self.peer)
            return
        try:
            outbox.sendto(data, self.peer)
        except OSError as error:
            outbox.on_unsent(error, data, self.peer)

    def many(self, datagrams: Sequence[Bytes]) -> None:
        """Send several datagrams back, in one call to the kernel where it can (UDP_SEGMENT, udp(7)).

        Raises:
            ValueError: one is larger than a datagram can be.
        """
        self._outbox.send_many(datagrams, self.peer)


class DatagramSocket:
    """Watches a datagram socket for one service.

    Attributes:
        outbox: the way out.
    """

    __slots__ = ("_dull", "_function", "_mask", "_receiver", "_service", "_socket", "outbox")

    def __init__(self, sock: socket.socket, service: Service) -> None:
        self._socket = sock
        self._service = service
        self._function: Function | None = None
        self._receiver: Receiver = drop
        self._mask = 0
        self._dull: int | None = None  # reads since the last joined datagram; None: they come one by one
        self.outbox = Outbox(sock, service, self._wait_writable)

    @property
    def socket(self) -> socket.socket:
        return self._socket

    def open(self, receiver: Receiver | None = None, function: Function | None = None) -> None:
        """Begin to read; a datagram goes to `function(data, peer, reply)`, or else to `receiver(data, peer)`."""
        self._receiver, self._function = receiver or drop, function
        self.resume()

    def pause(self) -> None:
        """Leave what comes in the kernel's buffer, for others or for later."""
        self._set_mask(self._mask & ~READABLE)

    def resume(self) -> None:
        if not self.outbox.is_closed:
            self._set_mask(self._mask | READABLE)

    def finish(self) -> None:
        """Read what is there, then no more."""
        while self._mask & READABLE and self._read():
            pass
        self.pause()

    def close(self) -> None:
        """Send what can be sent at once, and close."""
        if not self.outbox.is_closed:
            self.outbox.close()
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

    def _wait_writable(self, is_blocked: bool) -> None:
        self._set_mask(self._mask | WRITABLE if is_blocked else self._mask & ~WRITABLE)

    def on_event(self, mask: int) -> None:
        if mask & WRITABLE and self._mask & WRITABLE:
            self.outbox.flush()
        if self._mask & READABLE and mask & ~WRITABLE:
            self._read()

    def _read(self) -> int:
        """Read a batch; return how many datagrams there were."""
        count = self._read_plain() if self._dull is None else self._read_joined()
        if count:
            self._service.site.tally.count_datagrams(count)
        return count

    def _read_plain(self) -> int:
        receive, receiver, function, outbox = self._socket.recvfrom, self._receiver, self._function, self.outbox
        last: Any = None
        for count in range(BATCH):
            try:
                data, peer = receive(MAX_BYTES)
            except OSError as error:
                self._on_error(error)
                return count
            try:
                if function is not None:
                    function(data, peer, Reply(outbox, peer))
                else:
                    receiver(data, peer)
            except USER_ERRORS as error:
                self._service.report_datagram(error, peer)
            if count & LOOK == LOOK and peer == last and self._join():
                return count + 1
            last = peer
        return BATCH

    # --- joined datagrams ---

    def _join(self) -> bool:
        """Have the kernel join datagrams of one sender from now on; return whether it can."""
        if not self.outbox.is_segmenting:
            return False
        try:
            self._socket.setsockopt(SOL_UDP, UDP_GRO, 1)
        except OSError:  # kernels before 5.0
            self.outbox.is_segmenting = False
            return False
        self._dull = 0
        return True

    def _read_joined(self) -> int:
        count = reads = 0
        try:
            for reads in range(BATCH):
                data, ancillary, _, peer = self._socket.recvmsg(MAX_BYTES, ANCILLARY_BYTES)
                if not ancillary:
                    count += 1
                    self._deliver((data,), peer)
                    continue
                size = int.from_bytes(ancillary[0][2], sys.byteorder)
                pieces = [data[at : at + size] for at in range(0, len(data), size)]
                count += len(pieces)
                self._dull = -reads
                self.outbox.gather(peer)
                self._deliver(pieces, peer)
                self.outbox.send_gathered()
                if count >= BATCH:
                    break
        except OSError as error:
            self._on_error(error)
        self._count_dull(reads)
        return count

    def _deliver(self, pieces: Iterable[bytes], peer: Any) -> None:
        receiver, function, reply = self._receiver, self._function, Reply(self.outbox, peer)
        for data in pieces:
            try:
                if function is not None:
                    function(data, peer, reply)
                else:
                    receiver(data, peer)
            except USER_ERRORS as error:
                self._service.report_datagram(error, peer)

    def _count_dull(self, reads: int) -> None:
        """Go back to plain calls when nothing was joined for long.

        What is in the buffer may be joined still: so the kernel is told first, and recvmsg(2) goes on until the
        buffer was empty once.
        """
        if self._dull is None:
            return
        self._dull += reads
        if self._dull >= DULL_READS:
            self._socket.setsockopt(SOL_UDP, UDP_GRO, 0)
            self._dull = -sys.maxsize
        elif self._dull < -BATCH and reads < BATCH - 1:
            self._dull = None

    def _on_error(self, error: OSError) -> None:
        """The buffer is empty, or an earlier answer of ours could not be delivered: that is told here, udp(7)."""
        if not isinstance(error, BlockingIOError | InterruptedError):
            self._service.site.tally.count(Cell.UNSENT)


def drop(data: bytes, peer: Any) -> None:
    """Receive nothing."""
