"""The way in of a connection, as its handler sees it: what has arrived, and the task that waits for more.

An inlet is the future that the handler's task waits for: a read event resumes the task at once, without a
turn of the loop in between. The duck-typed future follows what `asyncio.isfuture` documents.

Knows: what was read and not yet taken, who waits. Does not know: sockets, what is sent.
"""

from __future__ import annotations

import asyncio
import contextvars
import types
from collections.abc import Callable, Generator
from typing import Any, Self

from prefork.errors import FrameLimitError, LocalProtocolError
from prefork.net.service import Service

INPUT_BYTES = 65_536  # more than this unread: nothing more is read from the peer


class Inlet:
    """Bytes as they arrive, for one reader."""

    __slots__ = (
        "_asyncio_future_blocking",
        "_context",
        "_end",
        "_input",
        "_is_held",
        "_is_odd",
        "_loop",
        "_mark",
        "_service",
        "_transport",
        "_wakeup",
    )

    # A task asks for the result at each wake-up, and gets None: it looks for itself what has come. A builtin
    # that returns None takes a third of the time of a method.
    result = staticmethod(bytearray().clear)

    def __init__(self, service: Service) -> None:
        self._service = service
        self._loop = service.site.loop  # where asyncio looks for a future's loop
        self._transport: Any = None
        self._input: Any = None  # what has arrived and was not read yet; never empty, but None
        self._mark = INPUT_BYTES
        self._is_held = False
        self._end: BaseException | None = None  # why nothing more will arrive
        self._is_odd = service.departures is not None  # input was held or has ended, or the worker drains
        self._wakeup: Callable[[object], object] | None = None
        self._context: contextvars.Context | None = None
        self._asyncio_future_blocking = False

    @property
    def is_waiting(self) -> bool:
        """Whether a task waits for the peer."""
        return self._wakeup is not None

    def __aiter__(self) -> Self:
        return self

    @types.coroutine
    def __anext__(self) -> Generator[Any, None, bytes]:
        data = self._input
        if data is None:
            if self._is_odd or self._wakeup is not None:
                self._check_next()
            self._asyncio_future_blocking = True
            yield self
            data = self._input
            if data is None:
                self._stop()
        self._input = None
        return self._settle(data) if self._is_odd else data

    @types.coroutine
    def read(self, max_bytes: int = -1) -> Generator[Any, None, bytes]:
        """Return what has arrived, at most `max_bytes` if positive; b"" at the end of the input.

        With a framing: the next frame.

        Raises:
            ConnectionError: the connection was lost.
        """
        if self._input is None:
            if self._end is None:
                self._check_reader()
                self._asyncio_future_blocking = True
                yield self
            if self._input is None:
                return self._read_end()
        return self._take(max_bytes if max_bytes > 0 else len(self._input))

    async def read_exactly(self, count: int) -> bytes:
        """Return exactly `count` bytes.

        Raises:
            asyncio.IncompleteReadError: the input ended before; `partial` has what came.
            ConnectionError: the connection was lost.
        """
        while len(self._input or b"") < count:
            if self._end is not None:
                self._read_end()
                partial = self._take(count) if self._input else b""
                raise asyncio.IncompleteReadError(partial, count) from self._end
            await self._wait(count)
        return self._take(count) if count else b""

    async def read_until(self, separator: bytes, max_bytes: int | None = None) -> bytes:
        """Return bytes up to and with a separator.

        Args:
            max_bytes: the most to look through; default: the listener's `limits.frame`.

        Raises:
            RemoteProtocolError: the separator is not among the first `max_bytes`.
            asyncio.IncompleteReadError: the input ended before; `partial` has what came.
            ConnectionError: the connection was lost.
        """
        most = self._service.limits.frame if max_bytes is None else max_bytes
        start = 0
        while True:
            data = self._input or b""
            at = data.find(separator, start)
            end = at + len(separator) if at >= 0 else len(data)
            if end > most:
                raise FrameLimitError(f"cannot read until {separator!r}: not within {most} bytes")
            if at >= 0:
                return self._take(end)
            if self._end is not None:
                self._read_end()
                raise asyncio.IncompleteReadError(self._take(end) if end else b"", None) from self._end
            start = max(0, len(data) - len(separator) + 1)
            await self._wait(most + 1)

    @types.coroutine
    def _wait(self, mark: int) -> Generator[Any, None, None]:
        """Wait for more input, or its end; let up to `mark` bytes come."""
        self._check_reader()
        self._mark = max(INPUT_BYTES, mark)
        if self._is_held:
            self._release()
        self._asyncio_future_blocking = True
        try:
            yield self
        finally:
            self._mark = INPUT_BYTES

    def _check_next(self) -> None:
        """Raise what ends the iteration now, if anything does.

        A drain ends it between two exchanges: one was answered, the next has not begun.
        """
        if self._end is not None:
            self._stop()
        departures = self._service.departures
        if departures is not None and departures.is_due(self._transport):
            raise StopAsyncIteration
        self._check_reader()

    def _check_reader(self) -> None:
        if self._wakeup is not None:
            raise LocalProtocolError("cannot read: another task is waiting for input of this connection")

    def _settle(self, data: bytes | bytearray) -> bytes:
        """Go back to the usual way, if nothing stands against it."""
        self._is_odd = self._end is not None or self._service.departures is not None
        if self._is_held:
            self._release()
        return bytes(data)

    def _stop(self) -> None:
        self._read_end()
        raise StopAsyncIteration

    def _read_end(self) -> bytes:
        if self._end is None or isinstance(self._end, EOFError):
            return b""
        raise self._end

    def _take(self, count: int) -> bytes:
        data = self._input
        if count >= len(data):
            taken, self._input = data, None
        else:
            if type(data) is bytes:
                data = self._input = bytearray(data)
            taken = data[:count]
            del data[:count]  # from the front a bytearray only moves its start
        if self._is_held:
            self._release()
        return taken if type(taken) is bytes else bytes(taken)

    def _release(self) -> None:
        if len(self._input or b"") < self._mark:
            self._is_held = False
            self._transport.resume_reading()

    # --- called by the transport ---

    def data_received(self, data: bytes) -> None:
        if self._input is None:
            self._input = data
        else:
            self._append(data)
        wakeup = self._wakeup
        if wakeup is not None:
            self._wakeup = None
            self._context.run(wakeup, self)  # type: ignore[union-attr]  # set together with the wake-up

    def _append(self, data: bytes) -> None:
        self._is_odd = True
        if type(self._input) is not bytearray:
            self._input = bytearray(self._input)
        self._input += data
        if len(self._input) >= self._mark:
            self._hold()

    def _hold(self) -> None:
        self._is_held = True
        self._transport.pause_reading()

    def end_input(self, reason: BaseException | None = None) -> None:
        """Let the reader see the end of its input, once it has read what is there.

        Args:
            reason: an EOFError ends it cleanly, another is raised to the reader; None: the server drains.
        """
        self._is_odd = True
        if self._end is None or isinstance(self._end, EOFError):
            self._end = reason or EOFError("the server is draining")
        self._wake()

    def on_drain(self) -> None:
        """From now on the iteration may end between two exchanges."""
        self._is_odd = True

    def _wake(self) -> None:
        """Resume the task that waits, at once: only the loop calls this, so no other task is running."""
        wakeup = self._wakeup
        if wakeup is not None:
            self._wakeup = None
            self._context.run(wakeup, self)  # type: ignore[union-attr]  # set together with the wake-up

    # --- called by the task that waits ---

    def add_done_callback(
        self, callback: Callable[[object], object], *, context: contextvars.Context | None = None
    ) -> None:
        self._wakeup = callback
        self._context = context

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002  # asyncio.Future.cancel's own name
        """Let the task that waits take its next step, in which it finds that it was cancelled.

        Returns:
            False: it is for the task to raise CancelledError, see asyncio.Task.cancel.
        """
        self._wake_soon()
        return False

    def _wake_soon(self) -> None:
        wakeup = self._wakeup
        if wakeup is not None:
            self._wakeup = None
            self._loop.call_soon(wakeup, self, context=self._context)
