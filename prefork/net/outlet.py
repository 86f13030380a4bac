"""The way out of a transport: what is written, what the kernel does not take yet, and the last segment.

A connection that is to end sends its FIN together with its last bytes, so that a client never has a whole
answer in hand without knowing that it was the last.

Knows: one socket, its send buffer, the phase of its life. Does not know: what is read, who writes.
"""

from __future__ import annotations

import asyncio
import enum
import socket
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

from prefork.net.loop import READABLE, WRITABLE
from prefork.net.send_buffer import HIGH_WATER_BYTES, LOW_WATER_BYTES, SendBuffer
from prefork.net.service import USER_ERRORS, Service

GATHERED_BYTES = 2048  # larger writes go out at once: a system call is cheap beside their copy
GATHERED_WRITES = 128
OVER_LIMIT_SECONDS = 1.0  # for a burst to be taken by a peer that does read
EVENTS = READABLE | WRITABLE
ENDED = 1 << 20  # beside the epoll bits: the peer has sent its FIN

Bytes = bytes | bytearray | memoryview
Held = Any  # bytes, or a list of bytes when there is more than one, or None


class Phase(enum.IntEnum):
    OPEN = 0
    DRAINING = 1  # asked to end between two exchanges; what is written leaves at the end of the turn
    HALF_CLOSED = 2  # we have said our last byte, the peer may go on
    CLOSING = 3  # flushes, then sends its FIN
    BROKEN = 4  # is closed in this turn, without a flush
    CLOSED = 5


# An attribute of an enum class costs five times a global, and these are asked for at every step.
OPEN, DRAINING, HALF_CLOSED = Phase.OPEN, Phase.DRAINING, Phase.HALF_CLOSED
CLOSING, BROKEN, CLOSED = Phase.CLOSING, Phase.BROKEN, Phase.CLOSED


class Outlet(asyncio.Transport):
    """The half of a transport that sends.

    Attributes:
        touched: when a byte last went in or out, CLOCK_MONOTONIC, to about a second.
        held: what was written in the read event that is in progress, b"" nothing yet; None: there is none.
        received: bytes from the peer.
        sent: bytes that the kernel has taken.
        owes: None until the peer has said something, True while that is unanswered, then False.
    """

    __slots__ = (
        "__weakref__",
        "_buffer",
        "_mask",
        "_phase",
        "_protocol",
        "_service",
        "_socket",
        "held",
        "owes",
        "received",
        "sent",
        "touched",
    )

    def __init__(self, sock: socket.socket, service: Service) -> None:
        self._socket = sock
        self._service = service
        self.held: Held = None
        self._buffer: SendBuffer | None = None
        self._phase: int = OPEN
        self._mask = READABLE
        self._protocol: Any = None
        self.owes: bool | None = None
        self.received = self.sent = 0
        self.touched = service.site.now

    @property
    def has_answered(self) -> bool:
        """Whether the peer's last words have an answer, which may be on its way."""
        return self.owes is False if self.held is None else bool(self.held)

    @property
    def is_mid_frame(self) -> bool:
        """Whether the peer has begun a frame, which is to be answered before the end."""
        return bool(getattr(self._protocol, "is_mid_frame", False))

    @abstractmethod
    def leave(self) -> None:
        """End between two exchanges."""

    @abstractmethod
    def _finish(self) -> None:
        """Everything is flushed, and the connection is to be closed."""

    @abstractmethod
    def _lose(self, error: OSError | None) -> None:
        """The connection is gone, or is to be."""

    @abstractmethod
    def _report(self, error: BaseException) -> None:
        """User code raised."""

    def write(self, data: Bytes) -> None:
        held = self.held
        if held is None or data.__class__ is not bytes or len(data) > GATHERED_BYTES:
            self._write(data)
        elif not held:
            self.held = data
        elif held.__class__ is bytes:
            self.held = [held, data]
        elif len(held) < GATHERED_WRITES:
            held.append(data)
        else:
            self._write(data)

    def _write(self, data: Bytes) -> None:
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self._phase >= HALF_CLOSED:
            if self._phase == HALF_CLOSED:
                raise RuntimeError("Cannot call write() after write_eof()")
            return
        if not len(data):
            return
        if data.__class__ is memoryview and (data.itemsize != 1 or data.ndim != 1):
            data = data.cast("B")  # len() and slices of it count items, and send(2) counts bytes
        self.owes = False
        self.touched = self._service.now
        held, self.held = self.held, None
        if held:
            data = b"".join((*held, data)) if isinstance(held, list) else held + data
        self._send(data)

    def writelines(self, list_of_data: Iterable[Bytes]) -> None:
        self.write(b"".join(list_of_data))

    def _send(self, data: Bytes) -> None:
        """Hand bytes to the kernel; keep those that it does not take."""
        sent = 0
        if not self._phase and (self._buffer is None or not self._buffer.size):
            try:
                sent = self._socket.send(data)
            except OSError as error:
                sent = self._on_send_error(error)
            self.sent += sent
            if sent == len(data):
                return
        self._keep(memoryview(data)[sent:] if sent else data)

    def _on_send_error(self, error: OSError) -> int:
        """Return how much was sent: nothing. The connection may be gone; what is kept then goes with it."""
        if not isinstance(error, BlockingIOError | InterruptedError):
            self._lose_soon(error)
        return 0

    def _keep(self, data: Bytes) -> None:
        """Append to the buffer and see to it that it is flushed."""
        if self._phase >= BROKEN:
            return
        buffer = self._open_buffer()
        # What we were given may change after write() has returned, but for bytes.
        buffer.append(data if type(data) is bytes else bytes(data))
        self._service.count_kept(len(data))
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
        """Flush after the next turn of the loop.

        A handler that returns behind its last answer has closed the connection by then: its task's end takes
        effect one turn later. So the FIN goes with the answer, and no request crosses it.
        """
        if not buffer.is_flush_due:
            buffer.is_flush_due = True
            loop = self._service.site.loop
            loop.call_soon(loop.call_soon, self._flush)

    def _flush(self) -> None:
        """Send what waits; when nothing is left, do what the phase says.

        Runs from the loop alone, so that the protocol can be called from here.
        """
        if self._phase >= BROKEN:
            return
        buffer = self._buffer
        departures = self._service.departures
        may_end = departures if self._phase == DRAINING else None
        # A writer that was told to wait has more to say.
        if may_end is not None and buffer is not None and not buffer.is_paused and may_end.is_due(self):
            buffer.is_flush_due = False
            self.leave()
            self._flush_soon(buffer)
            return
        if buffer is not None:
            buffer.is_flush_due = False
            if buffer.size and not self._empty(buffer):
                return
        if self._mask & WRITABLE:
            self._set_mask(self._mask & ~WRITABLE)
        if self._phase == HALF_CLOSED:
            self._shut_down()
        elif self._phase == CLOSING:
            self._finish()

    def _empty(self, buffer: SendBuffer) -> bool:
        """Send the whole buffer and return True, or arm the loop for the rest."""
        more = socket.MSG_MORE if self._phase >= HALF_CLOSED else 0
        self.touched = self._service.now
        try:
            while buffer.size:
                sent = self._socket.sendmsg(buffer.vectors(), (), more)
                self.sent += sent
                buffer.drop(sent)
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
        self._check_size(buffer)

    def _check_size(self, buffer: SendBuffer) -> None:
        """End a connection whose buffer has been over the limit for a while."""
        if buffer.size <= self._service.limits.buffer:
            return
        now = self._service.site.loop.time()
        if buffer.over_since is None:
            buffer.over_since = now
        elif now - buffer.over_since > OVER_LIMIT_SECONDS and self._has_to_read():
            self._lose_soon(ConnectionAbortedError("the peer does not read: limits.buffer is full"))

    @abstractmethod
    def _has_to_read(self) -> bool:
        """Whether a full buffer is the end of the connection, and not only counted."""

    def _free_writer(self, buffer: SendBuffer) -> None:
        if buffer.size <= self._service.limits.buffer:
            buffer.over_since = None
        if buffer.is_paused and buffer.size <= buffer.low:
            buffer.is_paused = False
            self._tell("resume_writing")

    def write_eof(self) -> None:
        if self._phase < HALF_CLOSED:
            self._keep_held()
            self._phase = HALF_CLOSED
            if not self.get_write_buffer_size():
                self._shut_down()
            elif not self._mask & WRITABLE:
                self._flush_soon(self._open_buffer())

    @property
    def is_writing_paused(self) -> bool:
        """Whether the protocol was told to wait."""
        return self._buffer is not None and self._buffer.is_paused

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        held = self.held or b""
        gathered = sum(map(len, held)) if isinstance(held, list) else len(held)
        return gathered + (self._buffer.size if self._buffer is not None else 0)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        buffer = self._buffer
        return (LOW_WATER_BYTES, HIGH_WATER_BYTES) if buffer is None else (buffer.low, buffer.high)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        buffer = self._open_buffer()
        buffer.set_marks(high, low)
        if buffer.size > buffer.high:
            self._hold_writer(buffer)

    def flush_held(self) -> None:
        """Send what was gathered in this read event now."""
        held, self.held = self.held, None
        if held:
            self._send(b"".join(held) if isinstance(held, list) else held)

    def _keep_held(self) -> None:
        """Keep what was gathered in this read event, so that it goes out before what comes next."""
        held, self.held = self.held, None
        if held:
            self._open_buffer().append(b"".join(held) if isinstance(held, list) else held)

    def _shut_down(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:  # ENOTCONN: the peer has reset the connection, and the next read tells so
            pass

    def _lose_soon(self, error: OSError | None) -> None:
        if self._phase < BROKEN:
            self._keep_held()
            self._phase = BROKEN
            self._set_mask(self._mask & ~EVENTS)
            self._service.site.loop.call_soon(self._lose, error)

    def _set_mask(self, mask: int) -> None:
        before, self._mask = self._mask, mask
        if (before ^ mask) & EVENTS:
            self._service.site.selector.rewatch(self._socket.fileno(), before & EVENTS, mask & EVENTS)

    def _tell(self, method: str, *arguments: Any) -> None:
        try:
            getattr(self._protocol, method)(*arguments)
        except USER_ERRORS as error:
            self._report(error)
