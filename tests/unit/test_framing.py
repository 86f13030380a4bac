"""Framings, fed whole, byte by byte, with a tail and in random cuts; limits to the byte (regression 14)."""

from __future__ import annotations

import random
import time

import pytest

from prefork import LocalProtocolError, RemoteProtocolError
from prefork.config.model import Framing as FramingConfig
from prefork.config.model import LineOptions
from prefork.framing import Lines
from prefork.net.framings import build_framing

DELIMITERS = [b"\n", b"\r\n", b"||", b"\0", b"\r\n\r\n", b"aab"]
SEEDS = range(300)


def feed(lines: Lines, pieces: list[bytes]) -> tuple[list[bytes], int]:
    """Feed pieces one after the other; return all frames and what is pending."""
    decoder = lines.decoder()
    frames = [frame for piece in pieces for frame in decoder.feed(piece)]
    return frames, decoder.pending


def cut(data: bytes, dice: random.Random) -> list[bytes]:
    """Cut bytes at random places."""
    places = sorted(dice.randrange(len(data) + 1) for _ in range(dice.randrange(8)))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


@pytest.mark.parametrize("delimiter", DELIMITERS)
def test_frames_are_the_same_however_the_bytes_arrive(delimiter: bytes) -> None:
    for seed in SEEDS:
        dice = random.Random(seed)
        alphabet = delimiter + b"ab\r\n|x"
        data = bytes(dice.choice(alphabet) for _ in range(dice.randrange(60)))
        lines = Lines(1000, delimiter)
        whole = feed(lines, [data])
        assert whole == feed(lines, [data[i : i + 1] for i in range(len(data))]), data
        assert whole == feed(lines, cut(data, dice)), data
        assert whole == (data.split(delimiter)[:-1], len(data.split(delimiter)[-1]))


@pytest.mark.parametrize("delimiter", DELIMITERS)
def test_what_was_encoded_is_decoded(delimiter: bytes) -> None:
    for seed in SEEDS:
        dice = random.Random(seed)
        frames = [bytes(dice.choice(b"xyz \0\xff") for _ in range(dice.randrange(20))) for _ in range(5)]
        frames = [
            frame for frame in frames if delimiter not in frame + delimiter[:-1] and not frame.endswith(delimiter)
        ]
        lines = Lines(100, delimiter)
        data = b"".join(map(lines.encode, frames))
        assert feed(lines, cut(data, dice)) == (frames, 0)


@pytest.mark.parametrize("delimiter", DELIMITERS)
def test_a_delimiter_may_be_split_over_two_reads_at_any_place(delimiter: bytes) -> None:
    for place in range(len(delimiter) + 1):
        pieces = [b"first" + delimiter[:place], delimiter[place:] + b"second" + delimiter]
        assert feed(Lines(10, delimiter), pieces) == ([b"first", b"second"], 0)


@pytest.mark.parametrize("delimiter", DELIMITERS)
@pytest.mark.parametrize("size", [9, 10])
@pytest.mark.parametrize("how", ["whole", "byte by byte", "delimiter apart", "with a tail"])
def test_a_line_up_to_the_limit_is_taken(delimiter: bytes, size: int, how: str) -> None:
    frame = b"x" * size
    data = frame + delimiter
    pieces = {
        "whole": [data],
        "byte by byte": [data[i : i + 1] for i in range(len(data))],
        "delimiter apart": [frame, delimiter],
        "with a tail": [data + b"tail"],
    }[how]
    tail = 4 if how == "with a tail" else 0
    assert feed(Lines(10, delimiter), pieces) == ([frame], tail)


@pytest.mark.parametrize("delimiter", DELIMITERS)
@pytest.mark.parametrize("how", ["whole", "byte by byte", "delimiter apart", "after another", "before another"])
def test_a_line_of_one_byte_more_is_refused(delimiter: bytes, how: str) -> None:
    frame = b"x" * 11
    data = frame + delimiter
    pieces = {
        "whole": [data],
        "byte by byte": [data[i : i + 1] for i in range(len(data))],
        "delimiter apart": [frame, delimiter],
        "after another": [b"ok" + delimiter, data],
        "before another": [data + b"ok" + delimiter],
    }[how]
    with pytest.raises(RemoteProtocolError, match=r"limit is 10"):
        feed(Lines(10, delimiter), pieces)


@pytest.mark.parametrize("delimiter", DELIMITERS)
def test_a_line_without_an_end_is_refused_before_it_takes_more_memory_than_the_limit(delimiter: bytes) -> None:
    decoder = Lines(10, delimiter).decoder()
    for _ in range(9 + len(delimiter)):
        decoder.feed(b"x")
    with pytest.raises(RemoteProtocolError):
        decoder.feed(b"x")
    with pytest.raises(RemoteProtocolError):
        Lines(10, delimiter).decoder().feed(b"x" * 1_000_000)


def test_an_empty_line_is_a_frame() -> None:
    assert feed(Lines(10), [b"\n\na\n\n"]) == ([b"", b"", b"a", b""], 0)


def test_nothing_that_arrives_gives_nothing() -> None:
    assert feed(Lines(10), [b"", b""]) == ([], 0)


def test_pending_tells_how_much_of_a_frame_has_begun() -> None:
    decoder = Lines(10).decoder()
    assert decoder.pending == 0
    decoder.feed(b"abc")
    assert decoder.pending == 3
    decoder.feed(b"d\ne")
    assert decoder.pending == 1
    decoder.feed(b"\n")
    assert decoder.pending == 0


def test_a_frame_that_ends_with_its_delimiter_is_sent_as_it_is() -> None:
    assert Lines().encode(b"a") == b"a\n"
    assert Lines().encode(b"a\n") == b"a\n"
    assert Lines().encode(b"") == b"\n"


@pytest.mark.parametrize("frame", [b"a\nb", b"\na", b"a\n\n"])
def test_a_frame_that_would_be_two_is_refused_at_its_sender(frame: bytes) -> None:
    with pytest.raises(LocalProtocolError, match="holds the delimiter"):
        Lines().encode(frame)


def test_two_decoders_share_nothing() -> None:
    lines = Lines(10)
    one, two = lines.decoder(), lines.decoder()
    one.feed(b"half")
    assert two.feed(b"whole\n") == [b"whole"]


def test_raw_is_no_framing_and_lines_take_the_listeners_limit_by_default() -> None:
    assert build_framing(FramingConfig(), 100, {}) is None
    assert build_framing(FramingConfig("lines", LineOptions()), 100, {}) == Lines(100)
    assert build_framing(FramingConfig("lines", LineOptions(7)), 100, {}) == Lines(7)


def test_a_long_line_that_arrives_in_many_pieces_is_not_copied_again_with_each_of_them() -> None:
    """Eight times the line takes about eight times as long; sixty-four times, when all is copied each time."""
    took = []
    for size in (512 * 1024, 4096 * 1024):
        decoder = Lines(size).decoder()
        before = time.thread_time()
        for _ in range(size // 4096):
            decoder.feed(b"x" * 4096)
        took.append(time.thread_time() - before)
    assert took[1] < 24 * took[0] + 0.05, took
