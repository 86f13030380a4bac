"""What a decoder says of itself: `pending` is 0 if and only if no frame has begun, in every state."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork import Length, Lines, Netstring, Over, RemoteProtocolError, Varint
from tests.unit.framing_samples import (
    BOUNDED,
    FRAMINGS,
    LIMIT,
    SKIPPING,
    content,
    cut,
    each_byte,
    of_size,
    with_policy,
)

POLICIES = [Over.SKIP, Over.ERROR]


def pendings(framing: Any, data: bytes) -> list[int]:
    """Return what is pending after each byte."""
    decoder = framing.decoder()
    found = []
    for byte in each_byte(data):
        decoder.feed(byte)
        found.append(decoder.pending)
    return found


@pytest.mark.parametrize("name", FRAMINGS)
def test_nothing_is_pending_before_the_first_byte_and_after_nothing(name: str) -> None:
    decoder = FRAMINGS[name].decoder()
    assert decoder.pending == 0
    assert decoder.feed(b"") == []
    assert decoder.pending == 0
    assert decoder.refusal is None


@pytest.mark.parametrize("name", FRAMINGS)
def test_every_byte_of_a_frame_but_its_last_is_pending(name: str) -> None:
    framing = FRAMINGS[name]
    size = 1 if name == "fixed 1" else LIMIT
    wire = framing.encode(content(size)) if name.startswith("fixed") else of_size(name, size)
    expected = [*range(1, len(wire)), 0]
    assert pendings(framing, wire) == expected
    assert pendings(framing, wire * 2) == expected * 2


@pytest.mark.parametrize("name", SKIPPING)
@pytest.mark.parametrize("over", POLICIES)
def test_something_is_pending_until_the_last_byte_of_a_frame_that_is_passed_over(name: str, over: Over) -> None:
    wire = of_size(name, LIMIT + 20)
    found = pendings(with_policy(SKIPPING[name], over), wire)
    assert all(found[:-1]), found
    assert found[-1] == 0


@pytest.mark.parametrize("name", SKIPPING)
@given(data=st.data())
@BOUNDED
def test_something_is_pending_if_and_only_if_a_frame_has_begun(name: str, data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(2, LIMIT + 12), min_size=1, max_size=6))
    wires = [of_size(name, size) for size in sizes]
    ends = {sum(map(len, wires[: i + 1])) for i in range(len(wires))}
    stream = b"".join(wires)
    place = data.draw(st.integers(0, len(stream)))
    for over in POLICIES:
        decoder = with_policy(SKIPPING[name], over).decoder()
        decoder.feed(stream[:place])
        assert (decoder.pending == 0) is (place in ends or place == 0)
        decoder.feed(stream[place:])
        assert decoder.pending == 0


@pytest.mark.parametrize("name", SKIPPING)
@given(data=st.data())
@BOUNDED
def test_a_decoder_knows_whether_the_pending_frame_began_with_the_last_piece(
    name: str, data: st.DataObject
) -> None:
    """By this limits.message counts: once for each frame, also for one that is passed over."""
    sizes = data.draw(st.lists(st.integers(2, LIMIT + 12), min_size=1, max_size=6))
    wires = [of_size(name, size) for size in sizes]
    starts = [sum(map(len, wires[:i])) for i in range(len(wires))]
    stream = b"".join(wires)
    pieces = cut(stream, data.draw(st.lists(st.integers(0, 10_000), max_size=12)))
    decoder = with_policy(SKIPPING[name], data.draw(st.sampled_from(POLICIES))).decoder()
    fed = 0
    for piece in filter(None, pieces):
        decoder.feed(piece)
        before, fed = fed, fed + len(piece)
        begun = max(start for start in starts if start < fed) if fed else 0
        if decoder.pending:
            assert decoder.has_begun is (begun >= before), (before, fed, starts)


@pytest.mark.parametrize("delimiter", [b"\r\n", b"aab", b"||||"])
def test_the_begin_of_a_delimiter_is_pending_too(delimiter: bytes) -> None:
    assert pendings(Lines(LIMIT, delimiter), delimiter) == [*range(1, len(delimiter)), 0]
    skipping = pendings(Lines(LIMIT, delimiter, over=Over.SKIP), b"x" * 20 + delimiter)
    assert all(skipping[:-1])
    assert skipping[-1] == 0


@pytest.mark.parametrize(
    ("framing", "prefix"),
    [
        (Length(bytes=8), b"\0" * 7),
        (Varint(), b"\x80"),
        (Varint(), b"\x80" * 9),
        (Netstring(), b"1"),
        (Netstring(), b"1234567890"),
    ],
)
def test_the_begin_of_a_length_is_pending(framing: Any, prefix: bytes) -> None:
    decoder = framing.decoder()
    assert decoder.feed(prefix) == []
    assert decoder.pending == len(prefix)


@pytest.mark.parametrize("name", SKIPPING)
def test_the_tail_behind_whole_frames_is_pending(name: str) -> None:
    wire = of_size(name, 6)
    decoder = SKIPPING[name].decoder()
    assert len(decoder.feed(wire * 3 + wire[:2])) == 3
    assert decoder.pending == 2


@pytest.mark.parametrize("name", SKIPPING)
def test_a_refusal_stays_what_it_was(name: str) -> None:
    decoder = SKIPPING[name].decoder()
    decoder.feed(of_size(name, 3) + of_size(name, LIMIT + 1))
    first = decoder.refusal
    for _ in range(3):
        with pytest.raises(RemoteProtocolError) as raised:
            decoder.feed(of_size(name, 3))
        assert str(raised.value) == str(first)
    assert str(decoder.refusal) == str(first)


@pytest.mark.parametrize("name", SKIPPING)
def test_a_refused_stream_keeps_no_bytes(name: str) -> None:
    """A connection that lingers would hold them."""
    decoder = SKIPPING[name].decoder()
    with pytest.raises(RemoteProtocolError):
        decoder.feed(of_size(name, 200)[:-2])
    assert decoder.pending == 0
    decoder = SKIPPING[name].decoder()
    decoder.feed(of_size(name, 3) + of_size(name, 200)[:-2])
    assert decoder.pending == 0
