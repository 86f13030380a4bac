"""One datagram socket on the loop: reads in batches, hands each datagram to the app, sends what is answered.

The kernel joins datagrams of one sender that come in a row (UDP_GRO, udp(7)), and their answers leave as one. That
is a property of the socket, which outlives the worker: so whoever opens it sets it, and nobody changes it.

Knows: one socket, its app's function. Does not know: slots, what a datagram means.
"""

from __future__ import annotations

import math
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from prefork.net.loop import READABLE, WRITABLE
from prefork.net.outbox import Bytes, Outbox, UnixOutbox
from prefork.net.service import USER_ERRORS, Service
from prefork.scoreboard import Count, Rule

BATCH = 64  # reads per event; then others have their turn, and epoll reports the rest again
LAST_BATCHES = 256  # more than most receive buffers hold; a flood must not hold up the end
SO_MEMINFO = 55  # socket(7): the first of its numbers is sk_rmem_alloc
LEAST_BYTES = 512  # that the kernel charges for a datagram, whatever its size
MAX_BYTES = 65_536  # above the largest of UDP, 65,507
SOL_UDP, UDP_GRO = 17, 104  # linux/udp.h
UNIX_BYTES = 1 << 20  # twice net.core.wmem_max and more
HEADER_BYTES = 28  # of a datagram on the wire: UDP's 8 and IPv4's 20; a question has them as an answer has
LONG_HEADER_BYTES = 48  # with IPv6's 40
MAPPED = "::ffff:"  # what addresses of IPv4 begin with on a socket of IPv6
TRUSTED_SECONDS, MAX_TRUSTED = 600.0, 16_384  # of peers that have shown that their address is theirs
ANCILLARY_BYTES = 128  # an inherited socket may have been told to give more than the size of what is joined

Receiver = Callable[[bytes, Any], object]
Function = Callable[[bytes, Any, "Reply"], object]


class Reply:
    """Answers one datagram: `reply(data)`. It may be kept, and called later, and more than once.

    A peer's address may be forged, and the answer hit somebody else: so all answers to a datagram have at most
    `limits.amplification` times its bytes on the wire, until the app has made sure of the peer and says `trust()`.

    Attributes:
        peer: the address that it answers to; None: a unix socket without a name, which cannot be answered.
    """

    __slots__ = ("_allowed", "_header", "_outbox", "_trusts", "peer")

    def __init__(self, outbox: Outbox, peer: Any, trusts: Trusts, allowed: float, header: int) -> None:
        self._outbox = outbox
        self._trusts = trusts
        self._allowed = allowed
        self._header = header
        self.peer = peer

    def trust(self) -> None:
        """Answer this peer without a limit, for the next ten minutes: it has shown that it gets our answers."""
        self._allowed = math.inf
        self._trusts.add(self.peer)

    def __call__(self, data: Bytes) -> None:
        """Send one datagram back; one that is larger than is allowed is dropped and counted.

        Raises:
            ValueError: it is larger than a datagram can be.
        """
        size = len(data) + self._header
        if size > self._allowed and self._trusts.refuses(self.peer):
            return
        self._allowed -= size
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
        size = sum(map(len, datagrams)) + self._header * len(datagrams)
        if size > self._allowed and self._trusts.refuses(self.peer):
            return
        self._allowed -= size
        self._outbox.send_many(datagrams, self.peer)


class Trusts:
    """Peers of one socket whose address is known to be theirs."""

    def __init__(self, service: Service, family: int) -> None:
        self._service = service
        factor = service.limits.amplification
        self.factor: float = factor if factor and family != socket.AF_UNIX else math.inf
        self.has_long_headers = family == socket.AF_INET6
        self._untils: dict[Any, float] = {}  # the oldest first

    def add(self, peer: Any) -> None:
        self._untils.pop(peer, None)
        self._untils[peer] = self._service.now + TRUSTED_SECONDS
        if len(self._untils) > MAX_TRUSTED:
            del self._untils[next(iter(self._untils))]

    def refuses(self, peer: Any) -> bool:
        """Whether an answer that is too large is dropped."""
        is_trusted = self._untils.get(peer, 0.0) > self._service.now
        return not is_trusted and self._service.enforces(Rule.AMPLIFICATION, peer)


class DatagramSocket:
    """Watches a datagram socket for one service.

    Attributes:
        outbox: the way out.
    """

    __slots__ = (
        "_batches_left",
        "_buffer",
        "_function",
        "_is_held",
        "_is_joined",
        "_is_wanted",
        "_mask",
        "_receiver",
        "_service",
        "_socket",
        "_trusts",
        "outbox",
    )

    def __init__(self, sock: socket.socket, service: Service) -> None:
        self._socket = sock
        self._service = service
        self._function: Function | None = None
        self._receiver: Receiver = drop
        self._is_wanted = False  # by the master
        self._is_held = False  # by an app that has enough to do
        self._batches_left = 0  # while it reads the last ones: nobody comes after this worker
        self._mask = 0
        self._is_joined = is_joined(sock)
        self._buffer = bytearray(UNIX_BYTES if sock.family == socket.AF_UNIX else 0)
        self._trusts = Trusts(service, sock.family)
        kind = UnixOutbox if sock.family == socket.AF_UNIX else Outbox
        self.outbox = kind(sock, service, self._wait_writable)

    @property
    def socket(self) -> socket.socket:
        return self._socket

    def open(self, receiver: Receiver | None = None, function: Function | None = None) -> None:
        """Begin to read; a datagram goes to `function(data, peer, reply)`, or else to `receiver(data, peer)`."""
        self._receiver, self._function = receiver or drop, function
        self.resume()

    def pause(self) -> None:
        """Leave what comes in the kernel's buffer to others."""
        self._is_wanted = False
        self._listen()

    def resume(self) -> None:
        self._is_wanted = True
        self._listen()

    def hold(self) -> None:
        """Read no more until `release`: the app has enough to do."""
        self._is_held = True
        self._listen()

    def release(self) -> None:
        self._is_held = False
        self._listen()
        self._read_last()

    def give_to(self, receiver: Receiver) -> None:
        """Let somebody else receive what comes from now on."""
        self._receiver = receiver

    def _listen(self) -> None:
        is_reading = self._is_wanted and not self._is_held and not self.outbox.is_closed
        self._set_mask(self._mask | READABLE if is_reading else self._mask & ~READABLE)

    def leave(self) -> None:
        """Read a last batch, and leave the rest to those who come after."""
        if self._mask & READABLE:
            self._read()
        self.pause()

    def finish(self) -> None:
        """Read what is there, a batch in each turn of the loop, then no more; it counts as a handler at work."""
        if self._is_wanted and not self._batches_left:
            self._batches_left = 1 + min(LAST_BATCHES, waiting_bytes(self._socket) // LEAST_BYTES // BATCH)
            self._service.site.handlers += 1
            self._read_last()

    def _read_last(self) -> None:
        if not self._batches_left or self._is_held:
            return
        self._batches_left -= 1
        if self._mask & READABLE and self._read() and self._batches_left and not self.outbox.is_closed:
            self._service.site.loop.call_soon(self._read_last)
        elif not self._is_held:
            self._batches_left = 0
            self.pause()
            self._service.site.handlers -= 1
            self._service.site.check_empty()

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

    # --- the way in ---

    def on_event(self, mask: int) -> None:
        if mask & WRITABLE and self._mask & WRITABLE:
            self.outbox.flush()
        if self._mask & READABLE and mask & ~WRITABLE:
            self._read()

    def _read(self) -> int:
        """Read a batch; return how many datagrams there were."""
        count = 0
        try:
            while count < BATCH and self._mask & READABLE:
                count += self._read_one() if not self._is_joined else self._read_joined()
        except (BlockingIOError, InterruptedError):  # the buffer is empty
            pass
        except OSError:  # an earlier answer of ours could not be delivered: that is told here, udp(7)
            self._service.ledger.count(Count.UNSENT)
        if count:
            self._service.ledger.count_datagrams(count)
        return count

    def _read_one(self) -> int:
        if not self._buffer:
            data, peer = self._socket.recvfrom(MAX_BYTES)
        else:  # of a unix socket they may be as large as their sender's buffer
            size, _, flags, peer = self._socket.recvmsg_into([self._buffer])
            if flags & socket.MSG_TRUNC:
                self._service.ledger.count(Count.SKIPPED)
                return 1
            data = bytes(memoryview(self._buffer)[:size])
        self._deliver((data,), peer, len(data))
        return 1

    def _read_joined(self) -> int:
        data, ancillary, _, peer = self._socket.recvmsg(MAX_BYTES, ANCILLARY_BYTES)
        size = size_of_piece(ancillary) if ancillary else 0
        if not 0 < size < len(data):
            self._deliver((data,), peer, len(data))
            return 1
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        self.outbox.gather(peer)
        self._deliver(pieces, peer, len(data))
        self.outbox.send_gathered()
        return len(pieces)

    def _deliver(self, pieces: Sequence[bytes], peer: Any, size: int) -> None:
        receiver, function, trusts = self._receiver, self._function, self._trusts
        guard = self._service.guard
        if guard is not None and guard.is_strict and not guard.tolerates_peer(peer, self._service.enforces):
            return
        is_long = trusts.has_long_headers and not peer[0].startswith(MAPPED)
        header = LONG_HEADER_BYTES if is_long else HEADER_BYTES
        reply = Reply(self.outbox, peer, trusts, trusts.factor * (size + header * len(pieces)), header)
        for data in pieces:
            try:
                if function is not None:
                    function(data, peer, reply)
                else:
                    receiver(data, peer)
            except USER_ERRORS as error:
                self._service.report_datagram(error, peer)


def waiting_bytes(sock: socket.socket) -> int:
    """Return the memory of what waits to be read; of a unix socket, whose kernel does not tell, some."""
    if sock.family == socket.AF_UNIX:
        return LEAST_BYTES * BATCH
    try:
        return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 4), sys.byteorder)
    except OSError:  # kernels before 4.12, gVisor
        return LEAST_BYTES * BATCH * LAST_BATCHES


def size_of_piece(ancillary: Iterable[tuple[int, int, bytes]]) -> int:
    """Return the size of the datagrams that were joined; 0: it is one."""
    for level, kind, value in ancillary:
        if (level, kind) == (SOL_UDP, UDP_GRO):
            return int.from_bytes(value, sys.byteorder)
    return 0


def is_joined(sock: socket.socket) -> bool:
    """Whether the kernel may join datagrams of this socket."""
    if sock.family == socket.AF_UNIX:
        return False
    try:
        return sock.getsockopt(SOL_UDP, UDP_GRO) != 0
    except OSError:  # kernels before 5.0
        return False


def drop(data: bytes, peer: Any) -> None:
    """Receive nothing."""
