"""Framings of every kind, streams of their frames, and what becomes of a stream however it is cut.

Knows: framings, hypothesis. Does not know: what a test is about.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from prefork import Fixed, JsonLines, Length, Lines, Netstring, Over, RemoteProtocolError, Varint
from prefork.framing import Complaint, Framing
from prefork.framing.checks import build_check

LIMIT = 10
COMPLAINT = "a complaint"
BOUNDED = settings(derandomize=True, database=None, deadline=None, max_examples=30)

SKIPPING: dict[str, Any] = {
    "lines": Lines(LIMIT),
    "lines by CRLF": Lines(LIMIT, b"\r\n"),
    "lines by aab": Lines(LIMIT, b"aab"),
    "lines stripped": Lines(LIMIT, strip=True),
    "length 1": Length(LIMIT, bytes=1),
    "length 2 little": Length(LIMIT, bytes=2, endian="little"),
    "length 4": Length(LIMIT),
    "length 4 with itself": Length(LIMIT, counts_itself=True),
    "length 8 little with itself": Length(LIMIT, bytes=8, endian="little", counts_itself=True),
    "varint": Varint(LIMIT),
    "netstring": Netstring(LIMIT),
    "json-lines": JsonLines(LIMIT),
}
FRAMINGS: dict[str, Any] = {**SKIPPING, "fixed": Fixed(LIMIT), "fixed 1": Fixed(1)}
BINARY = {
    name: framing for name, framing in SKIPPING.items() if name.startswith(("length", "varint", "netstring"))
}


@dataclass(frozen=True)
class Outcome:
    """What became of a stream.

    Attributes:
        frames: those that were delivered, COMPLAINT in the place of each that was passed over.
        is_refused: whether the stream was, after them.
        pending: of a stream that was not.
    """

    frames: list[Any]
    is_refused: bool
    pending: int


def feed(framing: Framing, pieces: Iterable[bytes]) -> Outcome:
    """Feed pieces one after the other, and nothing at the end: a refusal may have been put off till then."""
    decoder = framing.decoder()
    frames: list[Any] = []
    try:
        for piece in pieces:
            frames += decoder.feed(piece)
        frames += decoder.feed(b"")
    except RemoteProtocolError:
        return Outcome(marked(frames), True, 0)
    return Outcome(marked(frames), False, decoder.pending)


def marked(frames: list[Any]) -> list[Any]:
    return [COMPLAINT if type(frame) is Complaint else frame for frame in frames]


def each_byte(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """Cut bytes at places, of which any number will do."""
    inner = sorted(place % (len(data) + 1) for place in places)
    return [data[a:b] for a, b in zip([0, *inner], [*inner, len(data)], strict=True)]


def with_policy(framing: Any, over: Over) -> Any:
    return framing if type(framing) is Fixed else replace(framing, over=over)


def content(size: int) -> bytes:
    """Return a frame of so many bytes that can be stripped, unless it has less than two."""
    return b" " + b"x" * (size - 1) if size > 1 else b"x" * size


def of_size(name: str, size: int) -> bytes:
    """Return a frame of so many bytes as the framing of a name has it on the wire, whatever the limit."""
    framing = FRAMINGS[name]
    if type(framing) is JsonLines:
        return b'"' + b"x" * (size - 2) + b'"\n'
    wire: bytes = framing.encode(content(size))
    return wire


def streams(name: str) -> st.SearchStrategy[bytes]:
    """Return streams of good frames, of such that are too long, and of bytes that are none."""
    sizes = st.integers(2, LIMIT + 4).map(lambda size: of_size(name, size))
    good = sizes if not name.startswith("fixed") else st.binary(max_size=2 * LIMIT)
    junk = st.text('0123456789:,\n\r ab{}"x\x00\x01\x02\x7f\x80\xff', max_size=6).map(_latin)
    return st.lists(st.one_of(good, good, junk), max_size=8).map(b"".join)


def _latin(text: str) -> bytes:
    return text.encode("latin-1")


def frames_of(name: str) -> st.SearchStrategy[Any]:
    """Return frames that the framing of a name can express, within its limit."""
    kinds: dict[str, Callable[[], st.SearchStrategy[Any]]] = {
        "json-lines": lambda: st.one_of(st.integers(-999, 999), st.text("ab", max_size=6), st.booleans()),
        "fixed": lambda: st.binary(min_size=LIMIT, max_size=LIMIT),
        "fixed 1": lambda: st.binary(min_size=1, max_size=1),
    }
    if name in kinds:
        return kinds[name]()
    if name.startswith("lines"):
        return st.text("xyz\xe9\x00", max_size=LIMIT // 2).map(str.encode)
    return st.binary(max_size=LIMIT)


def outcome_of(check: Any, value: Any) -> Any:
    """Return what becomes of one message."""
    line = json.dumps(value).encode() + b"\n"
    (frame,) = JsonLines(1_000_000, build_check(check, "app:check")).decoder().feed(line)
    return frame


def told_by(check: Any, value: Any) -> str:
    """Return what the sender of a message is told that is not good."""
    complaint = outcome_of(check, value)
    assert type(complaint) is Complaint, complaint
    reason: str = json.loads(complaint.answer)["error"]
    return reason
