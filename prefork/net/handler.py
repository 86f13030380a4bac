"""The protocol that each kind of app gets for a connection.

Knows: the kinds of apps. Does not know: where they come from, sockets.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

from prefork.app import AppKind, check_framing, recognise
from prefork.errors import RemoteProtocolError
from prefork.net.connection import Connection
from prefork.net.framed_connection import FramedConnection
from prefork.net.framed_protocol import FramedProtocol
from prefork.net.service import USER_ERRORS, ProtocolFactory, Service


def build_protocol_factory(app: Any, service: Service) -> ProtocolFactory:
    """Return what makes the protocol of each connection of a service.

    Raises:
        ConfigError: the app is of no known kind.
    """
    kind = check_framing(app, recognise(app, service.name), service.name, service.framing is not None)
    if kind is AppKind.CONNECTION:
        return _Coroutines(app, service)
    if kind is AppKind.STREAMS:
        return _Streams(app, service)
    factory: ProtocolFactory = app
    framing = service.framing
    if framing is not None:
        return lambda: FramedProtocol(app(), framing, service)
    return factory


class _Coroutines:
    """Makes a connection for each client, and a task that runs the handler."""

    def __init__(self, handler: Callable[[Connection], Coroutine[Any, Any, object]], service: Service) -> None:
        self._handler = handler
        self._service = service
        self._type = Connection if service.framing is None else FramedConnection

    def __call__(self) -> Any:
        return self._type(self._service, self._handler)


class StreamProtocol(asyncio.StreamReaderProtocol):
    """asyncio's own protocol of a (reader, writer) handler; a drain lets the handler end by itself."""

    def __init__(self, reader: asyncio.StreamReader, *arguments: Any, **options: Any) -> None:
        super().__init__(reader, *arguments, **options)
        self._find_reader = weakref.ref(reader)  # as asyncio does, lest a handler that is gone keeps it
        self.is_over = False

    def has_unread(self) -> bool:
        """Whether bytes have come that nobody has read."""
        reader = self._find_reader()
        return reader is not None and take_unread(reader)

    def end_input(self, reason: BaseException | None = None) -> None:  # noqa: ARG002  # as a connection's
        """Let the reader see the end of its input: the handler ends by itself, with its answer whole."""
        self.is_over = True
        reader = self._find_reader()
        if reader is not None:
            reader.feed_eof()

    def data_received(self, data: bytes) -> None:
        if not self.is_over:
            super().data_received(data)


def take_unread(reader: asyncio.StreamReader) -> bool:
    """Return whether bytes have come that nobody has read; one is taken: the connection is refused then."""
    step = reader.read(1)
    try:
        step.send(None)
    except StopIteration as end:
        return bool(end.value)
    step.close()
    return False


class _Streams:
    """Makes asyncio's own reader and writer for each client."""

    def __init__(self, handler: Callable[..., Coroutine[Any, Any, object]], service: Service) -> None:
        self._handler = handler
        self._service = service

    def __call__(self) -> asyncio.BaseProtocol:
        loop = self._service.site.loop
        reader = asyncio.StreamReader(limit=self._service.limits.frame, loop=loop)
        return StreamProtocol(reader, self._run, loop=loop)

    async def _run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transport: Any = writer.transport
        try:
            await self._handler(reader, writer)
        except asyncio.CancelledError:
            raise
        except USER_ERRORS as error:
            lost = reader.exception()
            if isinstance(error, RemoteProtocolError):
                transport.reason = "broken"
                self._service.report_peer(error, transport.serial, transport.peer)
            elif lost is None or lost not in (error, error.__cause__):  # else the transport has told it
                transport.reason = "error"
                self._service.report_error(error, transport.serial, transport.peer)
        finally:
            writer.close()
            lost = reader.exception()
            if lost is not None:
                lost.__traceback__ = None  # its frames hold this reader
