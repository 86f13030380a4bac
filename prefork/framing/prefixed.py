"""Frames whose size is known before they come: by a length in front of them, or once for all.

Knows: bytes. Does not know: connections, what a frame means.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from prefork.errors import FrameLimitError, LocalProtocolError, RemoteProtocolError
from prefork.framing.decoder import Complaint, Over

VARINT_BYTES = 10  # of 64 bits, seven in each byte
SKIPPED = 1  # a frame that is passed over has begun, whatever its size
DIGITS = b"0123456789"

Bounds = tuple[int, int]  # where a frame starts and ends; behind it stands the framing's trailer


@dataclass(frozen=True, slots=True)
class Prefixed(ABC):
    """A framing that can say where a frame ends once its beginning is there.

    Args:
        max_bytes: the longest frame, what is around it not counted.
        over: what becomes of a longer frame.
    """

    trailer: ClassVar[bytes] = b""  # what has to stand behind each frame

    max_bytes: int = 65_536
    over: Over = Over.CLOSE

    def __post_init__(self) -> None:
        if self.max_bytes < 1 or not isinstance(self.over, Over):
            raise ValueError("a frame has at least one byte, and a policy of Over")

    def decoder(self) -> PrefixedDecoder:
        return PrefixedDecoder(self)

    @abstractmethod
    def measure(self, data: bytes, at: int) -> Bounds | None:
        """Return the bounds of the frame that begins at `at`, which may lie beyond the data; None: not known yet.

        Raises:
            RemoteProtocolError: no frame begins so.
        """

    @abstractmethod
    def encode(self, frame: bytes) -> bytes:
        """Return a frame as it goes over the wire."""

    def encode_complaint(self) -> bytes:
        """Return a frame that says that one was too large, itself within the limit."""
        return self.encode(f"error: frame over {self.max_bytes} bytes".encode()[: self.max_bytes])


@dataclass(frozen=True, slots=True)
class Length(Prefixed):
    """Frames behind their length, a binary number.

    Args:
        bytes: of the number: 1, 2, 4 or 8.
        endian: `big` or `little`.
        counts_itself: the number includes its own bytes.
    """

    bytes: int = 4
    endian: str = "big"
    counts_itself: bool = False

    def __post_init__(self) -> None:
        Prefixed.__post_init__(self)
        if self.bytes < 1 or self.endian not in ("big", "little"):
            raise ValueError("a length has at least one byte, and is big or little endian")

    def measure(self, data: Any, at: int) -> Bounds | None:
        start = at + self.bytes
        if len(data) < start:
            return None
        size = int.from_bytes(data[at:start], self.endian)  # type: ignore[arg-type]  # one of two words
        if self.counts_itself:
            size -= self.bytes
            if size < 0:
                raise RemoteProtocolError("cannot read a frame: its length is less than the length's own bytes")
        return start, start + size

    def encode(self, frame: Any) -> Any:
        frame = frame if type(frame) is bytes else memoryview(frame).tobytes()
        size = len(frame) + (self.bytes if self.counts_itself else 0)
        try:
            return size.to_bytes(self.bytes, self.endian) + frame  # type: ignore[arg-type]
        except OverflowError as error:
            raise LocalProtocolError(
                f"cannot send a frame of {len(frame)} bytes: its length does not fit into {self.bytes} bytes"
            ) from error


@dataclass(frozen=True, slots=True)
class Varint(Prefixed):
    """Frames behind their length as a base-128 varint, as Protocol Buffers' streams have them."""

    def measure(self, data: bytes, at: int) -> Bounds | None:
        size = 0
        for place, byte in enumerate(data[at : at + VARINT_BYTES]):
            size |= (byte & 0x7F) << 7 * place
            if byte < 0x80 and size < 1 << 64:
                start = at + place + 1
                return start, start + size
        if len(data) - at >= VARINT_BYTES:
            raise RemoteProtocolError("cannot read a frame: its length has more than 64 bits")
        return None

    def encode(self, frame: bytes) -> bytes:
        size, prefix = len(frame), bytearray()
        while size >= 0x80:
            prefix.append(size & 0x7F | 0x80)
            size >>= 7
        prefix.append(size)
        return bytes(prefix) + frame


@dataclass(frozen=True, slots=True)
class Netstring(Prefixed):
    """Frames as `5:hello,`: https://cr.yp.to/proto/netstrings.txt."""

    trailer: ClassVar[bytes] = b","

    def measure(self, data: bytes, at: int) -> Bounds | None:
        most = max(len(str(self.max_bytes)) + 1, VARINT_BYTES)  # so that a length a little over is understood
        digits, colon, _ = data[at : at + most + 1].partition(b":")
        is_number = not digits.strip(DIGITS) and (not digits.startswith(b"0") or len(digits) == 1)
        if not is_number or len(digits) > most or (colon and not digits):
            raise RemoteProtocolError("cannot read a netstring: it does not begin with its length and a colon")
        if not colon:
            return None
        start = at + len(digits) + 1
        return start, start + int(digits)

    def encode(self, frame: bytes) -> bytes:
        return b"%d:%b," % (len(frame), frame)


@dataclass(frozen=True, slots=True)
class Fixed(Prefixed):
    """Frames that all have the size `max_bytes`."""

    def measure(self, data: bytes, at: int) -> Bounds | None:  # noqa: ARG002  # it is known beforehand
        return at, at + self.max_bytes

    def encode(self, frame: bytes) -> bytes:
        if len(frame) != self.max_bytes:
            raise LocalProtocolError(f"cannot send a frame of {len(frame)} bytes: all have {self.max_bytes}")
        return frame


class PrefixedDecoder:
    """Cuts a stream into frames of known size."""

    __slots__ = (
        "_complaint",
        "_framing",
        "_needed",
        "_parts",
        "_skip",
        "_trailer",
        "has_begun",
        "pending",
        "refusal",
    )

    def __init__(self, framing: Prefixed) -> None:
        self._framing = framing
        self._complaint: Complaint | None = None
        self._parts = bytearray()  # of a frame that is not whole
        self._needed = 0  # bytes, until there is more to say of it
        self._skip = 0  # bytes of a frame that is passed over
        self._trailer = b""  # what comes next, behind a frame that was passed over
        self.has_begun = False
        self.pending = 0
        self.refusal: RemoteProtocolError | None = None

    def feed(self, data: bytes) -> list[Any]:
        """Return the frames that are whole now, see `Decoder.feed`."""
        if self.refusal is not None:
            raise self.refusal
        self.has_begun = False
        frames: list[Any] = []
        try:
            if self._skip or self._trailer:
                data = self._pass(data)
            if not data:
                return frames
            had = len(self._parts)
            if had:
                self._parts += data
                self.pending += len(data)
                if self.pending < self._needed:
                    return []
                data = bytes(self._parts)
                self._parts.clear()
                self.pending = 0
            last = self._cut(data, frames)
            self.has_begun = self.pending > 0 and last >= had
        except RemoteProtocolError as error:
            self.refusal = error
            if not frames:
                raise
        return frames

    def _pass(self, data: bytes) -> bytes:
        """Return what comes behind a frame that is passed over."""
        passed = min(self._skip, len(data))
        self._skip -= passed
        trailer = self._trailer
        if not self._skip and passed < len(data) and trailer:
            check_trailer(data[passed : passed + len(trailer)], trailer)
            passed += len(trailer)
            self._trailer = b""
        self.pending = SKIPPED if self._skip or self._trailer else 0
        return data[passed:]

    def _cut(self, data: bytes, frames: list[Any]) -> int:
        """Cut what is whole; return where the last frame began."""
        framing, at, size = self._framing, 0, len(data)
        trailer, begin = framing.trailer, 0
        while at < size:
            begin = at
            bounds = framing.measure(data, at)
            if bounds is None:
                self._keep(data[at:], size - at + 1)
                break
            start, end = bounds
            at = end + len(trailer)
            if end - start > framing.max_bytes:
                frames.append(self._refuse(end - start))
                if at > size:
                    self._skip, self._trailer, self.pending = max(0, end - size), trailer, SKIPPED
                    break
            elif at > size:
                self._keep(data[begin:], at - begin)
                break
            if trailer:
                check_trailer(data[end:at], trailer)
            if end - start <= framing.max_bytes:
                frames.append(data[start:end])
        return begin

    def _keep(self, rest: bytes, needed: int) -> None:
        self._parts += rest
        self.pending = len(rest)
        self._needed = needed

    def _refuse(self, size: int) -> Complaint:
        framing = self._framing
        if framing.over is Over.CLOSE:
            raise FrameLimitError(
                f"cannot read a frame: it has {size} bytes, the limit is {framing.max_bytes} (limits.frame)"
            )
        if self._complaint is None:
            answer = framing.encode_complaint() if framing.over is Over.ERROR else b""
            self._complaint = Complaint(
                f"a frame is over {framing.max_bytes} bytes (limits.frame)", answer, is_over=True
            )
        return self._complaint


def check_trailer(found: bytes, wanted: bytes) -> None:
    """Check what stands behind a frame.

    Raises:
        RemoteProtocolError: it is something else.
    """
    if found != wanted:
        raise RemoteProtocolError(f"cannot read a frame: there is no {wanted.decode()!r} behind it")
