"""A connection whose input is cut into frames, as a coroutine handler sees it.

Knows: a framing, which frames were not read yet, how long the handler takes for them.
Does not know: sockets, which framing it is.
"""

from __future__ import annotations

import contextvars
import time
import types
from collections.abc import Awaitable, Callable, Generator
from typing import Any

from prefork.errors import LocalProtocolError, RemoteProtocolError
from prefork.framing import Complaint
from prefork.net.connection import Connection, Handler
from prefork.net.outlet import Bytes
from prefork.net.service import Service


class FramedConnection(Connection):
    """A connection whose input is cut into frames; `send` makes a frame of what it is given."""

    __slots__ = ("_arrived_at", "_complaints", "_decoder", "_encode", "_in_hand", "frame_begun", "frames")

    def __init__(self, service: Service, handler: Handler) -> None:
        super().__init__(service, handler)
        framing: Any = service.framing
        self._decoder = framing.decoder()
        self._encode = framing.encode
        self.frame_begun: float | None = None  # when the frame that is not whole yet began to arrive
        self.frames = 0  # that have come, ever
        self._in_hand = 0  # of them the handler has not asked for the next one yet
        self._arrived_at = 0.0  # when the first of these came
        self._complaints = 0  # among the frames that were not read yet
        self._input = []  # the frames that were not read yet, the next one last

    @types.coroutine
    def __anext__(self) -> Generator[Any, None, bytes]:
        if self._complaints:
            yield from self._pass_complaints()
        elif not self._input:
            if self._is_odd or self._wakeup is not None:
                self._check_next()
            self._asyncio_future_blocking = True
            yield self
            if self._complaints:
                yield from self._pass_complaints()
        if not self._input:
            self._stop()
        if self._is_held:
            self._release()
        frame: bytes = self._input.pop()
        return frame

    @types.coroutine
    def read(self, max_bytes: int = -1) -> Generator[Any, None, bytes]:  # noqa: ARG002  # frames are whole
        try:
            return (yield from self.__anext__())
        except StopAsyncIteration:
            return b""

    async def read_exactly(self, count: int) -> bytes:
        raise LocalProtocolError(f"cannot read {count} bytes: this listener has a framing; use `async for`")

    async def read_until(self, separator: bytes, max_bytes: int | None = None) -> bytes:
        raise LocalProtocolError(
            f"cannot read until {separator!r} ({max_bytes}): this listener has a framing; use `async for`"
        )

    def send(self, data: Bytes) -> Awaitable[None]:
        self._transport.write(self._encode(data))
        if self._blocked is None and self._end is None:
            return self._service.nothing
        return self._wait_writable()

    def data_received(self, data: bytes) -> None:
        try:
            frames = self._decoder.feed(data)
        except RemoteProtocolError as error:
            self._hold()
            self.end_input(error)
            return
        pending = self._decoder.pending
        self.frame_begun = self._service.when_begun(self.frame_begun, self._decoder) if pending else None
        if not frames:
            return
        self._note_arrival(len(frames))
        if Complaint in map(type, frames):
            self._complaints += sum(type(frame) is Complaint for frame in frames)
        frames.reverse()
        if self._input:
            frames.extend(self._input)
            self._hold()  # a reader that does not keep up has two reads' worth of frames at the most
        self._input = frames
        if not self._complaints or (self.is_waiting and self._answer_complaints()):
            self._wake()
        if self._decoder.refusal is not None:
            self._hold()
            self.end_input(self._decoder.refusal)

    def _note_arrival(self, number: int) -> None:
        if not self._in_hand:
            self._arrived_at = time.monotonic()
        self.frames += number
        self._in_hand += number

    def _note_handled(self) -> None:
        if self._in_hand:
            self._service.ledger.note_frames(self._in_hand, time.monotonic() - self._arrived_at)
            self._in_hand = 0

    def add_done_callback(
        self, callback: Callable[[object], object], *, context: contextvars.Context | None = None
    ) -> None:
        self._wakeup = callback
        self._context = context
        self._note_handled()

    def connection_lost(self, error: BaseException | None) -> None:
        self._note_handled()
        super().connection_lost(error)

    def _answer_complaints(self) -> bool:
        """Answer to frames that were passed over, in their turn; return whether a frame is next."""
        while self._is_complaint_next and self._blocked is None:
            self._complaints -= 1
            self._service.answer_complaint(self._input.pop(), self._transport)
        if self._is_held:
            self._release()
        return bool(self._input) and not self._is_complaint_next

    @property
    def _is_complaint_next(self) -> bool:
        return bool(self._input) and type(self._input[-1]) is Complaint

    @types.coroutine
    def _pass_complaints(self) -> Generator[Any, None, None]:
        """Answer the complaints that come before the next frame, and wait for that, or for the end."""
        while not self._answer_complaints():
            if not self._input:
                if self._end is not None:
                    return
                self._check_next()
            else:
                self._check_reader()
            self._asyncio_future_blocking = True
            yield self

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._complaints and self.is_waiting and (self._answer_complaints() or self._end is not None):
            self._wake()

    def eof_received(self) -> bool:
        self._service.check_end(self._decoder, self._transport)
        return super().eof_received()

    def has_unread(self) -> bool:
        return bool(self._input or self._decoder.pending)

    @property
    def pending_bytes(self) -> int:
        """How many bytes of a frame that is not whole have come."""
        pending: int = self._decoder.pending
        return pending

    @property
    def is_mid_frame(self) -> bool:
        """Whether a frame has begun and not ended."""
        return bool(self._decoder.pending)

    def _release(self) -> None:
        if len(self._input) <= 1:
            self._is_held = False
            self._transport.resume_reading()
