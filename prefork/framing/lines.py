"""Lines: frames that end with a delimiter.

Knows: bytes. Does not know: connections, what a line means.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prefork.errors import FrameLimitError, LocalProtocolError, RemoteProtocolError
from prefork.framing.decoder import Complaint, Over

SKIPPED = 1  # a frame that is passed over has begun, whatever its size


@dataclass(frozen=True, slots=True)
class Lines:
    """Frames that end with a delimiter, which is not part of them.

    Args:
        max_bytes: the longest frame, its delimiter not counted.
        delimiter: one or more bytes.
        strip: remove white space at both ends of each frame.
        over: what becomes of a longer frame.
    """

    max_bytes: int = 65_536
    delimiter: bytes = b"\n"
    strip: bool = False
    over: Over = Over.CLOSE

    def __post_init__(self) -> None:
        if self.max_bytes < 1 or not self.delimiter or not isinstance(self.over, Over):
            raise ValueError("a line has at least one byte, a delimiter, and a policy of Over")

    def decoder(self) -> LineDecoder:
        return LineDecoder(self)

    def encode(self, frame: bytes | bytearray | memoryview) -> bytes:
        """Return the frame with its delimiter; one that has it already is left as it is.

        Raises:
            LocalProtocolError: it has the delimiter within, and would be two.
        """
        if type(frame) is not bytes:
            frame = bytes(frame)
        at = frame.find(self.delimiter)
        if at < 0:
            return frame + self.delimiter
        if at + len(self.delimiter) != len(frame):
            raise LocalProtocolError(
                f"cannot send a line: it holds the delimiter at byte {at}; send its lines one by one"
            )
        return frame

    def encode_complaint(self) -> bytes:
        """Return a line that says that one was too long, itself within the limit."""
        told = f"error: line over {self.max_bytes} bytes".encode().replace(self.delimiter, b"")
        return told[: self.max_bytes] + self.delimiter


class LineDecoder:
    """Cuts a stream into lines."""

    __slots__ = ("_complaint", "_edge", "_framing", "_is_skipping", "_parts", "has_begun", "pending", "refusal")

    def __init__(self, framing: Lines) -> None:
        self._framing = framing
        self._parts = bytearray()  # of a frame that is not whole
        self._edge = b""  # their last bytes, in which a delimiter may have begun
        self._is_skipping = False
        self._complaint: Complaint | None = None
        self.has_begun = False
        self.pending = 0
        self.refusal: RemoteProtocolError | None = None

    def feed(self, data: bytes) -> list[Any]:
        """Return the lines that are whole now, see `Decoder.feed`."""
        if self.refusal is not None:
            raise self.refusal
        framing = self._framing
        self.has_begun = False
        if self._is_skipping:
            data = self._skip(data)
        if self._parts:
            if framing.delimiter not in self._edge + data:
                return self._keep(data, is_first=True)
            data = bytes(self._parts + data)
            self._parts.clear()
            self.pending = 0
        frames: list[Any] = data.split(framing.delimiter)
        tail = frames.pop()
        if len(data) > framing.max_bytes:
            self._replace_long(frames)
        if framing.strip:
            frames = [frame.strip() if type(frame) is bytes else frame for frame in frames]
        if tail and self.refusal is None:
            self._edge = b""
            frames += self._keep(tail, is_first=not frames)
        return frames

    def _replace_long(self, frames: list[Any]) -> None:
        """Put complaints in place of lines over the limit, or end the list before the first of them."""
        for place, frame in enumerate(frames):
            if len(frame) > self._framing.max_bytes:
                frames[place] = self._refuse(len(frame), is_first=not place)
                if self.refusal is not None:
                    del frames[place:]
                    return

    def _skip(self, data: bytes) -> bytes:
        """Return what comes after the line that is passed over."""
        data = self._edge + data
        _, found, rest = data.partition(self._framing.delimiter)
        if found:
            self._edge, self._is_skipping, self.pending = b"", False, 0
        else:
            self._edge = self._end_of(data)
        return rest

    def _end_of(self, data: bytes) -> bytes:
        edge = len(self._framing.delimiter) - 1
        return data[-edge:] if edge else b""

    def _keep(self, data: bytes, is_first: bool) -> list[Complaint]:
        """Keep the begin of a line; return a complaint if that is too long already."""
        if not data:
            return []
        self.has_begun = not self.pending
        self._parts += data
        self.pending += len(data)
        self._edge = self._end_of(self._edge + data)
        # Of the longest frame the tail may hold all, and its delimiter but the last byte.
        if self.pending <= self._framing.max_bytes + len(self._framing.delimiter) - 1:
            return []
        size, self.pending = self.pending, 0
        self._parts.clear()
        complaint = self._refuse(size, is_first)
        if complaint is None:
            return []
        self._is_skipping, self.pending = True, SKIPPED
        return [complaint]

    def _refuse(self, size: int, is_first: bool) -> Complaint | None:
        """Complain of a line; or raise now; or, so that what came before is not lost, with the next call."""
        framing = self._framing
        if framing.over is not Over.CLOSE:
            if self._complaint is None:
                answer = framing.encode_complaint() if framing.over is Over.ERROR else b""
                self._complaint = Complaint(
                    f"a line is over {framing.max_bytes} bytes (limits.frame)", answer, is_over=True
                )
            return self._complaint
        self.refusal = FrameLimitError(
            f"cannot read a line: it has {size} bytes or more, the limit is {framing.max_bytes} (limits.frame)"
        )
        if is_first:
            raise self.refusal
        return None
