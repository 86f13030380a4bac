"""What all framings have in common: the shape of a decoder, and what becomes of a frame over the limit.

Knows: the words. Does not know: any framing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from prefork.errors import RemoteProtocolError


class Over(Enum):
    """What becomes of a frame over the limit; a stream whose rules are broken is always refused."""

    CLOSE = "close"  # the stream is refused
    SKIP = "skip"  # the frame is passed over
    ERROR = "error"  # the frame is passed over, and its sender told so by a frame


@dataclass(frozen=True, slots=True)
class Complaint:
    """Stands in the place of a frame that was passed over.

    Attributes:
        reason: one line, without a byte of the peer's.
        answer: what its sender is to be told, as it goes over the wire; empty: nothing.
        error: of the app's own check, if it is rather that which is wrong.
        is_over: the frame was over the limit.
    """

    reason: str
    answer: bytes = b""
    error: Exception | None = None
    is_over: bool = False


class Decoder(Protocol):
    """Cuts what arrives into frames."""

    @property
    def pending(self) -> int:
        """Bytes of a frame that has begun and not ended; 1 while it is passed over."""

    @property
    def has_begun(self) -> bool:
        """Whether the frame that is pending began with what was fed last."""

    @property
    def refusal(self) -> RemoteProtocolError | None:
        """What the next `feed` raises, when whole frames came before one that cannot be read."""

    def feed(self, data: bytes) -> list[Any]:
        """Return the frames that are whole now, in order; a Complaint for each that was passed over.

        Raises:
            RemoteProtocolError: a frame is over the limit, or breaks the framing's rules.
        """


class Framing(Protocol):
    """A value that makes decoders and encodes frames."""

    def decoder(self) -> Decoder: ...

    def encode(self, frame: Any) -> bytes:
        """Return a frame as it goes over the wire.

        Raises:
            LocalProtocolError: the framing cannot express it.
        """
