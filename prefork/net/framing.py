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
    __slots__ = ("_delimiter", "_max_bytes", "_tail")

    def __init__(self, framing: Lines) -> None:
        self._delimiter = framing.delimiter
        self._max_bytes = framing.max_bytes
        self._tail = b""

    @property
    def pending(self) -> int:
        return len(self._tail)

    def feed(self, data: bytes) -> list[bytes]:
        if self._tail:
            data = self._tail + data
        frames = data.split(self._delimiter)
        self._tail = tail = frames.pop()
        # Of the longest frame the tail may hold all, and its delimiter but the last byte.
        if len(tail) >= self._max_bytes + len(self._delimiter):
            self._refuse(len(tail))
        if len(data) > self._max_bytes:
            for frame in frames:
                if len(frame) > self._max_bytes:
                    self._refuse(len(frame))
        return frames

    def _refuse(self, size: int) -> None:
        raise RemoteProtocolError(
            f"cannot read a line: it has {size} bytes or more, the limit is {self._max_bytes} (limits.frame)"
        )


def build_framing(chosen: FramingConfig, limit: int) -> Framing | None:
    """Return the framing that a listener's config names; None means raw.

    Args:
        limit: bytes of the largest frame when the framing does not say.
    """
    return Lines(chosen.max_bytes or limit) if chosen.name == "lines" else None
