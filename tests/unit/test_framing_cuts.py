"""What a stream means does not depend on how the network cuts it, and what was encoded is decoded."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork import Fixed, JsonLines, Length, LocalProtocolError, Netstring, Over, Varint
from tests.unit.framing_samples import BOUNDED, FRAMINGS, LIMIT, Outcome, cut, each_byte, feed, frames_of, streams
from tests.unit.framing_samples import with_policy as under

PLACES = st.lists(st.integers(0, 10_000), max_size=6)
ANY = st.sampled_from(Over)


@pytest.mark.parametrize("name", FRAMINGS)
@given(data=st.data())
@BOUNDED
def test_any_stream_has_the_same_outcome_whole_byte_by_byte_and_in_random_cuts(
    name: str, data: st.DataObject
) -> None:
    stream, over, places = data.draw(streams(name)), data.draw(ANY), data.draw(PLACES)
    framing = under(FRAMINGS[name], over)
    whole = feed(framing, [stream])
    assert feed(framing, each_byte(stream)) == whole
    assert feed(framing, cut(stream, places)) == whole


@pytest.mark.parametrize("name", FRAMINGS)
@given(data=st.data())
@BOUNDED
def test_what_was_encoded_is_decoded_in_any_cut(name: str, data: st.DataObject) -> None:
    framing = FRAMINGS[name]
    frames = data.draw(st.lists(frames_of(name), max_size=8))
    stream = b"".join(map(framing.encode, frames))
    good = Outcome(frames, False, 0)
    assert feed(framing, [stream]) == good
    assert feed(framing, each_byte(stream)) == good
    assert feed(framing, cut(stream, data.draw(PLACES))) == good


@pytest.mark.parametrize("name", FRAMINGS)
@given(data=st.data())
@BOUNDED
def test_a_tail_changes_nothing_of_the_frames_before_it(name: str, data: st.DataObject) -> None:
    framing = FRAMINGS[name]
    frames = data.draw(st.lists(frames_of(name), max_size=4))
    following = framing.encode(data.draw(frames_of(name)))
    size = data.draw(st.integers(0, len(following) - 1))
    stream = b"".join(map(framing.encode, frames)) + following[:size]
    found = feed(framing, [stream])
    assert (found.frames, found.is_refused) == (frames, False)
    assert found.pending == size


@pytest.mark.parametrize("name", FRAMINGS)
@given(data=st.data())
@BOUNDED
def test_pieces_of_no_bytes_change_nothing(name: str, data: st.DataObject) -> None:
    stream, over = data.draw(streams(name)), data.draw(ANY)
    framing = under(FRAMINGS[name], over)
    pieces = [piece for byte in each_byte(stream) for piece in (b"", byte, b"")]
    assert feed(framing, pieces) == feed(framing, [stream])


WIRES: list[tuple[Any, bytes, bytes]] = [
    (Length(), b"hello", b"\0\0\0\x05hello"),
    (Length(bytes=1), b"hello", b"\x05hello"),
    (Length(bytes=2), b"hello", b"\0\x05hello"),
    (Length(bytes=2, endian="little"), b"hello", b"\x05\0hello"),
    (Length(bytes=8), b"hello", b"\0\0\0\0\0\0\0\x05hello"),
    (Length(counts_itself=True), b"hello", b"\0\0\0\x09hello"),
    (Length(bytes=2, endian="little", counts_itself=True), b"", b"\x02\0"),
    (Varint(), b"hello", b"\x05hello"),
    (Varint(), b"x" * 127, b"\x7f" + b"x" * 127),
    (Varint(), b"x" * 128, b"\x80\x01" + b"x" * 128),
    (Varint(), b"x" * 300, b"\xac\x02" + b"x" * 300),
    (Netstring(), b"hello", b"5:hello,"),
    (Netstring(), b"", b"0:,"),
    (Netstring(), b"5:hello,", b"8:5:hello,,"),
    (Fixed(5), b"hello", b"hello"),
]


@pytest.mark.parametrize(("framing", "frame", "wire"), WIRES)
def test_the_bytes_on_the_wire_are_those_of_the_specification(framing: Any, frame: bytes, wire: bytes) -> None:
    assert framing.encode(frame) == wire
    assert feed(framing, [wire * 3]) == Outcome([frame] * 3, False, 0)


@pytest.mark.parametrize("name", [name for name in FRAMINGS if not name.startswith(("json", "fixed"))])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_everything_that_send_takes_is_encoded(name: str, kind: Any) -> None:
    framing = FRAMINGS[name]
    assert bytes(framing.encode(kind(b"xyz"))) == framing.encode(b"xyz")


@pytest.mark.parametrize("size", [255, 256])
def test_a_frame_whose_length_does_not_fit_is_the_users_fault(size: int) -> None:
    framing = Length(1000, bytes=1, counts_itself=True)
    with pytest.raises(LocalProtocolError, match="does not fit"):
        framing.encode(b"x" * size)


@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT + 1])
def test_a_frame_of_another_size_is_the_users_fault(size: int) -> None:
    with pytest.raises(LocalProtocolError, match="all have 10"):
        Fixed(LIMIT).encode(b"x" * size)


@pytest.mark.parametrize("name", FRAMINGS)
def test_two_decoders_of_one_framing_share_nothing(name: str) -> None:
    framing = FRAMINGS[name]
    one, two = framing.decoder(), framing.decoder()
    frame = 1234 if type(framing) is JsonLines else b"x" * (1 if name == "fixed 1" else LIMIT)
    wire = framing.encode(frame)
    one.feed(wire[: len(wire) // 2])
    assert two.feed(wire) == [frame]
    assert one.feed(wire[len(wire) // 2 :]) == [frame]
