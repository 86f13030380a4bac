"""Framings: how a stream is cut into frames, without input or output of their own.

A framing is a value with a limit; its decoder keeps what is not a whole frame yet. Both sides of a connection
can use it: `decoder().feed(data)` gives the frames, `encode(frame)` the bytes.

Knows: bytes. Does not know: connections, timeouts, what a frame means.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from prefork.config.model import Framing as FramingConfig
from prefork.errors import RemoteProtocolError


class Decoder(Protocol):
    """Cuts what arrives into frames."""

    @property
    def pending(self) -> int:
        """Bytes of a frame that has begun and not ended."""

    @property
    def refusal(self) -> RemoteProtocolError | None:
        """What the next `feed` raises, when whole frames came before a frame over the limit."""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the frames that are whole now, in order.

        Raises:
            RemoteProtocolError: a frame is over the limit.
        """


class Framing(Protocol):
    """A value that makes decoders and encodes frames."""

    def decoder(self) -> Decoder: ...

    def encode(self, frame: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Lines:
    """Frames that end with a delimiter, which is not part of them.

    Args:
        max_bytes: the longest frame, its delimiter not counted.
        delimiter: one or more bytes.
    """

    max_bytes: int = 65_536
    delimiter: bytes = b"\n"

    def decoder(self) -> Decoder:
        return _LineDecoder(self)

    def encode(self, frame: bytes) -> bytes:
        """Return the frame with its delimiter; one that has it already is left as it is."""
        return frame if frame.endswith(self.delimiter) else frame + self.delimiter


class _LineDecoder:
    __slots__ = ("_delimiter", "_edge", "_max_bytes", "_parts", "pending", "refusal")

    def __init__(self, framing: Lines) -> None:
        self._delimiter = framing.delimiter
        self._max_bytes = framing.max_bytes
        self._parts: list[bytes] = []  # of a frame that is not whole; joined once, when it is
        self._edge = b""  # their last bytes, in which a delimiter may have begun
        self.pending = 0
        self.refusal: RemoteProtocolError | None = None

    def feed(self, data: bytes) -> list[bytes]:
        if self.refusal is not None:
            raise self.refusal
        if self.pending:
            if self._delimiter not in self._edge + data:
                self._keep(data)
                return []
            data = b"".join((*self._parts, data))
            self._parts.clear()
            self.pending = 0
        frames = data.split(self._delimiter)
        tail = frames.pop()
        if len(data) > self._max_bytes:
            for place, frame in enumerate(frames):
                if len(frame) > self._max_bytes:
                    self._refuse(len(frame), is_first=not place)
                    return frames[:place]
        if tail:
            self._edge = b""
            self._keep(tail, is_first=not frames)
        return frames

    def _keep(self, data: bytes, is_first: bool = True) -> None:
        self._parts.append(data)
        self.pending += len(data)
        edge = len(self._delimiter) - 1
        if edge:
            self._edge = (self._edge + data)[-edge:]
        # Of the longest frame the tail may hold all, and its delimiter but the last byte.
        if self.pending > self._max_bytes + edge:
            self._refuse(self.pending, is_first)

    def _refuse(self, size: int, is_first: bool) -> None:
        """Raise now, or, so that what came before is not lost, with the next call."""
        self._parts.clear()
        self.refusal = RemoteProtocolError(
            f"cannot read a line: it has {size} bytes or more, the limit is {self._max_bytes} (limits.frame)"
        )
        if is_first:
            raise self.refusal


def build_framing(chosen: FramingConfig, limit: int) -> Framing | None:
    """Return the framing that a listener's config names; None means raw.

    Args:
        limit: bytes of the largest frame when the framing does not say.
    """
    return Lines(chosen.max_bytes or limit) if chosen.name == "lines" else None
