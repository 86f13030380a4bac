"""The way out of a datagram socket: at once where the kernel takes it, joined where that saves calls.

Knows: one socket, what waits for room. Does not know: what is read, who answers.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from prefork.net.service import Service
from prefork.scoreboard import Count

SOL_UDP, UDP_SEGMENT = 17, 103  # linux/udp.h
SEGMENT = struct.Struct("@H")
MAX_SEGMENTS, MAX_JOINED_BYTES = 64, 65_507 - 8  # UDP_MAX_SEGMENTS; of one joined datagram
HEADER_BYTES = 32  # of SO_SNDBUF are not for data: unix_dgram_sendmsg, net/unix/af_unix.c
FIRST_TRY_SECONDS, LAST_TRY_SECONDS = 0.001, 0.05  # for a unix peer that does not read
NEVER = (OSError, TypeError, ValueError, OverflowError)  # no such peer, or no such address
GATHERED_BYTES = 16_384  # larger ones are hardly joined
MAX_DATAGRAM_BYTES = 65_507  # of UDP over IPv4
OVERHEAD_BYTES = 64  # of each datagram that waits: a flood of empty ones is to have an end, too
UNSENDABLE = frozenset({errno.EINVAL, errno.EMSGSIZE, errno.EIO, errno.ENOPROTOOPT})  # of a joined datagram

Bytes = bytes | bytearray | memoryview


class Outbox:
    """Sends the datagrams of one socket.

    Attributes:
        sendto: the socket's own call, for answers while `is_direct`.
        is_direct: what is sent goes to the kernel at once: nothing waits, nothing is gathered.
        is_segmenting: the kernel can cut a joined datagram.
        is_closed: nothing is sent any more.
    """

    __slots__ = (
        "_gathered",
        "_peer",
        "_queue",
        "_queued_bytes",
        "_service",
        "_socket",
        "_wait_writable",
        "is_closed",
        "is_direct",
        "is_segmenting",
        "sendto",
    )

    def __init__(self, sock: socket.socket, service: Service, wait_writable: Callable[[bool], None]) -> None:
        """Send by a socket.

        Args:
            wait_writable: called with whether `flush` is to be called when there is room.
        """
        self._socket = sock
        self._service = service
        self._wait_writable = wait_writable
        self._gathered: list[Bytes] | None = None  # answers to datagrams that came as one, of `_peer`
        self._peer: Any = None
        self._queue: deque[tuple[Bytes, Any]] = deque()  # what the kernel has no room for
        self._queued_bytes = 0
        self.sendto = sock.sendto
        self.is_closed = False
        self.is_segmenting = sock.family in (socket.AF_INET, socket.AF_INET6)
        self._set_direct()

    def _set_direct(self) -> None:
        """A unix peer may have no name: then send() finds out that there is nobody to send to."""
        is_free = self._gathered is None and not self._queue and not self.is_closed
        self.is_direct = is_free and self._socket.family != socket.AF_UNIX

    def send(self, data: Bytes, peer: Any) -> None:
        """Send one datagram; what cannot be sent is counted, as a network that drops it would not say so.

        Args:
            peer: None: it has no name to answer to.

        Raises:
            ValueError: it is too large.
        """
        if self.is_closed or peer is None:
            return
        if self._gathered is not None and peer is self._peer:
            if type(data) is bytes and len(data) <= GATHERED_BYTES:
                self._gathered.append(data)
                return
            self._flush_gathered()  # what can be changed by its owner, or be refused, is sent at once, in its turn
        if not self._queue:
            self._send_now(data, peer)
        elif len(data) > MAX_DATAGRAM_BYTES:
            raise ValueError(f"cannot send a datagram of {len(data)} bytes: it is too large")
        else:
            self._keep(data, peer)

    def send_many(self, datagrams: Sequence[Bytes], peer: Any) -> None:
        """Send several datagrams, with as few calls as the kernel allows.

        Raises:
            ValueError: one is too large.
        """
        if self.is_closed or peer is None:
            return
        if self._gathered is not None or self._queue or not self.is_segmenting:
            for data in datagrams:
                self.send(data, peer)
            return
        for run in runs(datagrams):
            if len(run) == 1 or not self._send_joined(run, peer):
                for data in run:
                    self.send(data, peer)

    def gather(self, peer: Any) -> None:
        """Keep what is sent to a peer, this very object, until `send_gathered`."""
        self._gathered, self._peer = [], peer
        self._set_direct()

    def send_gathered(self) -> None:
        self._flush_gathered()
        self._gathered = None
        self._set_direct()

    def _flush_gathered(self) -> None:
        gathered, self._gathered = self._gathered or [], None
        self.send_many(gathered, self._peer)
        self._gathered = []

    def _send_joined(self, datagrams: Sequence[Bytes], peer: Any) -> bool:
        """Send datagrams of one size as one; return False if they are still to be sent one by one."""
        segment = [(SOL_UDP, UDP_SEGMENT, SEGMENT.pack(len(datagrams[0])))]
        try:
            self._socket.sendmsg(datagrams, segment, 0, peer)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            if error.errno in UNSENDABLE:  # larger than the path, or not known to this kernel
                return False
            self._service.ledger.count(Count.UNSENT)
        return True

    def _send_now(self, data: Bytes, peer: Any) -> None:
        try:
            self._socket.sendto(data, peer)
        except OSError as error:
            self.on_unsent(error, data, peer)

    def on_unsent(self, error: OSError, data: Bytes, peer: Any) -> None:
        """The kernel did not take a datagram: keep it, count it, or tell the app that it is too large.

        Raises:
            ValueError: it is.
        """
        if isinstance(error, BlockingIOError | InterruptedError):
            self._keep(data, peer)
        elif error.errno == errno.EMSGSIZE:
            raise ValueError(f"cannot send a datagram of {len(data)} bytes: it is too large") from error
        else:
            self._service.ledger.count(Count.UNSENT)

    # --- what waits for room ---

    def _keep(self, data: Bytes, peer: Any) -> None:
        if self._queued_bytes + len(data) + OVERHEAD_BYTES > self._service.limits.buffer:
            self._service.ledger.count(Count.UNSENT)
            return
        self._queue.append((bytes(data), peer))
        self._queued_bytes += len(data) + OVERHEAD_BYTES
        self._set_direct()
        self._wait_writable(True)

    def flush(self) -> None:
        """Send what waits, as far as there is room."""
        while self._queue:
            data, peer = self._queue[0]
            try:
                self._socket.sendto(data, peer)
            except (BlockingIOError, InterruptedError):
                return
            except NEVER:
                self._service.ledger.count(Count.UNSENT)
            self._queue.popleft()
            self._queued_bytes -= len(data) + OVERHEAD_BYTES
        self._set_direct()
        self._wait_writable(False)

    def close(self) -> None:
        """Send what there is room for; nothing is sent after that."""
        self.flush()
        for _ in self._queue:
            self._service.ledger.count(Count.UNSENT)
        self.is_closed = True
        self._set_direct()


class UnixOutbox(Outbox):
    """Sends the datagrams of a unix socket, each peer's in a queue of its own.

    EAGAIN means that this one peer does not read, and EPOLLOUT says nothing of a socket without a peer: so it is
    tried again, and one silent peer holds up nobody else (unix(7), net/unix/af_unix.c).
    """

    __slots__ = ("_delay", "_queues")

    def __init__(self, sock: socket.socket, service: Service, wait_writable: Callable[[bool], None]) -> None:
        super().__init__(sock, service, wait_writable)
        self._queues: dict[Any, deque[Bytes]] = {}
        self._delay = 0.0  # until the next try; 0: nothing waits

    def send(self, data: Bytes, peer: Any) -> None:
        if self.is_closed or peer is None:
            return
        if peer not in self._queues:
            self._send_now(data, peer)
        elif len(data) > self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - HEADER_BYTES:
            raise ValueError(f"cannot send a datagram of {len(data)} bytes: it is too large")
        else:
            self._keep(data, peer)

    def _keep(self, data: Bytes, peer: Any) -> None:
        queue = self._queues.setdefault(peer, deque())
        size, limit = len(data) + OVERHEAD_BYTES, self._service.limits.buffer
        theirs = (
            sum(map(len, queue)) + OVERHEAD_BYTES * len(queue) if self._queued_bytes + size > limit // 2 else 0
        )
        if self._queued_bytes + size > limit or theirs + size > limit // 2:
            self._service.ledger.count(Count.UNSENT)  # no peer has more than half of what all have
            return
        queue.append(bytes(data))
        self._queued_bytes += len(data) + OVERHEAD_BYTES
        if not self._delay:
            self._service.site.handlers += 1  # a drain waits for it
            self._try_after(FIRST_TRY_SECONDS)

    def _try_after(self, seconds: float) -> None:
        self._delay = seconds
        self._service.site.loop.call_later(seconds, self._try_again)

    def _try_again(self) -> None:
        before, delay, self._delay = self._queued_bytes, self._delay, 0.0
        self.flush()
        if self._queues and not self.is_closed:
            has_moved = self._queued_bytes < before
            self._try_after(FIRST_TRY_SECONDS if has_moved else min(2 * delay, LAST_TRY_SECONDS))
        else:
            self._service.site.handlers -= 1
            self._service.site.check_empty()

    def flush(self) -> None:
        for peer, queue in list(self._queues.items()):
            while queue:
                try:
                    self._socket.sendto(queue[0], peer)
                except (BlockingIOError, InterruptedError):
                    break
                except NEVER:  # the peer is gone
                    self._drop(queue)
                    break
                self._queued_bytes -= len(queue.popleft()) + OVERHEAD_BYTES
            if not queue:
                del self._queues[peer]

    def _drop(self, queue: deque[Bytes]) -> None:
        for data in queue:
            self._queued_bytes -= len(data) + OVERHEAD_BYTES
            self._service.ledger.count(Count.UNSENT)
        queue.clear()

    def close(self) -> None:
        super().close()
        for queue in self._queues.values():
            self._drop(queue)
        self._queues.clear()


def runs(datagrams: Sequence[Bytes]) -> Iterator[Sequence[Bytes]]:
    """Cut datagrams into runs that can be sent as one: of one size, of which the last may be smaller."""
    sizes = list(map(len, datagrams))
    if len(set(sizes)) == 1 and len(sizes) <= MAX_SEGMENTS and 0 < sum(sizes) <= MAX_JOINED_BYTES:
        yield datagrams
        return
    run: list[Bytes] = []
    total = 0
    for data, size in zip(datagrams, sizes, strict=True):
        is_over = total + size > MAX_JOINED_BYTES or len(run) == MAX_SEGMENTS
        if run and (is_over or not size or size > len(run[0]) or len(run[-1]) != len(run[0])):
            yield run
            run, total = [], 0
        run.append(data)
        total += size
    if run:
        yield run
