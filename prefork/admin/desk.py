"""Where the admin process asks the master: the language of the control socket, over a channel of its own.

Knows: requests, their answers, time. Does not know: what is asked, HTTP.
"""

from __future__ import annotations

import asyncio
import socket
from itertools import count
from typing import Any, Self

from prefork.client import RefusedError, UsageError
from prefork.errors import RemoteProtocolError
from prefork.wire import ANSWER_BYTES, pack, unpack

ANSWER_SECONDS = 2.0
READ_BYTES = 65_536


class Desk:
    """Asks one question after the other; a late answer is dropped."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._listener = asyncio.ensure_future(self._listen())

    @classmethod
    async def open(cls, channel: socket.socket) -> Self:
        """Return a desk at the end of a channel."""
        channel.setblocking(False)
        return cls(*await asyncio.open_connection(sock=channel))

    async def ask(self, command: str, seconds: float | None = ANSWER_SECONDS, **arguments: Any) -> Any:
        """Ask the master; return its answer.

        Args:
            seconds: to wait; None: as long as it takes.

        Raises:
            RefusedError: it says no, or nothing in time.
            UsageError: what is asked is written wrongly.
        """
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._writer.write(pack({"id": number, "command": command, "arguments": arguments}))
        try:
            async with asyncio.timeout(seconds):
                return await answer
        except TimeoutError as error:
            raise RefusedError(f"the master has not answered {command!r} within {seconds} s") from error
        finally:
            del self._waiting[number]

    async def _listen(self) -> None:
        buffer = bytearray()
        while data := await self._reader.read(READ_BYTES):
            buffer += data
            for message in unpack(buffer, ANSWER_BYTES):
                self._take(message)

    def _take(self, message: dict[str, Any]) -> None:
        answer = self._waiting.get(message.get("id", 0))
        if answer is None or answer.done():
            return
        if message.get("ok"):
            answer.set_result(message.get("result"))
        else:
            kind = UsageError if message.get("is_usage") else RefusedError
            answer.set_exception(kind(str(message.get("error"))))

    async def wait_gone(self) -> None:
        """Return when the master is gone."""
        try:
            await self._listener
        except (OSError, RemoteProtocolError):  # it is of no use any more
            pass
        self._writer.close()
