"""Stands in for a connection's protocol while something else has the connection: a file, or the start of TLS.

Knows: a transport, when there is room. Does not know: what is sent.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any, BinaryIO

FILE_BYTES = 262_144  # of a file per read and write


class Passage(asyncio.Protocol):
    """Holds the input back, and waits until what was written is on its way."""

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        """Take a transport over; `leave` gives it back."""
        self._transport = transport
        self._loop = loop
        self._protocol = transport.get_protocol()
        self._limits = transport.get_write_buffer_limits()
        self._was_reading = transport.is_reading()
        self._room: asyncio.Future[None] | None = None
        self._is_lost = False
        self._was_paused = transport.is_writing_paused
        transport.flush_held()
        transport.pause_reading()
        transport.set_protocol(self)
        transport.set_write_buffer_limits(0)

    async def wait_sent(self) -> None:
        """Return when the kernel has taken all that was written.

        Raises:
            ConnectionResetError: the connection is lost.
        """
        if self._room is None and self._transport.get_write_buffer_size():
            self._room = self._loop.create_future()
        if self._room is not None:
            await self._room
        if self._is_lost:
            raise ConnectionResetError("the connection is lost")

    def leave(self) -> None:
        """Give the transport back to its protocol."""
        if self._is_lost:
            return
        low, high = self._limits
        self._transport.set_protocol(self._protocol)
        self._transport.set_write_buffer_limits(high, low)
        is_paused = self._transport.is_writing_paused
        if is_paused and not self._was_paused:
            self._protocol.pause_writing()
        elif self._was_paused and not is_paused:
            self._protocol.resume_writing()
        if self._was_reading:
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        if self._room is None:
            self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    def eof_received(self) -> bool:
        """Reading is paused, so this comes only in the same event."""
        kept: bool = self._protocol.eof_received()
        return kept

    def connection_lost(self, error: Exception | None) -> None:
        self._is_lost = True
        self.resume_writing()
        self._protocol.connection_lost(error)


async def send_file(
    transport: Any, file: BinaryIO, offset: int, count: int | None, loop: asyncio.AbstractEventLoop
) -> int:
    """Send a file's bytes as `asyncio.loop.sendfile` documents it; return how many there were.

    Args:
        count: the most bytes; None: to the end of the file. The file's position is moved behind the last.

    Raises:
        ConnectionResetError: the connection is lost.
    """
    passage, sent = Passage(transport, loop), 0
    try:
        await passage.wait_sent()
        while count is None or sent < count:
            size = FILE_BYTES if count is None else min(FILE_BYTES, count - sent)
            data = await loop.run_in_executor(None, os.pread, file.fileno(), size, offset + sent)
            if not data:
                break
            transport.write(data)
            await passage.wait_sent()
            sent += len(data)
    finally:
        passage.leave()
        file.seek(offset + sent)
    return sent
