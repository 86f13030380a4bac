"""Captures as they are read: every byte where it was, and what is not whole refused.

Knows: `prefork.captured`, files made by `prefork.pcapng`. Does not know: Wireshark, servers.
"""

from __future__ import annotations

import struct
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefork.captured import Chunk, read_streams
from prefork.errors import RemoteProtocolError
from prefork.pcapng import Datagrams
from tests.unit.packets import (
    AT,
    HEADER,
    LOCAL,
    LOCAL_6,
    PEER,
    PEER_6,
    blocks,
    chunks_of,
    read_one,
    say,
    stream,
)

BOUNDED = settings(derandomize=True, database=None, deadline=None, max_examples=200)
SAID = st.lists(st.tuples(st.booleans(), st.binary(min_size=1, max_size=300)), max_size=12)


# --- what is read back ---


@BOUNDED
@given(SAID, st.sampled_from([(PEER, LOCAL), (PEER_6, LOCAL_6), (None, "/run/x")]))
def test_what_was_said_is_read_back(said: list[tuple[bool, bytes]], ends: tuple[Any, Any]) -> None:
    captured = read_one(HEADER + say(stream(*ends), said))
    assert captured.chunks == chunks_of(said)
    assert (captured.number, captured.listener, captured.is_datagram, captured.end) == (1, "echo", False, "done")


@BOUNDED
@given(st.lists(SAID, min_size=2, max_size=4), st.randoms(use_true_random=False))
def test_connections_whose_blocks_are_mixed_are_told_apart(
    many: list[list[tuple[bool, bytes]]], random: Any
) -> None:
    waiting = [list(blocks(say(stream(PEER, serial=serial), said))) for serial, said in enumerate(many)]
    written = HEADER
    while any(waiting):
        kind, body = random.choice([queue for queue in waiting if queue]).pop(0)
        written += struct.pack(">II", kind, len(body) + 12) + body + struct.pack(">I", len(body) + 12)
    found = sorted(str(one.chunks) for one in read_streams(written))
    assert found == sorted(str(chunks_of(said)) for said in many)


def test_the_next_connection_of_equal_addresses_is_another() -> None:
    data = HEADER + b"".join(say(stream(), [(True, bytes([number]))]) for number in range(3))
    found = read_streams(data)
    assert [one.number for one in found] == [1, 2, 3]
    assert [one.chunks[0].data for one in found] == [b"\0", b"\1", b"\2"]


def test_datagrams_of_one_peer_are_one_flow() -> None:
    flow, other = (Datagrams(1, (f"192.0.2.{n}", 53), LOCAL, "slot 1", n) for n in (1, 2))
    said = [(True, b"q"), (False, b"a"), (True, b""), (False, b"b")]
    data = HEADER + other.datagram(AT, b"else", is_received=False)
    data += b"".join(flow.datagram(AT + 1000 * n, text, is_in) for n, (is_in, text) in enumerate(said, start=1))
    first, second = read_streams(data)
    assert (first.peer, first.chunks) == (("192.0.2.2", 53), (Chunk(False, AT, b"else"),))
    assert (second.peer, second.chunks) == (("192.0.2.1", 53), chunks_of(said))
    assert (second.listener, second.is_datagram, second.end) == ("other", True, None)


def test_blocks_and_options_that_are_not_known_are_skipped() -> None:
    kind, body = next(blocks(stream().opened(AT)))
    odd = body[:-4] + struct.pack(">HH", 2988, 4) + b"what" + bytes(4)
    unknown = struct.pack(">III4sI", 0x0BAD, 20, 7, b"what", 20)
    written = HEADER + unknown + struct.pack(">II", kind, len(odd) + 12) + odd + struct.pack(">I", len(odd) + 12)
    assert read_one(written + unknown).comment == "slot 1; echo-3"


def test_a_capture_that_ended_before_its_connection_says_so() -> None:
    flow = stream()
    captured = read_one(HEADER + flow.opened(AT) + flow.received(AT, b"x"))
    assert (captured.end, len(captured.chunks)) == (None, 1)


def test_a_capture_of_nothing_has_no_connections() -> None:
    assert read_streams(HEADER) == []


# --- what is refused ---


def refusal(data: bytes, max_bytes: int = 1 << 20) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        read_streams(data, max_bytes)
    return str(caught.value)


WHOLE = HEADER + say(stream(), [(True, b"hello"), (False, b"world")])


def replaced(place: int, new: bytes) -> bytes:
    return WHOLE[:place] + new + WHOLE[place + len(new) :]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "at byte 0: it is empty"),
        (b"GET / HTTP/1.1\r\n", "at byte 0: this is no pcapng file"),
        (b"\x0a\x0d", "at byte 0: it ends after 2 bytes of a block"),
        (replaced(4, b"\xff\xff\xff\xfc"), "at byte 0: a block cannot have 4294967292 bytes"),
        (replaced(4, b"\0\0\0\x08"), "at byte 0: a block cannot have 8 bytes"),
        (replaced(4, b"\0\0\0\x31"), "at byte 0: a block cannot have 49 bytes"),
        (replaced(8, b"\x4d\x3c\x2b\x1a"), "at byte 0: a section is of another byte order or version"),
        (replaced(len(HEADER) + 8, b"\0\0\0\x02"), f"at byte {len(HEADER)}: there is no interface 2"),
        (replaced(len(HEADER) + 20, b"\xff\xff\xff\xff"), f"at byte {len(HEADER)}: a packet is cut"),
        (replaced(len(HEADER) + 28, b"\x55"), "a packet is not as prefork writes them"),
        (replaced(len(WHOLE) - 4, b"\0\0\0\0"), "the two lengths of a block differ"),
        (replaced(WHOLE.index(b"hello"), b"hullo"), "a packet was changed: its checksum is another"),
        (WHOLE[:-1], "it ends after"),
    ],
)
def test_a_file_that_is_no_capture_is_refused_with_the_byte_where_that_is_seen(data: bytes, said: str) -> None:
    message = refusal(data)
    assert message.startswith("cannot read the capture at byte ")
    assert said in message


def test_missing_bytes_are_refused() -> None:
    flow = stream()
    opened, _, second = flow.opened(AT), flow.received(AT, b"one"), flow.received(AT, b"two")
    assert "bytes are missing" in refusal(HEADER + opened + second)
    assert "belongs to no connection that begins in this file" in refusal(HEADER + second)


def test_memory_is_bounded() -> None:
    flow = stream()
    written = HEADER + flow.opened(AT) + b"".join(flow.received(AT, b"x") for _ in range(3000))
    assert "would need more than 1048576 bytes of memory" in refusal(written)
    assert len(read_one(written).chunks) == 3000


def read_or_refuse(data: bytes) -> str:
    """Return why it is refused; an empty string: it was read."""
    try:
        read_streams(data)
    except RemoteProtocolError as error:
        return str(error)
    return ""


def test_a_file_cut_between_blocks_is_read_and_one_cut_elsewhere_is_refused() -> None:
    sizes = [len(body) + 12 for _, body in blocks(WHOLE)]
    ends = set(accumulate(sizes))
    for count in range(1, len(WHOLE)):
        assert bool(read_or_refuse(WHOLE[:count])) is (count not in ends), count


@BOUNDED
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_file_with_changed_bytes_is_read_or_refused(changes: list[tuple[int, int]]) -> None:
    data = bytearray(WHOLE)
    for place, value in changes:
        data[place] = value
    assert read_or_refuse(bytes(data))[:32] in ("", "cannot read the capture at byte ")


@BOUNDED
@given(st.binary(max_size=200), st.integers(0, 6))
def test_a_hostile_block_is_read_or_refused(body: bytes, kind: int) -> None:
    body += bytes(-len(body) % 4)
    size = struct.pack(">I", len(body) + 12)
    said = read_or_refuse(HEADER + kind.to_bytes(4) + size + body + size)
    assert not said or f"at byte {len(HEADER)}: " in said
