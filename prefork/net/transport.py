"""One stream connection on the loop: a full `asyncio.Transport` over a non-blocking socket.

A read event reads once, gives the bytes to the protocol, and sends at its end, in one call, all that the
protocol wrote meanwhile.

Knows: one socket, its protocol, how it ends. Does not know: frames, tasks, other connections.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any, BinaryIO

from prefork.errors import LocalProtocolError, RemoteProtocolError
from prefork.net.deadlines import TimedOutlet
from prefork.net.linger import NO_LINGER, Linger
from prefork.net.loop import READABLE, WRITABLE
from prefork.net.outlet import BROKEN, CLOSED, CLOSING, DRAINING, ENDED, EVENTS, HALF_CLOSED, OPEN
from prefork.net.passage import Passage, send_file
from prefork.net.peer import Credentials
from prefork.net.proxy_header import SIGNATURE_BYTES, has_signature
from prefork.net.service import USER_ERRORS, Service
from prefork.scoreboard import Rule

READ_BYTES = 65_536  # more makes malloc map and unmap memory for every message


class StreamTransport(TimedOutlet):
    """A connected socket and the protocol that it serves."""

    __slots__ = ("_deliver", "_heir", "recorder")

    def __init__(self, sock: socket.socket, peer: Any, service: Service, serial: int) -> None:
        """Make the transport of a connected socket.

        Args:
            serial: its number, as it was counted.
        """
        super().__init__(sock, peer, service, serial)
        self._deliver: Any = None
        self.recorder: Any = None  # while it is tapped
        self._heir: Any = None  # the transport that took socket and protocol over

    def open(self) -> None:
        """Make the protocol and let it have the connection."""
        self._watch()
        tap = self._service.site.journal.tap
        if tap is not None:
            tap.adopt(self)
        try:
            protocol = self._service.make_protocol()
            self.set_protocol(protocol)
            protocol.connection_made(self)
        except USER_ERRORS as error:
            self._fail(error)
        if self._service.departures is not None:
            self.join_drain()

    def expect_no_header(self) -> None:
        """Refuse a PROXY header, which only balancers may send; it would come first."""
        deliver, begun = self._deliver, b""

        def deliver_first(data: bytes) -> None:
            nonlocal begun
            begun += data[:SIGNATURE_BYTES]
            if has_signature(begun) and self._service.enforces(Rule.PROXY, self.peer):
                self._lose_soon(None)
                return
            if len(begun) >= SIGNATURE_BYTES:
                self._deliver = deliver
            deliver(data)

        self._deliver = deliver_first

    def _watch(self) -> None:
        self._service.site.selector.watch(self._socket.fileno(), self, READABLE)

    def join_drain(self) -> None:
        """Be asked to end, as those were that were open when the drain began."""
        departures = self._service.departures
        if departures is not None and departures.window is not None and self._phase < CLOSING:
            self.drain(departures.pick())

    # --- the way in ---

    def on_event(self, mask: int) -> None:
        if not mask == self._mask == READABLE and not self._is_read_due(mask):
            return
        try:
            data = self._socket.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._on_receive_error(error)
            return
        if not data:
            self._on_eof()
            return
        self.touched = self._service.now
        self.received += len(data)
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

    def _on_receive_error(self, error: OSError) -> None:
        self._lose(error)

    def _is_read_due(self, mask: int) -> bool:
        if mask & WRITABLE and self._mask & WRITABLE:
            self._flush()
        return mask & ~WRITABLE != 0 and self._mask & READABLE != 0

    def _on_eof(self) -> None:
        """The peer half-closed: keep our half if the protocol wants it."""
        self._mask |= ENDED
        try:
            is_kept = self._protocol.eof_received()
        except USER_ERRORS as error:
            self._fail(error)
            return
        if not is_kept and self._phase < CLOSING:
            self._phase = CLOSING
            self._flush()
        if self._phase < BROKEN:
            self._set_mask(self._mask & ~READABLE)

    def write_eof(self) -> None:
        super().write_eof()
        deliver = self._deliver
        self._deliver = lambda data: self._deliver_ungathered(deliver, data)

    def _deliver_ungathered(self, deliver: Callable[[bytes], None], data: bytes) -> None:
        """Deliver after our last byte: write() refuses then at once."""
        self.held = None
        deliver(data)

    def pause_reading(self) -> None:
        if self._heir is not None:  # asyncio.StreamReader keeps the transport that it was made with
            self._heir.pause_reading()
            return
        if self._mask & READABLE and self._phase < CLOSED:
            self._set_mask(self._mask & ~READABLE)

    def resume_reading(self) -> None:
        if self._heir is not None:
            self._heir.resume_reading()
            return
        if not self._mask & (READABLE | ENDED) and self._phase < CLOSING:
            self._set_mask(self._mask | READABLE)
            if getattr(self._protocol, "frame_begun", None) is not None:
                self._protocol.frame_begun = self._service.now  # what was held back was not the peer's delay

    def is_reading(self) -> bool:
        return self._mask & READABLE != 0

    def write_frame(self, frame: Any) -> None:
        """Send a frame, as the listener's framing has it; without one, bytes.

        Raises:
            LocalProtocolError: the framing cannot express it.
        """
        framing = self._service.framing
        self.write(frame if framing is None else framing.encode(frame))

    # --- the end ---

    def close(self) -> None:
        """Flush, send a FIN, read on for a moment, close."""
        if self._heir is not None:
            self._heir.close()
            return
        if self._phase < CLOSING:
            self._keep_held()
            self._phase = CLOSING
            self._set_mask(self._mask & ~READABLE)
            if not self._mask & WRITABLE:
                self._flush_soon(self._open_buffer())

    def abort(self) -> None:
        """Close at once with a reset; what was not sent yet is lost."""
        if self._heir is not None:
            self._heir.abort()
        else:
            self._lose_soon(None)

    # asyncio's TLS over a given transport closes it by this name after a fault: sslproto.py, 3.11 to 3.14.
    def _force_close(self, error: BaseException | None) -> None:
        self._lose_soon(error if isinstance(error, OSError) else None)

    def is_closing(self) -> bool:
        if self._heir is not None:
            return bool(self._heir.is_closing())
        return self._phase >= CLOSING

    def drain(self, leave_at: float) -> None:
        """Begin to look for the end of an exchange.

        Args:
            leave_at: from then on it may end, CLOCK_MONOTONIC. A protocol that has `drain_requested` is told
                instead, and chooses itself.
        """
        is_first = self._phase == OPEN
        if is_first:
            self._phase = DRAINING
        if hasattr(self._protocol, "drain_requested"):
            if is_first:
                self._tell("drain_requested")
        elif self._service.departures is not None:
            self._service.departures.allow(self, leave_at)
        if hasattr(self._protocol, "on_drain"):
            self._protocol.on_drain()

    def cut(self) -> None:
        """End now: the drain's time is over."""
        self.reason = "cut"
        if hasattr(self._protocol, "cancel_handler"):
            self._protocol.cancel_handler()
        self.abort()

    def leave(self) -> None:
        """End between two exchanges: a coroutine sees the end of its input, a protocol is closed."""
        if self._service.departures is not None:
            self._service.departures.forget(self)
        if self._phase in (DRAINING, HALF_CLOSED):
            if hasattr(self._protocol, "end_input"):
                self._protocol.end_input()
            else:
                self.close()

    def _fail(self, error: BaseException) -> None:
        """User code raised: that costs this connection."""
        self.reason = "error"
        self._report(error)
        self.close()

    def _report(self, error: BaseException) -> None:
        self._service.report_error(error, self.serial, self.peer)

    def _lose(self, error: OSError | None) -> None:
        """Close without a flush; a reset tells the peer so."""
        if self._phase == CLOSED:
            return
        if error is not None:
            self.reason = self.reason or "broken"
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
            Linger(self._socket, self._service, self._mask & EVENTS, self.serial, self.reason)
        self._part(None)

    def _release(self) -> None:
        self._service.site.selector.forget(self._socket.fileno())
        self._socket.close()
        self._service.count_closed(self.serial, self.reason, self)

    def _part(self, error: OSError | None) -> None:
        """Tell the protocol, and break the circle of references with it."""
        self._phase = CLOSED
        self._service.note_end(self)
        if self._protocol is not None:
            self._tell("connection_lost", error)
        self._buffer = None
        self._protocol = self._deliver = None

    # --- TLS on a connection in use ---

    @property
    def service(self) -> Service:
        return self._service

    async def upgrade(
        self, context: ssl.SSLContext, alpn: tuple[str, ...] = (), timeout: float | None = None
    ) -> StreamTransport:
        """Speak TLS from now on, as the server's side, when all is sent; return the transport that does.

        Args:
            timeout: of the handshake; None: `limits.handshake`.

        Raises:
            LocalProtocolError: it is no context, or a client's.
            RemoteProtocolError: plain bytes came behind the request: they may be a third party's.
            OSError: it is not agreed upon, and the connection is lost.
        """
        from prefork.net.tls_transport import upgrade  # which is made of this class

        if not isinstance(context, ssl.SSLContext) or context.protocol == ssl.PROTOCOL_TLS_CLIENT:
            raise LocalProtocolError("cannot start TLS: it takes a context of PROTOCOL_TLS_SERVER")
        if self.is_closing():
            raise ConnectionResetError("cannot start TLS: the connection is closing")
        if hasattr(self._protocol, "has_unread") and self._protocol.has_unread():
            raise RemoteProtocolError("cannot start TLS: the peer has sent plain bytes behind its request")
        passage = Passage(self, self._service.site.loop)
        try:
            await passage.wait_sent()
        finally:
            passage.leave()
        return await upgrade(self, context, alpn, timeout)

    async def send_file(self, file: BinaryIO, offset: int, count: int | None) -> int:
        """Send a file's bytes, see `asyncio.loop.sendfile`.

        Raises:
            ConnectionResetError: the connection is lost.
        """
        return await send_file(self, file, offset, count, self._service.site.loop)

    def bequeath(self, heir: StreamTransport) -> None:
        """Let another transport have what is still asked of this one."""
        self._heir = heir

    def hand_over(self) -> tuple[socket.socket, Any]:
        """Give up socket and protocol to another transport; this one is without use from now on."""
        protocol, self._protocol, self._deliver, self.held = self._protocol, None, None, None
        self._set_mask(self._mask | READABLE)
        self._phase = CLOSED
        if self._service.departures is not None:
            self._service.departures.forget(self)
        return self._socket, protocol

    # --- what asyncio asks of a transport ---

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol
        if isinstance(protocol, asyncio.BufferedProtocol):
            self._deliver = partial(fill, protocol)
        elif isinstance(protocol, asyncio.Protocol) or hasattr(protocol, "data_received"):
            self._deliver = protocol.data_received
        else:
            raise TypeError(f"the app made a {type(protocol).__name__}, which is not an asyncio.Protocol")

    def get_protocol(self) -> asyncio.BaseProtocol:
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if self._heir is not None:
            return self._heir.get_extra_info(name, default)
        if name == "peername":
            return "" if isinstance(self.peer, Credentials) else self.peer  # as getpeername(2) has it
        if name == "sockname":
            return self._socket.getsockname() if self._phase < CLOSED else default
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
