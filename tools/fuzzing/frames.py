"""Targets of a client's bytes: framings, however a stream is cut.

Knows: framings, their policies, what must hold of a decoder. Does not know: connections.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import Any
from zlib import crc32

from prefork import Fixed, JsonLines, Length, Lines, Netstring, Over, RemoteProtocolError, Varint
from prefork.framing import Complaint, Framing
from tools.fuzzing.mutation import Mutator
from tools.fuzzing.target import Broken, Target

LIMITS = (10, 300, 4096)
MAX_PIECES = 200
MAX_TOLD = 400  # characters of a refusal
KEPT_BYTES = 65_536  # of a decoder beside the bytes themselves: objects, and what a bytearray takes beforehand
# A stream of the shortest lines, none of them JSON, costs 5 µs each: 80 ms when 16 KiB of them are fed twice.
FRAME_SECONDS = 0.25
FRAMINGS: dict[str, tuple[Any, ...]] = {
    "lines": (Lines(10), Lines(10, b"\r\n"), Lines(10, b"aab"), Lines(10, strip=True)),
    "length-1": (Length(10, bytes=1), Length(10, bytes=1, counts_itself=True)),
    "length-2": (Length(10, bytes=2), Length(10, bytes=2, endian="little")),
    "length-4": (Length(10), Length(10, counts_itself=True), Length(10, endian="little")),
    "length-8": (Length(10, bytes=8), Length(10, bytes=8, endian="little", counts_itself=True)),
    "varint": (Varint(10),),
    "netstring": (Netstring(10),),
    "fixed": (Fixed(10), Fixed(1)),
    "json-lines": (JsonLines(10), JsonLines(10, check=len)),
}
CONTENTS = (b"", b"x", b"hello", b"0123456789", b"0123456789a", b"\r\n", b"aaaab", bytes(300), b"x" * 5000)
JSON = (
    *(
        b'{"a": [1, 2.5e3, null, true, "\\u00e9\\ud800"]}\n',
        b"[" * 200 + b"]" * 200 + b"\n",
        b'"\\ud83d\\ude00"\n',
    ),
    *(
        b"NaN\n1e400\n-Infinity\n",
        b"1" * 4400 + b"\n",
        b'{"a": 1, "a": 2}\n',
        b"\xff\n\n \n{}\n",
        b"[" * 3000 + b"\n",
    ),
)
WORDS = (b":", b",", b"0:,", b"5:hello,", b"\n", b"\r\n", b"\xff\xff\xff\xff", b"\x80" * 9, b"\0\0\0\0", b"aab")


def build_frame_targets() -> Iterator[Target]:
    """Return a target for each kind of framing."""
    for name, framings in FRAMINGS.items():
        yield Target(
            name,
            "a framing: whole, in pieces, under each policy; what it keeps stays within its limit",
            Mutator(JSON if name == "json-lines" else tuple(_streams(framings)), WORDS, 16_384).make,
            Feeder(framings).call,
            (RemoteProtocolError,),
            FRAME_SECONDS,
        )


def _streams(framings: Sequence[Any]) -> Iterator[bytes]:
    for framing in framings:
        for content in CONTENTS:
            if isinstance(framing, Fixed):
                yield content
            elif len(content) < 250 and not (isinstance(framing, Lines) and framing.delimiter in content):
                yield framing.encode(content) + framing.encode(b"ok")
            elif isinstance(framing, Netstring | Varint):
                yield framing.encode(content)


class Feeder:
    """Feeds a stream twice; how it is cut, and to which framing, follows from its bytes."""

    def __init__(self, framings: Sequence[Any]) -> None:
        self._framings = [
            with_limit(framing, limit, over) for framing in framings for limit in LIMITS for over in Over
        ]

    def call(self, data: bytes) -> None:
        """Hold that a stream is understood alike, whole and in pieces.

        Raises:
            RemoteProtocolError: it is refused.
        """
        random = Random(crc32(data))
        framing = random.choice(self._framings)
        frames, refusal = feed(framing, [data])
        others, other = feed(framing, cut(data, random))
        if frames != others:
            raise Broken("other frames come when a stream is cut")
        if (refusal is None) != (other is None):
            raise Broken("a stream is refused whole or in pieces, and not the other way")
        if refusal is not None:
            check_words(str(refusal))
            raise refusal


def with_limit(framing: Any, limit: int, over: Over) -> Any:
    """Return a framing with another limit and policy; that of one byte stays, and a fixed size has no policy."""
    if isinstance(framing, Fixed):
        return framing if framing.max_bytes == 1 else Fixed(limit)
    return replace(framing, max_bytes=limit, over=over)


def feed(framing: Framing, pieces: Sequence[bytes]) -> tuple[list[Any], RemoteProtocolError | None]:
    """Return what a stream was cut into, and why no more."""
    most = getattr(framing, "max_bytes", 0) + 64
    bound = most + max(map(len, pieces)) + KEPT_BYTES
    frames, refusal, kept = feed_weighed(framing, pieces, most)
    # What the interpreter has kept by itself, such as a table that had to grow, is not kept again.
    if kept > bound and feed_weighed(framing, pieces, most)[2] > bound:
        raise Broken("a decoder keeps more than a frame and a read")
    return frames, refusal


def feed_weighed(
    framing: Framing, pieces: Sequence[bytes], most: int
) -> tuple[list[Any], RemoteProtocolError | None, int]:
    """Return the same, and the bytes that a decoder has kept, if memory is measured."""
    decoder = framing.decoder()
    frames: list[Any] = []
    before = tracemalloc.get_traced_memory()[0]
    for piece in (*pieces, b""):
        try:
            found = decoder.feed(piece)
        except RemoteProtocolError as error:
            return frames, error, 0
        if decoder.pending > most:
            raise Broken("more is pending than a frame may have")
        check_frames(found, most)
        frames += [("complaint", frame.answer) if type(frame) is Complaint else repr(frame) for frame in found]
    del found
    # What was cut is 200 bytes a piece at most beside its own: a tuple or a text, and its place in the list.
    kept = tracemalloc.get_traced_memory()[0] - before - sum(300 + 4 * len(frame) for frame in frames)
    return frames, None, kept


def check_frames(frames: Sequence[Any], most: int) -> None:
    """Hold that no frame is over the limit, and that no complaint holds a byte of the peer's that could harm."""
    for frame in frames:
        if type(frame) is Complaint:
            check_words(frame.reason)
        elif type(frame) is bytes and len(frame) > most - 64:
            raise Broken("a frame over the limit is delivered")


def check_words(told: str) -> None:
    """Hold that what is told of a peer is one bounded line."""
    if len(told) > MAX_TOLD or not told.isprintable():
        raise Broken("what is told of a peer is too long, or more than a line")


def cut(data: bytes, random: Random) -> list[bytes]:
    """Cut a stream into pieces of any size; a short one sometimes byte by byte."""
    if len(data) < MAX_PIECES and not random.randrange(4):
        return [data[i : i + 1] for i in range(len(data))] or [b""]
    places = sorted(random.randint(0, len(data)) for _ in range(random.randint(1, 8)))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]
