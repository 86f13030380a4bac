"""Framings under attack: spoofed lengths, malformed prefixes, frames that never end, memory and time."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import repeat
from typing import Any

import pytest

from prefork import Fixed, JsonLines, Length, Lines, Netstring, Over, RemoteProtocolError, Varint
from prefork.framing import Framing
from tests.unit.framing_samples import COMPLAINT, LIMIT, Outcome, cut, each_byte, feed
from tests.unit.framing_samples import with_policy as under

KIB, MIB = 1024, 1024 * 1024


def varint(number: int) -> bytes:
    return bytes(_septets(number))


def _septets(number: int) -> Iterator[int]:
    while number >= 0x80:
        yield number & 0x7F | 0x80
        number >>= 7
    yield number


@contextmanager
def memory_within(most: int) -> Iterator[None]:
    """Hold that a block takes no more bytes at any time than so many."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        yield
        taken = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert taken <= most, f"{taken} bytes were taken at the most, {most} are allowed"


SPOOFED = {
    "length 4, 2^31": (Length(), (2**31).to_bytes(4, "big")),
    "length 4, 2^32 - 1": (Length(), b"\xff" * 4),
    "length 4 with itself, 2^31": (Length(counts_itself=True), (2**31).to_bytes(4, "big")),
    "length 8, 2^31": (Length(bytes=8), (2**31).to_bytes(8, "big")),
    "length 8 little, 2^63": (Length(bytes=8, endian="little"), (2**63).to_bytes(8, "little")),
    "length 8, 2^64 - 1": (Length(bytes=8), b"\xff" * 8),
    "varint, 2^31": (Varint(), varint(2**31)),
    "varint, 2^63": (Varint(), varint(2**63)),
    "netstring, 2^31": (Netstring(), b"%d:" % 2**31),
}


@pytest.mark.parametrize("name", SPOOFED)
def test_a_spoofed_length_is_refused_before_the_frame_comes(name: str) -> None:
    framing, prefix = SPOOFED[name]
    for pieces in ([prefix], each_byte(prefix)):
        assert feed(framing, pieces) == Outcome([], True, 0)


@pytest.mark.parametrize("name", SPOOFED)
@pytest.mark.parametrize("over", [Over.SKIP, Over.ERROR])
def test_a_spoofed_length_that_is_passed_over_costs_no_memory(name: str, over: Over) -> None:
    framing, prefix = SPOOFED[name]
    decoder = under(framing, over).decoder()
    piece = b"x" * 64 * KIB
    with memory_within(192 * KIB):
        assert len(decoder.feed(prefix)) == 1
        assert not any(decoder.feed(piece) for _ in range(64))


@pytest.mark.parametrize("name", SPOOFED)
def test_pending_stays_within_the_limit_while_a_spoofed_length_is_passed_over(name: str) -> None:
    """It tells of bytes that have arrived; none of these is kept."""
    framing, prefix = SPOOFED[name]
    decoder = under(framing, Over.SKIP).decoder()
    decoder.feed(prefix + b"x" * 100)
    assert 0 < decoder.pending <= framing.max_bytes + len(prefix)


MALFORMED: list[tuple[Any, bytes]] = [
    (Length(counts_itself=True), b"\0\0\0\0"),
    (Length(counts_itself=True), b"\0\0\0\x03"),
    (Length(bytes=1, counts_itself=True), b"\0"),
    (Length(bytes=8, endian="little", counts_itself=True), b"\x07" + b"\0" * 7),
    (Varint(), b"\x80" * 10),
    (Varint(), b"\x80" * 10 + b"\x01"),
    (Varint(), b"\xff" * 11),
    (Varint(), b"\xff" * 9 + b"\x02"),  # 2^64 and more, in ten bytes
    (Varint(), b"\xff" * 9 + b"\x7f"),
    (Netstring(), b":"),
    (Netstring(), b":,"),
    (Netstring(), b",0:,"),
    (Netstring(), b"00:,"),
    (Netstring(), b"01:x,"),
    (Netstring(), b"-1:x,"),
    (Netstring(), b"+1:x,"),
    (Netstring(), b" 1:x,"),
    (Netstring(), b"1 :x,"),
    (Netstring(), b"1_0:xxxxxxxxxx,"),
    (Netstring(), b"0x1:x,"),
    (Netstring(), b"1:x;"),
    (Netstring(), b"1:xy,"),
    (Netstring(), b"0:x"),
    (Netstring(), b"\xb2:xx,"),
    (Netstring(), b"1\n:x,"),
    (Netstring(), b"9" * 400 + b":"),
    (Netstring(), b"1" + b"0" * 10_000),
]


@pytest.mark.parametrize(("framing", "bad"), MALFORMED)
@pytest.mark.parametrize("over", Over)
def test_a_malformed_frame_is_refused_whatever_the_policy(framing: Any, bad: bytes, over: Over) -> None:
    framing = under(framing, over)
    good = framing.encode(b"good")
    for pieces in ([bad], each_byte(bad), cut(bad, [1, 3]), [bad + good]):
        assert feed(framing, pieces) == Outcome([], True, 0)
    assert feed(framing, [good * 2 + bad + good]) == Outcome([b"good"] * 2, True, 0)


@pytest.mark.parametrize("over", [Over.SKIP, Over.ERROR])
@pytest.mark.parametrize("how", ["whole", "byte by byte"])
def test_a_netstring_that_is_passed_over_needs_its_comma_too(over: Over, how: str) -> None:
    data = b"12:hello, world;2:ok,"
    pieces = [data] if how == "whole" else each_byte(data)
    assert feed(Netstring(LIMIT, over), pieces) == Outcome([COMPLAINT], True, 0)


@pytest.mark.parametrize("count", [5, 20, 400])
def test_a_netstring_whose_colon_never_comes_keeps_few_bytes(count: int) -> None:
    decoder = Netstring(over=Over.SKIP).decoder()
    for at in range(min(count, 10)):
        decoder.feed(b"1")
        assert decoder.pending == at + 1
    with pytest.raises(RemoteProtocolError, match="cannot read a netstring"):
        decoder.feed(b"1" * (count - 10) or b"x")


NONSENSE: list[tuple[Any, dict[str, Any]]] = [
    (Fixed, {"max_bytes": 0}),
    (Fixed, {"max_bytes": -1}),
    (Varint, {"max_bytes": 0}),
    (JsonLines, {"max_bytes": 0}),
    (Lines, {"delimiter": b""}),
    (Length, {"bytes": 0}),
    (Length, {"bytes": -1}),
    (Length, {"endian": "middle"}),
    (Lines, {"over": "close"}),  # the word in place of the value: not to be taken for skip
    (Netstring, {"over": "ignore"}),
]


@pytest.mark.parametrize(("kind", "options"), NONSENSE, ids=repr)
def test_a_framing_that_cannot_be_meant_is_refused_when_it_is_made(kind: Any, options: dict[str, Any]) -> None:
    """Else the first feed never ends, or fails on a peer's bytes, or another policy is followed."""
    with pytest.raises(ValueError):
        kind(**options)


# --- memory and time of one large frame ---

LARGE: dict[str, tuple[Any, bytes, bytes]] = {
    "lines": (Lines(MIB), b"", b"\n"),
    "lines by CRLF": (Lines(MIB, b"\r\n"), b"", b"\r\n"),
    "length 4": (Length(MIB), MIB.to_bytes(4, "big"), b""),
    "varint": (Varint(MIB), varint(MIB), b""),
    "netstring": (Netstring(MIB), b"%d:" % MIB, b","),
    "fixed": (Fixed(MIB), b"", b""),
    "json-lines": (JsonLines(MIB + 2), b'"', b'"\n'),
}
EACH_DECODER = ("lines by CRLF", "netstring", "json-lines")


def seconds(framing: Framing, start: bytes, pieces: Iterable[bytes]) -> float:
    decoder = framing.decoder()
    decoder.feed(start)
    before = time.thread_time()
    for piece in pieces:
        decoder.feed(piece)
    return time.thread_time() - before


@pytest.mark.parametrize("name", EACH_DECODER)
def test_a_frame_of_one_mebibyte_may_come_byte_by_byte(name: str) -> None:
    framing, start, end = LARGE[name]
    decoder = framing.decoder()
    for piece in [*each_byte(start), *repeat(b"x", MIB - 1)]:
        assert decoder.feed(piece) == []
    (frame,) = [frame for piece in [b"x", *each_byte(end)] for frame in decoder.feed(piece)]
    assert len(frame) == MIB
    assert decoder.pending == 0


@pytest.mark.parametrize("name", EACH_DECODER)
def test_eight_times_the_bytes_take_about_eight_times_as_long_and_not_sixty_four(name: str) -> None:
    framing, start, _ = LARGE[name]
    few, many = (seconds(framing, start, repeat(b"x", count)) for count in (32 * KIB, 256 * KIB))
    assert many < 24 * few + 0.05, (few, many)


@pytest.mark.parametrize("name", EACH_DECODER)
def test_to_pass_over_a_frame_byte_by_byte_takes_linear_time(name: str) -> None:
    framing, start, _ = LARGE[name]
    small = type(framing)(LIMIT, b"\r\n") if name == "lines by CRLF" else type(framing)(LIMIT)
    framing = under(small, Over.SKIP)
    few, many = (seconds(framing, start, repeat(b"x", count)) for count in (32 * KIB, 256 * KIB))
    assert many < 24 * few + 0.05, (few, many)


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("size", [2, 1000])
def test_a_frame_that_comes_in_small_pieces_takes_little_more_memory_than_its_bytes(name: str, size: int) -> None:
    framing, start, _ = LARGE[name]
    decoder = framing.decoder()
    with memory_within(MIB // 2):
        decoder.feed(start)
        for _ in range(MIB // 8 // size):
            decoder.feed(bytes(size))
        assert decoder.pending == MIB // 8 // size * size + len(start)


@pytest.mark.parametrize("name", ["lines", "lines by CRLF", "json-lines"])
def test_a_line_whose_end_never_comes_is_refused_at_the_limit(name: str) -> None:
    decoder = LARGE[name][0].decoder()
    piece = b"x" * 64 * KIB
    with memory_within(3 * MIB):
        for _ in range(16):
            assert decoder.feed(piece) == []
        with pytest.raises(RemoteProtocolError, match=r"limits\.frame"):
            decoder.feed(piece)


@pytest.mark.parametrize("name", ["lines", "lines by CRLF", "json-lines"])
def test_a_line_whose_end_never_comes_is_passed_over_without_memory(name: str) -> None:
    framing, _, end = LARGE[name]
    decoder = under(framing, Over.SKIP).decoder()
    piece = b"x" * 64 * KIB
    found = [frame for _ in range(18) for frame in decoder.feed(piece)]
    assert len(found) == 1
    with memory_within(256 * KIB):
        assert not any(decoder.feed(piece) for _ in range(64))
        assert decoder.pending == 1
    assert decoder.feed(end) == []
    assert decoder.pending == 0


@pytest.mark.parametrize("framing", [Length(bytes=1), Varint(), Netstring(), Lines(), Fixed(1)])
def test_a_read_full_of_the_smallest_frames_takes_linear_time(framing: Any) -> None:
    wire = b"x" if type(framing) is Fixed else framing.encode(b"")
    few, many = (seconds(framing, b"", [wire * (count // len(wire))]) for count in (32 * KIB, 256 * KIB))
    assert many < 24 * few + 0.05, (few, many)


@pytest.mark.parametrize("framing", [Length(1, bytes=1), Varint(1), Netstring(1), Lines(1)])
def test_a_read_full_of_frames_over_the_limit_takes_linear_time(framing: Any) -> None:
    wire = framing.encode(b"ab")
    few, many = (seconds(under(framing, Over.SKIP), b"", [wire * count]) for count in (8 * KIB, 64 * KIB))
    assert many < 24 * few + 0.05, (few, many)
