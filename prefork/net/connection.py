"""The connection as a coroutine handler sees it: frames to iterate over, bytes to read and to send.

It is the transport's protocol: what arrives goes to its inlet, what is sent to the transport.

Knows: its transport, its handler's task. Does not know: descriptors, the selector.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, BinaryIO

from prefork.errors import LocalProtocolError, RemoteProtocolError
from prefork.net.inlet import Inlet
from prefork.net.outlet import GATHERED_BYTES, Bytes
from prefork.net.proxy_header import ProxyHeader
from prefork.net.service import Draining, Service
from prefork.net.tls_socket import TlsDetails

FILE_BYTES = 262_144  # of a file per read and send

Handler = Callable[["Connection"], Coroutine[Any, Any, object]]


class Connection(Inlet):
    """A client's connection, given to `async def handler(conn)`.

    `async for data in conn` gives what has arrived until the peer ends its input, or, with a framing, frame
    by frame. When the handler returns, what was sent is flushed and the connection is closed.
    """

    __slots__ = ("__weakref__", "_blocked", "_handler", "_task")

    def __init__(self, service: Service, handler: Handler) -> None:
        super().__init__(service)
        self._handler = handler
        self._task: asyncio.Task[object] | None = None
        self._blocked: asyncio.Future[None] | None = None

    # --- who and where ---

    @property
    def peer(self) -> Any:
        """The peer's address as accept(2) gives it: (host, port, …); of a unix socket `Credentials`."""
        return self._transport.peer

    @property
    def local(self) -> Any:
        """Our address of this connection, as getsockname(2) gives it."""
        return self._transport.get_extra_info("sockname")

    @property
    def listener(self) -> str:
        """The name of the listener that accepted it."""
        return self._service.name

    @property
    def tls(self) -> TlsDetails | None:
        """What TLS has agreed upon; None: the connection is plain."""
        details: TlsDetails | None = getattr(self._transport, "details", None)
        return details

    @property
    def proxy(self) -> ProxyHeader | None:
        """What the balancer's PROXY header said; None: the client has connected by itself."""
        guard = self._service.guard
        return None if guard is None else guard.headers.get(self._transport.serial)

    @property
    def id(self) -> str:
        """A name that no other connection has, for logs."""
        return self._service.name_connection(self._transport.serial)

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger whose records carry this connection's id, its peer and its listener."""
        return logging.LoggerAdapter(self._service.log, self._service.about(self.peer, self._transport.serial))

    @property
    def draining(self) -> Draining:
        """True once the server wants this connection to end; `await conn.draining` waits for that."""
        return self._service.site.draining

    @property
    def is_busy(self) -> bool:
        """Whether the handler is at work, not waiting for the peer."""
        return not self.is_waiting and self._blocked is None and self._task is not None

    def is_run_by(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether a task is this connection's handler."""
        return task is not None and self._task is task

    def timeout(self, seconds: float | None) -> asyncio.Timeout:
        """Return `asyncio.timeout(seconds)`: in `async with conn.timeout(5): …` TimeoutError ends the wait."""
        return asyncio.timeout(seconds)

    def run_blocking(self, function: Callable[..., Any], *arguments: Any) -> Awaitable[Any]:
        """Run a function that blocks in the worker's bounded pool of threads; await its result."""
        site = self._service.site
        return site.loop.run_in_executor(site.pool, function, *arguments)

    # --- the way out ---

    def write(self, data: Bytes) -> None:
        """Send bytes as they are, without waiting; `await conn.send(…)` is kinder to slow peers."""
        self._transport.write(data)

    def send(self, data: Bytes) -> Awaitable[None]:
        """Send bytes, with a framing one frame; awaiting it waits while the peer is slow.

        Raises:
            ConnectionError: the connection is lost.
        """
        transport = self._transport
        if transport.held == b"" and data.__class__ is bytes and len(data) <= GATHERED_BYTES:
            transport.held = data  # what transport.write would do, without the call
        else:
            transport.write(data)
        if self._blocked is None and self._end is None:
            return self._service.nothing
        return self._wait_writable()

    async def sendfile(self, file: BinaryIO, offset: int = 0, count: int | None = None) -> int:
        """Send a file's bytes as they are; return how many there were.

        Args:
            file: an open file with a descriptor; its position is neither used nor moved.
            offset: of the first byte.
            count: the most bytes; None: to the end of the file.

        Raises:
            ConnectionError: the connection is lost.
            OSError: the file cannot be read.
        """
        sent = 0
        while count is None or sent < count:
            size = FILE_BYTES if count is None else min(FILE_BYTES, count - sent)
            data = await self.run_blocking(os.pread, file.fileno(), size, offset + sent)
            if not data:
                break
            self._transport.write(data)
            await self._wait_writable()
            sent += len(data)
        return sent

    async def start_tls(self, context: ssl.SSLContext | None = None) -> None:
        """Speak TLS from now on, as after STARTTLS (RFC 3207): what was sent before goes out plain.

        Args:
            context: a server's; None: made of the listener's `tls` section.

        Raises:
            LocalProtocolError: TLS is spoken already, or the listener has no certificate.
            RemoteProtocolError: the peer has sent plain bytes behind its request: they may be a third party's.
            OSError: TLS is not agreed upon, and the connection is lost.
        """
        security = self._service.security
        if self.tls is not None or (context is None and security is None):
            reason = "it is spoken already" if self.tls else "the listener has no certificate; set `tls:`"
            raise LocalProtocolError(f"cannot start TLS: {reason}")
        if context is None and security is not None:
            await self._transport.upgrade(security.context, security.alpn)
        else:
            await self._transport.upgrade(context)

    def has_unread(self) -> bool:
        """Whether bytes have come that nobody has read."""
        return bool(self._input)

    async def _wait_writable(self) -> None:
        if self._blocked is not None:
            await asyncio.shield(self._blocked)
        if self._transport.is_closing() and self._end is not None:
            raise ConnectionResetError("cannot send: the connection is lost") from self._end

    def close(self) -> None:
        """Send what was written, then close."""
        self._transport.close()

    def abort(self) -> None:
        """Close at once with a reset; what was not sent yet is lost."""
        self._transport.abort()

    # --- called by the transport ---

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        site = self._service.site
        site.handlers += 1
        self._task = task = site.loop.create_task(self._handler(self))
        task.add_done_callback(self._on_done)

    def on_upgraded(self, transport: Any) -> None:
        """TLS is spoken from now on, by another transport."""
        self._transport = transport

    def eof_received(self) -> bool:
        """The peer has said its last byte; the handler may still answer."""
        self.end_input(EOFError("the peer ended its input"))
        return self._task is not None and not self._task.done()

    def connection_lost(self, error: BaseException | None) -> None:
        self.resume_writing()
        self.end_input(error or EOFError("the connection is closed"))

    def pause_writing(self) -> None:
        self._blocked = self._service.site.loop.create_future()

    def resume_writing(self) -> None:
        if self._blocked is not None:
            self._blocked.set_result(None)
            self._blocked = None

    def _on_done(self, task: asyncio.Task[object]) -> None:
        """The handler is through: with an answer, an error of its own, or one of the peer's."""
        self._task = None
        transport = self._transport
        error = None if task.cancelled() else task.exception()
        if error is None or (isinstance(error, SystemExit) and transport.is_closing()):
            pass  # nothing to tell, or told by the transport, through which asyncio let it pass
        elif isinstance(error, RemoteProtocolError):
            transport.reason = "broken"
            self._service.report_peer(error, transport.serial, transport.peer)
        elif self._end is None or self._end not in (error, error.__cause__):
            transport.reason = "error"
            self._service.report_error(error, transport.serial, transport.peer)
        if self._end is not None:
            self._end.__traceback__ = None  # its frames hold this connection
        transport.close()
        site = self._service.site
        site.handlers -= 1
        if site.draining.begun:
            site.check_empty()

    def cancel_handler(self) -> None:
        """End the handler: its time is over."""
        if self._task is not None:
            self._task.cancel()
