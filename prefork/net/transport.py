"""One stream connection on the loop: a full `asyncio.Transport` over a non-blocking socket.

A read event reads once, gives the bytes to the protocol, and sends at its end, in one call, all that the
protocol wrote meanwhile. A connection that is to end sends its FIN together with its last bytes, so that a
client never has a whole answer in hand without knowing that it was the last.

Knows: one socket, its protocol, its send buffer. Does not know: frames, tasks, other connections.
"""

from __future__ import annotations

import asyncio
import enum
import socket
import struct
from collections.abc import Iterable
from functools import partial
from typing import Any

from prefork.net.linger import Linger
from prefork.net.loop import READABLE, WRITABLE
from prefork.net.send_buffer import HIGH_WATER_BYTES, LOW_WATER_BYTES, SendBuffer
from prefork.net.service import Service

READ_BYTES = 65_536  # more makes malloc map and unmap memory for every message
GATHERED_BYTES = 2048  # larger writes go out at once: a system call is cheap beside their copy
GATHERED_WRITES = 128
OVER_LIMIT_SECONDS = 1.0  # for a burst to be taken by a peer that does read
STALLED_SECONDS = 30.0  # for a closing connection whose peer takes nothing; TCP_USER_TIMEOUT's common choice
NO_LINGER = struct.pack("ii", 1, 0)  # SO_LINGER with 0 seconds: close(2) sends a reset, socket(7)
EVENTS = READABLE | WRITABLE
ENDED = 1 << 20  # beside the epoll bits: the peer has sent its FIN

Bytes = bytes | bytearray | memoryview


class Phase(enum.IntEnum):
    OPEN = 0
    DRAINING = 1  # asked to end between two exchanges; what is written leaves at the end of the turn
    HALF_CLOSED = 2  # we have said our last byte, the peer may go on
    CLOSING = 3  # flushes, then sends its FIN
    BROKEN = 4  # is closed in this turn, without a flush
    CLOSED = 5


class StreamTransport(asyncio.Transport):
    """A connected socket and the protocol that it serves.

    Attributes:
        peer: the peer's address as accept(2) gave it.
        serial: its number in this worker and listener.
        touched: when a byte last went in or out, CLOCK_MONOTONIC, to about a second.
        owes: None until the peer has said something, True while that is unanswered, then False.
    """

    __slots__ = (
        "__weakref__", "_batch", "_buffer", "_deliver", "_mask", "_phase", "_protocol", "_service", "_socket",
        "owes", "peer", "serial", "touched",
    )  # fmt: skip

    def __init__(self, sock: socket.socket, peer: Any, service: Service) -> None:
        self._socket = sock
        self._service = service
        self._batch: list[bytes] | None = None  # not None while a read event is in progress
        self._buffer: SendBuffer | None = None
        self._phase: int = Phase.OPEN
        self._mask = READABLE
        self._protocol: Any = None
        self.peer = peer
        self.owes: bool | None = None
        self.touched = service.site.now
        self.serial = service.next_serial()

    def open(self) -> None:
        """Make the protocol and let it have the connection."""
        service = self._service
        service.site.selector.watch(self._socket.fileno(), self, READABLE)
        try:
            protocol = service.make_protocol()
            self.set_protocol(protocol)
            protocol.connection_made(self)
        except (Exception, SystemExit) as error:
            self._fail(error)

    # --- the way in ---

    def on_event(self, mask: int) -> None:
        if mask != READABLE and not self._is_read_due(mask):
            return
        service = self._service
        try:
            data = self._socket.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(error)
            return
        if not data:
            self._on_eof()
            return
        self.touched = service.site.now
        self.owes = True
        self._batch = batch = service.batch
        try:
            self._deliver(data)
        except (Exception, SystemExit) as error:
            self._fail(error)
            return
        self._batch = None
        if batch:
            data = batch[0] if len(batch) == 1 else b"".join(batch)
            batch.clear()
            self._send(data)

    def _is_read_due(self, mask: int) -> bool:
        if mask & WRITABLE and self._mask & WRITABLE:
            self._flush()
        return mask & ~WRITABLE != 0 and self._mask & READABLE != 0

    def _on_eof(self) -> None:
        """The peer half-closed: keep our half if the protocol wants it."""
        self._mask |= ENDED
        try:
            is_kept = self._protocol.eof_received()
        except (Exception, SystemExit) as error:
            self._fail(error)
            return
        if not is_kept and self._phase < Phase.CLOSING:
            self._phase = Phase.CLOSING
            self._flush()
        if self._phase < Phase.BROKEN:
            self._set_mask(self._mask & ~READABLE)

    def pause_reading(self) -> None:
        if self._mask & READABLE:
            self._set_mask(self._mask & ~READABLE)

    def resume_reading(self) -> None:
        if not self._mask & (READABLE | ENDED) and self._phase < Phase.CLOSING:
            self._set_mask(self._mask | READABLE)

    def is_reading(self) -> bool:
        return self._mask & READABLE != 0

    def _set_mask(self, mask: int) -> None:
        before, self._mask = self._mask, mask
        if (before ^ mask) & EVENTS:
            self._service.site.selector.rewatch(self._socket.fileno(), before & EVENTS, mask & EVENTS)

    # --- the way out ---

    def write(self, data: Bytes) -> None:
        batch = self._batch
        if (
            batch is not None
            and type(data) is bytes
            and len(data) <= GATHERED_BYTES
            and len(batch) < GATHERED_WRITES
        ):
            self.owes = False
            batch.append(data)
        else:
            self._write(data)

    def _write(self, data: Bytes) -> None:
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self._phase >= Phase.HALF_CLOSED:
            if self._phase == Phase.HALF_CLOSED:
                raise RuntimeError("Cannot call write() after write_eof()")
            return
        if not len(data):
            return
        self.owes = False
        self.touched = self._service.site.now
        if self._batch:
            data = b"".join((*self._batch, data))
            self._batch.clear()
        self._send(data)

    def writelines(self, list_of_data: Iterable[Bytes]) -> None:
        self.write(b"".join(list_of_data))

    def _send(self, data: Bytes) -> None:
        """Hand bytes to the kernel; keep those that it does not take."""
        sent = 0
        if not self._phase and (self._buffer is None or not self._buffer.size):
            try:
                sent = self._socket.send(data)
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                self._lose_soon(error)
                return
            if sent == len(data):
                return
        self._keep(memoryview(data)[sent:] if sent else data)

    def _keep(self, data: Bytes) -> None:
        """Append to the buffer and see to it that it is flushed."""
        if self._phase >= Phase.BROKEN:
            return
        buffer = self._open_buffer()
        # What we were given may change after write() has returned, but for bytes.
        buffer.append(data if type(data) is bytes else bytes(data))
        if not self._phase:
            self._set_mask(self._mask | WRITABLE)
        elif not self._mask & WRITABLE:
            self._flush_soon(buffer)
        if buffer.size > buffer.high:
            self._hold_writer(buffer)

    def _open_buffer(self) -> SendBuffer:
        if self._buffer is None:
            self._buffer = SendBuffer()
        return self._buffer

    def _flush_soon(self, buffer: SendBuffer) -> None:
        if not buffer.is_flush_due:
            buffer.is_flush_due = True
            self._service.site.loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Send what waits; when nothing is left, do what the phase says.

        Runs from the loop alone, so that the protocol can be called from here.
        """
        if self._phase >= Phase.BROKEN:
            return
        if self._phase == Phase.DRAINING and self._service.is_leave_due(self):
            self.leave()
        buffer = self._buffer
        if buffer is not None:
            buffer.is_flush_due = False
            if buffer.size and not self._empty(buffer):
                return
        if self._mask & WRITABLE:
            self._set_mask(self._mask & ~WRITABLE)
        if self._phase == Phase.HALF_CLOSED:
            self._shut_down()
        elif self._phase == Phase.CLOSING:
            self._finish()

    def _empty(self, buffer: SendBuffer) -> bool:
        """Send the whole buffer and return True, or arm the loop for the rest."""
        more = socket.MSG_MORE if self._phase >= Phase.HALF_CLOSED else 0
        self.touched = self._service.site.now
        try:
            while buffer.size:
                buffer.drop(self._socket.sendmsg(buffer.vectors(), (), more))
        except (BlockingIOError, InterruptedError):
            self._set_mask(self._mask | WRITABLE)
        except OSError as error:
            self._lose(error)
            return False
        self._free_writer(buffer)
        return not buffer.size

    def _hold_writer(self, buffer: SendBuffer) -> None:
        if not buffer.is_paused:
            buffer.is_paused = True
            self._tell("pause_writing")
        if buffer.size > self._service.limits.buffer:
            now = self._service.site.loop.time()
            if buffer.over_since is None:
                buffer.over_since = now
            elif now - buffer.over_since > OVER_LIMIT_SECONDS:
                self._lose_soon(ConnectionAbortedError("the peer does not read: limits.buffer is full"))

    def _free_writer(self, buffer: SendBuffer) -> None:
        if buffer.size <= self._service.limits.buffer:
            buffer.over_since = None
        if buffer.is_paused and buffer.size <= buffer.low:
            buffer.is_paused = False
            self._tell("resume_writing")

    def write_eof(self) -> None:
        if self._phase < Phase.HALF_CLOSED:
            self._end_batch()
            self._phase = Phase.HALF_CLOSED
            if not self.get_write_buffer_size():
                self._shut_down()
            elif not self._mask & WRITABLE:
                self._flush_soon(self._open_buffer())

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        gathered = sum(map(len, self._batch)) if self._batch else 0
        return gathered + (self._buffer.size if self._buffer is not None else 0)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        buffer = self._buffer
        return (LOW_WATER_BYTES, HIGH_WATER_BYTES) if buffer is None else (buffer.low, buffer.high)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        buffer = self._open_buffer()
        buffer.set_marks(high, low)
        if buffer.size > buffer.high:
            self._hold_writer(buffer)

    # --- the end ---

    def close(self) -> None:
        """Flush, send a FIN, read on for a moment, close."""
        if self._phase < Phase.CLOSING:
            self._end_batch()
            self._phase = Phase.CLOSING
            self._set_mask(self._mask & ~READABLE)
            if not self._mask & WRITABLE:
                self._flush_soon(self._open_buffer())

    def abort(self) -> None:
        """Close at once with a reset; what was not sent yet is lost."""
        self._lose_soon(None)

    def is_closing(self) -> bool:
        return self._phase >= Phase.CLOSING

    def drain(self, leave_at: float) -> None:
        """Begin to look for the end of an exchange.

        Args:
            leave_at: from then on it may end, CLOCK_MONOTONIC. A protocol that has `drain_requested` is told
                instead, and chooses itself.
        """
        if self._phase == Phase.OPEN:
            self._phase = Phase.DRAINING
        if hasattr(self._protocol, "drain_requested"):
            self._tell("drain_requested")
        else:
            self._service.let_leave(self, leave_at)

    def cut(self) -> None:
        """End now: the drain's time is over."""
        if hasattr(self._protocol, "cancel_handler"):
            self._protocol.cancel_handler()
        self.abort()

    def leave(self) -> None:
        """End between two exchanges: a coroutine sees the end of its input, a protocol is closed."""
        if self._phase in (Phase.DRAINING, Phase.HALF_CLOSED):
            if hasattr(self._protocol, "end_input"):
                self._protocol.end_input()
            else:
                self.close()

    def sweep(self, now: float) -> None:
        """Look at the deadlines; called about once a second.

        Args:
            now: CLOCK_MONOTONIC.
        """
        quiet = now - self.touched
        service = self._service
        if self._phase in (Phase.DRAINING, Phase.HALF_CLOSED) and service.is_quiet_leave_due(self, quiet):
            self.leave()
        is_late = 0 < service.limits.idle < quiet and not getattr(self._protocol, "is_busy", False)
        if is_late or (self._phase == Phase.CLOSING and quiet > STALLED_SECONDS):
            service.report_timeout(self.serial, self.peer)
            self._lose(TimeoutError("no byte went in or out for limits.idle"))

    def _end_batch(self) -> None:
        """Keep what was gathered in this read event, so that it goes out before what comes next."""
        batch, self._batch = self._batch, None
        if batch:
            self._open_buffer().append(b"".join(batch))
            batch.clear()

    def _shut_down(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:  # ENOTCONN: the peer has reset the connection, and the next read tells so
            pass

    def _fail(self, error: BaseException) -> None:
        """User code raised: that costs this connection."""
        self._service.report_error(error, self.serial, self.peer)
        self.close()

    def _lose_soon(self, error: OSError | None) -> None:
        if self._phase < Phase.BROKEN:
            self._end_batch()
            self._phase = Phase.BROKEN
            self._set_mask(self._mask & ~EVENTS)
            self._service.site.loop.call_soon(self._lose, error)

    def _lose(self, error: OSError | None) -> None:
        """Close without a flush; a reset tells the peer so."""
        if self._phase == Phase.CLOSED:
            return
        if error is not None:
            self._service.report_peer(error, self.serial, self.peer)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        self._release()
        self._part(error)

    def _finish(self) -> None:
        """Everything is flushed."""
        if self._mask & ENDED:
            self._release()
        else:
            self._shut_down()
            Linger(self._socket, self._service, self._mask & EVENTS)
        self._part(None)

    def _release(self) -> None:
        self._service.site.selector.forget(self._socket.fileno())
        self._socket.close()
        self._service.count_closed(self)

    def _part(self, error: OSError | None) -> None:
        """Tell the protocol, and break the circle of references with it."""
        self._phase = Phase.CLOSED
        if self._protocol is not None:
            self._tell("connection_lost", error)
        self._buffer = self._protocol = self._deliver = None

    def _tell(self, method: str, *arguments: Any) -> None:
        try:
            getattr(self._protocol, method)(*arguments)
        except (Exception, SystemExit) as error:
            self._service.report_error(error, self.serial, self.peer)

    # --- what asyncio asks of a transport ---

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol
        if isinstance(protocol, asyncio.BufferedProtocol):
            self._deliver: Any = partial(fill, protocol)
        elif isinstance(protocol, asyncio.Protocol) or hasattr(protocol, "data_received"):
            self._deliver = protocol.data_received
        else:
            raise TypeError(f"the app made a {type(protocol).__name__}, which is not an asyncio.Protocol")

    def get_protocol(self) -> asyncio.BaseProtocol:
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "peername":
            return self.peer
        if name == "sockname":
            return self._socket.getsockname() if self._phase < Phase.CLOSED else default
        return self._socket if name == "socket" else default


def fill(protocol: asyncio.BufferedProtocol, data: bytes) -> None:
    """Copy bytes into the buffers of a protocol that brings its own."""
    rest = memoryview(data)
    while rest:
        buffer = memoryview(protocol.get_buffer(len(rest))).cast("B")
        if not buffer:
            raise RuntimeError("get_buffer() returned an empty buffer")
        count = min(len(buffer), len(rest))
        buffer[:count] = rest[:count]
        protocol.buffer_updated(count)
        rest = rest[count:]
