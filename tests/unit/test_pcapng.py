"""Captures as they are written: right by the rules of TCP, IP and pcapng.

Knows: `prefork.pcapng`, and the reader as a second opinion. Does not know: files, Wireshark, servers.
"""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefork.captured import Chunk
from prefork.pcapng import (
    ACK,
    FIN,
    MAX_DATAGRAM_BYTES,
    MAX_SEGMENT_BYTES,
    MAX_TEXT_BYTES,
    PSH,
    RST,
    SYN,
    Close,
    Datagrams,
    Stream,
    sum_words,
)
from tests.unit.packets import (
    AT,
    HEADER,
    LOCAL,
    LOCAL_6,
    PEER,
    PEER_6,
    assert_right,
    blocks,
    chunks_of,
    options,
    packets,
    read_one,
    say,
    stream,
    words_sum,
)

BOUNDED = settings(derandomize=True, database=None, deadline=None, max_examples=200)


# --- what is written ---


def test_the_header_names_prefork_and_every_listener() -> None:
    (section, first), *interfaces = blocks(HEADER)
    assert section == 0x0A0D0D0A
    assert struct.unpack_from(">IHHq", first) == (0x1A2B3C4D, 1, 0, -1)
    assert options(first[16:])[4] == b"prefork 0.1.0"
    assert [kind for kind, _ in interfaces] == [1, 1]
    told = [options(body[8:]) for _, body in interfaces]
    assert [(one[2], one[9]) for one in told] == [(b"echo", b"\x09"), (b"other", b"\x09")]
    assert struct.unpack_from(">H", interfaces[0][1]) == (101,)


@pytest.mark.parametrize(("peer", "local"), [(PEER, LOCAL), (PEER_6, LOCAL_6)], ids=["IPv4", "IPv6"])
def test_a_connection_has_the_packets_and_the_numbers_of_tcp(peer: Any, local: Any) -> None:
    found = packets(say(stream(peer, local), [(True, b"hello"), (False, b"hi"), (True, b"you")]))
    for packet in found:
        assert_right(packet)
    begin = AT // 1000 & 0xFFFF_FFFF
    told = [
        (p.direction, p.flags, p.numbers[0] - begin, p.numbers[1] - begin if p.flags & ACK else 0) for p in found
    ]
    assert told == [
        (1, SYN, 0, 0),
        (2, SYN | ACK, 0, 1),
        (1, ACK, 1, 1),
        (1, PSH | ACK, 1, 1),
        (2, PSH | ACK, 1, 6),
        (1, PSH | ACK, 6, 3),
        (2, FIN | ACK, 3, 9),
        (1, FIN | ACK, 9, 4),
        (2, ACK, 4, 10),
    ]
    assert [p.data for p in found[3:6]] == [b"hello", b"hi", b"you"]
    assert [p.comment for p in found if p.comment] == ["slot 1; echo-3", "done"]
    assert (found[0].comment, found[6].comment) == ("slot 1; echo-3", "done")
    assert {p.ports for p in found} == {(50_000, 9000), (9000, 50_000)}
    hosts = [ip_address(end[0].partition("%")[0]).packed for end in (peer, local)]
    assert found[0].addresses == b"".join(hosts)


@BOUNDED
@given(st.binary(max_size=600))
def test_a_sum_is_that_of_the_words(data: bytes) -> None:
    assert sum_words(data) == words_sum(data) % 0xFFFF


@pytest.mark.parametrize("data", [b"", b"\0", bytes(64), b"\xff" * 64, b"\xff" * 33], ids=len)
@pytest.mark.parametrize(("peer", "local"), [(PEER, LOCAL), (PEER_6, LOCAL_6)], ids=["IPv4", "IPv6"])
def test_every_datagram_has_a_right_checksum_that_is_never_zero(peer: Any, local: Any, data: bytes) -> None:
    flow = Datagrams(0, peer, local, "slot 1", 3)
    for tail in range(300):
        (packet,) = packets(flow.datagram(AT, data + bytes([tail & 0xFF, tail >> 8]), is_received=True))
        assert_right(packet)
        assert packet.segment[6:8] != b"\0\0"


def test_much_that_is_said_at_once_is_cut_into_segments_and_read_as_one() -> None:
    data = bytes(range(256)) * 700
    found = packets(say(stream(), [(False, data)]))[3:-3]
    assert [len(p.data) for p in found] == [
        MAX_SEGMENT_BYTES,
        MAX_SEGMENT_BYTES,
        len(data) - 2 * MAX_SEGMENT_BYTES,
    ]
    assert [bool(p.flags & PSH) for p in found] == [False, False, True]
    for packet in found:
        assert_right(packet)
    assert read_one(HEADER + say(stream(), [(False, data)])).chunks == chunks_of([(False, data)])


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_of_any_kind_are_taken(kind: type[bytes]) -> None:
    assert say(stream(), [(True, kind(b"abc")), (False, kind(b"d"))]) == say(
        stream(), [(True, b"abc"), (False, b"d")]
    )


def test_nothing_said_is_nothing_written() -> None:
    flow = stream()
    flow.opened(AT)
    assert flow.received(AT, b"") == flow.sent(AT, b"") == b""


def test_sequence_numbers_go_round() -> None:
    flow = stream()
    at = 0xFFFF_FFF0 * 1000
    data = (
        HEADER
        + flow.opened(at)
        + flow.received(at, bytes(100))
        + flow.received(at, b"x")
        + flow.sent(at, bytes(99))
    )
    assert packets(data[len(HEADER) :])[4].numbers[0] == 0xFFFF_FFF0 + 1 + 100 - (1 << 32)
    assert [len(chunk.data) for chunk in read_one(data).chunks] == [100, 1, 99]


@pytest.mark.parametrize(("how", "direction"), [(Close.RESET_BY_PEER, 1), (Close.RESET_BY_US, 2)])
def test_a_reset_is_one_packet_of_its_side_with_the_reason(how: Close, direction: int) -> None:
    flow = stream()
    opened = flow.opened(AT)
    blocks_of_it = flow.closed(AT, "broken", how)
    (packet,) = packets(blocks_of_it)
    assert_right(packet)
    assert (packet.direction, packet.flags, packet.comment) == (direction, RST | ACK, "broken")
    assert read_one(HEADER + opened + blocks_of_it).end == "broken"


def test_input_that_ended_before_the_answer_is_told_where_it_was() -> None:
    flow = stream()
    data = flow.opened(AT) + flow.received(AT, b"q") + flow.input_ended(AT)
    assert flow.input_ended(AT) == b""
    data += flow.sent(AT, b"a") + flow.closed(AT, "done")
    captured = read_one(HEADER + data)
    assert captured.chunks == (Chunk(True, AT, b"q"), Chunk(True, AT, b""), Chunk(False, AT, b"a"))
    assert captured.end == "done"
    assert sum(bool(p.flags & FIN) for p in packets(data)) == 2


def test_ends_that_are_no_addresses_of_ip_are_made_up_and_told() -> None:
    flow = Stream(1, None, "/run/echo.sock", "slot 0", 7 << 32 | 5)
    other = Stream(1, None, "/run/echo.sock", "slot 0", 8 << 32 | 5)
    one, two = (packets(each.opened(AT))[0] for each in (flow, other))
    assert one.comment == "slot 0; /run/echo.sock"
    assert one.addresses[4:] == bytes([127, 0, 0, 1])
    assert one.addresses[0] == 127
    assert one.ports[1] == 1
    assert (one.addresses, one.ports) != (two.addresses, two.ports)


@pytest.mark.parametrize(
    ("peer", "local", "expected"),
    [
        (("::ffff:192.0.2.7", 1), ("::ffff:192.0.2.1", 2), ("192.0.2.7", "192.0.2.1")),
        (("192.0.2.7", 1), ("::", 2, 0, 0), ("::ffff:192.0.2.7", "::")),
        (("2001:db8::7", 1), "/run/x.sock", ("2001:db8::7", "::ffff:127.0.0.1")),
    ],
    ids=["mapped", "a wildcard of the other family", "a proxy's peer on a unix socket"],
)
def test_both_ends_are_of_one_family(peer: Any, local: Any, expected: tuple[str, str]) -> None:
    data = stream(peer, local).opened(AT)
    for packet in packets(data):
        assert_right(packet)
    captured = read_one(HEADER + data)
    assert tuple(map(ip_address, (captured.peer[0], captured.local[0]))) == tuple(map(ip_address, expected))


def test_a_comment_is_cut_between_characters_and_may_hold_anything() -> None:
    flow = Stream(0, PEER, LOCAL, "x" + "ß" * MAX_TEXT_BYTES, 3)
    comment = read_one(HEADER + flow.opened(AT)).comment
    assert len(comment.encode()) == MAX_TEXT_BYTES - 1
    assert read_one(HEADER + Stream(0, PEER, LOCAL, "a\udcff\n", 3).opened(AT)).comment == "a\\udcff\n"


def test_a_datagram_of_a_unix_socket_may_be_longer_than_one_of_udp() -> None:
    flow = Datagrams(0, "/run/client", "/run/server", "slot 1", 3)
    data = flow.datagram(AT, bytes(100_000), is_received=True) + flow.datagram(AT, b"short", is_received=False)
    first, second = packets(data)
    assert_right(first)
    assert first.comment == "slot 1; /run/client; /run/server; cut, of 100000 bytes"
    assert second.comment == ""
    assert [len(chunk.data) for chunk in read_one(HEADER + data).chunks] == [MAX_DATAGRAM_BYTES, 5]
