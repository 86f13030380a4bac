"""Limits to the byte, and what becomes of the frame over the limit: close, skip, error."""

from __future__ import annotations

from typing import Any

import pytest

from prefork import JsonLines, Length, Lines, Netstring, Over, RemoteProtocolError, Varint
from prefork.framing import Complaint
from tests.unit.framing_samples import (
    BINARY,
    COMPLAINT,
    LIMIT,
    SKIPPING,
    Outcome,
    content,
    each_byte,
    feed,
    of_size,
    with_policy,
)

POLICIES = [Over.SKIP, Over.ERROR]


def read(name: str, size: int) -> Any:
    """Return a frame as it is read."""
    if name == "json-lines":
        return "x" * (size - 2)
    return content(size).strip() if name == "lines stripped" else content(size)


def arriving(data: bytes, how: str) -> list[bytes]:
    return each_byte(data) if how == "byte by byte" else [data]


@pytest.mark.parametrize("name", SKIPPING)
@pytest.mark.parametrize("over", Over)
@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT])
@pytest.mark.parametrize("how", ["whole", "byte by byte"])
def test_a_frame_up_to_the_limit_is_taken_whatever_the_policy(name: str, over: Over, size: int, how: str) -> None:
    data = of_size(name, size) * 2
    found = feed(with_policy(SKIPPING[name], over), arriving(data, how))
    assert found == Outcome([read(name, size)] * 2, False, 0)


@pytest.mark.parametrize("name", SKIPPING)
@pytest.mark.parametrize("how", ["whole", "byte by byte"])
def test_a_frame_of_one_byte_more_is_refused_and_nothing_is_read_after_it(name: str, how: str) -> None:
    data = of_size(name, 4) + of_size(name, LIMIT + 1) + of_size(name, 5)
    assert feed(SKIPPING[name], arriving(data, how)) == Outcome([read(name, 4)], True, 0)


@pytest.mark.parametrize("name", SKIPPING)
@pytest.mark.parametrize("over", POLICIES)
@pytest.mark.parametrize("size", [LIMIT + 1, LIMIT + 2, 10 * LIMIT])
@pytest.mark.parametrize("how", ["whole", "byte by byte"])
def test_a_frame_of_one_byte_more_is_passed_over_in_its_place(name: str, over: Over, size: int, how: str) -> None:
    data = of_size(name, 4) + of_size(name, size) + of_size(name, 5) + of_size(name, size) * 2 + of_size(name, 6)
    wanted = [read(name, 4), COMPLAINT, read(name, 5), COMPLAINT, COMPLAINT, read(name, 6)]
    found = feed(with_policy(SKIPPING[name], over), arriving(data, how))
    assert found == Outcome(wanted, False, 0)


@pytest.mark.parametrize("name", SKIPPING)
def test_the_message_of_a_refusal_names_the_limit_and_its_key(name: str) -> None:
    with pytest.raises(RemoteProtocolError, match=r"the limit is 10 \(limits\.frame\)"):
        SKIPPING[name].decoder().feed(of_size(name, LIMIT + 1))


@pytest.mark.parametrize("name", SKIPPING)
@pytest.mark.parametrize("how", ["whole", "byte by byte"])
def test_only_the_policy_error_has_something_to_tell(name: str, how: str) -> None:
    """And whoever is told can read it with the same framing."""
    framing = SKIPPING[name]
    for over in POLICIES:
        decoder = with_policy(framing, over).decoder()
        found = [frame for piece in arriving(of_size(name, 99), how) for frame in decoder.feed(piece)]
        (complaint,) = found
        assert type(complaint) is Complaint
        assert bool(complaint.answer) is (over is Over.ERROR)
        assert "\n" not in complaint.reason
        assert "x" * 4 not in complaint.reason


ROOMY: dict[str, Any] = {
    "lines": Lines(100),
    "lines by CRLF": Lines(100, b"\r\n"),
    "length 1": Length(100, bytes=1),
    "length 8 little with itself": Length(100, bytes=8, endian="little", counts_itself=True),
    "varint": Varint(100),
    "netstring": Netstring(100),
    "json-lines": JsonLines(100),
}


@pytest.mark.parametrize("name", ROOMY)
def test_the_error_is_one_frame_of_the_same_framing(name: str) -> None:
    framing = with_policy(ROOMY[name], Over.ERROR)
    (complaint,) = framing.decoder().feed(of_size(name, 101))
    outcome = feed(framing, [complaint.answer])
    assert len(outcome.frames) == 1
    assert not outcome.pending
    assert "error" in str(outcome.frames[0])


@pytest.mark.parametrize("name", [*BINARY, "lines"])
def test_the_error_is_within_the_limit_that_it_speaks_of(name: str) -> None:
    """Else a client that reads with the same framing refuses the stream."""
    framing = SKIPPING[name]
    (complaint,) = with_policy(framing, Over.ERROR).decoder().feed(of_size(name, LIMIT + 1))
    outcome = feed(framing, [complaint.answer])
    assert (len(outcome.frames), outcome.is_refused, outcome.pending) == (1, False, 0)


@pytest.mark.parametrize("delimiter", [b" ", b"r", b":", b"e", b"over"])
def test_the_error_is_one_line_whatever_the_delimiter(delimiter: bytes) -> None:
    framing = Lines(100, delimiter, over=Over.ERROR)
    (complaint,) = framing.decoder().feed(b"x" * 101 + delimiter)
    assert len(feed(framing, [complaint.answer]).frames) == 1


@pytest.mark.parametrize("name", SKIPPING)
def test_many_frames_over_the_limit_in_one_read_are_one_complaint_each(name: str) -> None:
    framing = with_policy(SKIPPING[name], Over.SKIP)
    assert feed(framing, [of_size(name, LIMIT + 3) * 500]) == Outcome([COMPLAINT] * 500, False, 0)


@pytest.mark.parametrize("name", SKIPPING)
@pytest.mark.parametrize("how", ["whole", "byte by byte"])
def test_whole_frames_before_a_refusal_are_delivered_and_it_comes_with_the_next_feed(name: str, how: str) -> None:
    decoder = SKIPPING[name].decoder()
    if how == "whole":
        assert decoder.feed(of_size(name, 4) * 3 + of_size(name, LIMIT + 1)) == [read(name, 4)] * 3
        assert isinstance(decoder.refusal, RemoteProtocolError)
    else:
        with pytest.raises(RemoteProtocolError):
            list(map(decoder.feed, each_byte(of_size(name, LIMIT + 1))))
    for more in (b"", b"x", of_size(name, 4)):
        with pytest.raises(RemoteProtocolError, match="limit is 10"):
            decoder.feed(more)


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("piece", [1, 7, 4096, 65_536])
def test_as_many_bytes_are_passed_over_as_the_length_says(name: str, piece: int) -> None:
    size = 254 if name == "length 1" else 32_000
    data = of_size(name, size) + of_size(name, 3) + of_size(name, size) + of_size(name, 4)
    pieces = [data[at : at + piece] for at in range(0, len(data), piece)]
    wanted = [COMPLAINT, read(name, 3), COMPLAINT, read(name, 4)]
    assert feed(with_policy(SKIPPING[name], Over.SKIP), pieces) == Outcome(wanted, False, 0)


@pytest.mark.parametrize("over", POLICIES)
def test_a_delimiter_in_two_pieces_ends_the_line_that_is_passed_over(over: Over) -> None:
    framing = Lines(4, b"aab", over=over)
    assert feed(framing, [b"x" * 9, b"aaa", b"a", b"b", b"okaab"]).frames == [COMPLAINT, b"ok"]
    assert feed(framing, [b"x" * 9, b"aabaa", b"b", b"okaab"]).frames == [COMPLAINT, b"", b"ok"]


def test_a_limit_counts_what_is_not_stripped_yet() -> None:
    framing = Lines(4, strip=True, over=Over.SKIP)
    assert feed(framing, [b"abc\r\n  a \n   a \n\r\n"]).frames == [b"abc", b"a", COMPLAINT, b""]
