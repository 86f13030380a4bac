"""What is no PROXY header, or a wrong one, is refused as soon as it can be seen, and nothing else can happen."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.net.proxy_header import MAX_HEADER_BYTES, SIGNATURES, ProxyHeader, parse_header
from tests.unit.proxy_headers import (
    BOUNDED,
    HEADERS,
    LOCAL,
    PEER,
    PORTS,
    TCP4,
    TLVS,
    V2,
    cause_of,
    encode_v1,
    encode_v2,
    endpoints_of,
    frame,
    header_of,
    is_refused,
    tls,
    tlv,
)

NAMED = ("ipv4", "ipv6", "unix")


@pytest.mark.parametrize(
    "data",
    [
        b"G",
        b"\x16",
        b"\n",
        b"\0",
        b" ",
        b"p",
        b"PROXX",
        b"PROXY\t",
        b"PROXY\r",
        b"\r\n\r\n\r",
        V2[:11] + b"\r",
    ],
)
def test_another_protocol_is_refused_at_its_first_other_byte(data: bytes) -> None:
    assert parse_header(data[:-1]) is None
    assert cause_of(data) == "the first bytes are those of another protocol"
    assert cause_of(data + bytes(20)) == "the first bytes are those of another protocol"


@pytest.mark.parametrize(
    "line",
    [
        "TCP5",
        "TCP44",
        "tcp4",
        "UDP4",
        "TCP4\t",
        "TCP4\r",
        " ",
        "\r\n",
        "UNKNOWNS",
        "UNKNOWN\n",
        "UNKNOWN\t",
        "UNKNOWN\r\r",
    ],
)
def test_another_word_for_the_protocol_is_refused_before_the_line_ends(line: str) -> None:
    data = b"PROXY " + line.encode()
    assert cause_of(data) == "its protocol is none of TCP4, TCP6 and UNKNOWN"
    assert cause_of(data + b" 192.0.2.1 192.0.2.2 1 2\r\n")


@pytest.mark.parametrize(
    "words",
    [
        "TCP4 192.0.2.1 192.0.2.2 1",
        "TCP4 192.0.2.1 192.0.2.2 1 2 3",
        "TCP4 192.0.2.1 192.0.2.2 1 2 ",
        "TCP4  192.0.2.1 192.0.2.2 1 2",
        "TCP4 192.0.2.1  192.0.2.2 1 2",
        "TCP4 192.0.2.1 192.0.2.2 1  2",
        "TCP4 192.0.2.1\t192.0.2.2 1 2",
        "TCP6 ",
    ],
)
def test_a_line_of_other_words_is_refused(words: str) -> None:
    expected = "its line is not two addresses and two ports with single spaces"
    assert cause_of(f"PROXY {words}\r\n".encode()) == expected


HOSTS4 = [
    "",
    "192.0.2",
    "192.0.2.256",
    "192.0.2.1.",
    "192.0.2.01",
    "0x7f.0.0.1",
    "1",
    "+1.0.0.1",
    "::1",
    "localhost",
]
HOSTS6 = [
    "",
    ":",
    ":::",
    "1::2::3",
    "12345::",
    "::1%lo",
    "::g",
    "[::1]",
    "192.0.2.1",
    "::ffff:192.0.2.256",
    "::1/8",
]
NO_TEXTS = [b"192.0.2.1\0", b"192.0.2.1\n", b"192.0.2.1\r", b"\xff", "１.0.0.1".encode()]  # noqa: RUF001
BAD_HOSTS = [
    *((b"TCP4", host.encode(), b"192.0.2.2") for host in HOSTS4),
    *((b"TCP6", host.encode(), b"2001:db8::2") for host in HOSTS6),
    *((b"TCP4", host, b"192.0.2.2") for host in NO_TEXTS),
    *((b"TCP6", host.replace(b"192", b"::192"), b"2001:db8::2") for host in NO_TEXTS),
]


@pytest.mark.parametrize(("protocol", "bad", "good"), BAD_HOSTS)
def test_what_is_no_address_is_refused(protocol: bytes, bad: bytes, good: bytes) -> None:
    expected = "an address is not one of its protocol"
    if bad:
        assert cause_of(b"PROXY %b %b %b 1 2\r\n" % (protocol, bad, good)) == expected
        assert cause_of(b"PROXY %b %b %b 1 2\r\n" % (protocol, good, bad)) == expected
    assert cause_of(b"PROXY %b %b %b 1 2\r\n" % (protocol, b"", b"")) == expected


@pytest.mark.parametrize(
    "port",
    [
        "",
        "65536",
        "99999",
        "100000",
        "00",
        "01",
        "+1",
        "-1",
        "-0",
        "1.0",
        "0x1",
        "1_0",
        "x",
        "1\n",
        "\t1",
        "\u0661",
    ],
)
def test_what_is_no_port_is_refused(port: str) -> None:
    for ports in (f"{port} 2", f"1 {port}"):
        assert (
            cause_of(f"PROXY TCP4 192.0.2.1 192.0.2.2 {ports}\r\n".encode())
            == "a port is no number from 0 to 65535"
        )


def test_a_line_longer_than_107_bytes_is_refused_at_the_107th() -> None:
    for start in (b"PROXY UNKNOWN ", b"PROXY TCP4 ", b"PROXY TCP6 "):
        line = start.ljust(108, b"f")
        assert parse_header(line[:106]) is None
        for data in (line[:107], line[:106] + b"\r", line[:106] + b"\r\n", line + b"\r\n", line * 100):
            assert cause_of(data) == "its line has no end within 107 bytes"


@pytest.mark.parametrize(
    "words", [b" \n", b" a\nb", b" \r\r", b" a\rb", b" \n\r", b" 192.0.2.1\n", b" x\rGET / HTTP/1.1\n"]
)
def test_a_single_end_of_line_is_refused_when_it_is_seen(words: bytes) -> None:
    data = b"PROXY UNKNOWN" + words
    assert cause_of(data)
    assert cause_of(data + b"\r\n") == "a single CR or LF is in its line"
    if b"UNKNOWN " in data:
        assert cause_of(data.replace(b"UNKNOWN", b"TCP4")) == "a single CR or LF is in its line"


@pytest.mark.parametrize("byte", [command for command in range(256) if command not in (0x20, 0x21)])
def test_another_version_or_command_is_refused_at_its_byte(byte: int) -> None:
    expected = "its version is not 2, or its command neither LOCAL nor PROXY"
    assert cause_of(V2 + bytes((byte,))) == expected
    assert cause_of(V2 + bytes((byte,)) + b"\x11\x00\x0c" + TCP4) == expected


KNOWN_FAMILIES = (0x00, 0x01, 0x10, 0x11, 0x20, 0x21, 0x30, 0x31)


@pytest.mark.parametrize("byte", [family for family in range(256) if family not in KNOWN_FAMILIES])
def test_another_family_is_refused_at_its_byte(byte: int) -> None:
    is_of_datagrams = byte in (0x02, 0x12, 0x22, 0x32)
    expected = "it is one of datagrams" if is_of_datagrams else "its address family is unknown"
    assert cause_of(V2 + bytes((0x21, byte))) == expected
    assert cause_of(frame(0x21, byte, bytes(216))) == expected


@pytest.mark.parametrize(("family", "size"), [(0x11, 12), (0x21, 36), (0x31, 216)])
def test_a_length_below_that_of_the_addresses_is_refused_at_once(family: int, size: int) -> None:
    for count in (0, 1, size - 1):
        head = V2 + bytes((0x21, family)) + count.to_bytes(2, "big")
        assert parse_header(head[:-1]) is None
        assert cause_of(head) == "it is too short for its addresses"
    assert header_of(V2 + bytes((0x21, family)) + size.to_bytes(2, "big") + bytes(size)).size == 16 + size


@pytest.mark.parametrize("command", [0x20, 0x21])
@pytest.mark.parametrize("family", KNOWN_FAMILIES)
def test_a_length_above_the_limit_is_refused_at_once(command: int, family: int) -> None:
    head = V2 + bytes((command, family))
    for count in (MAX_HEADER_BYTES - 15, 65_535):
        assert cause_of(head + count.to_bytes(2, "big")) == "it has more than 4096 bytes"
    assert parse_header(head + (MAX_HEADER_BYTES - 16).to_bytes(2, "big")) is None


BROKEN = [b"\xe0", b"\xe0\x00", b"\xe0\x00\x01", b"\xe0\xff\xff", b"\xe0\x00\x00\xe0", b"\xe0\x00\x02a", b"\0" * 4]


@pytest.mark.parametrize("end", BROKEN)
def test_a_tlv_that_goes_beyond_the_header_is_refused(end: bytes) -> None:
    data = encode_v2(PEER, LOCAL, end)
    assert parse_header(data[:-1]) is None
    for tail in (b"", b"more bytes that are not the header's"):
        assert cause_of(data + tail) == "a TLV goes beyond its end"


@pytest.mark.parametrize("end", BROKEN)
def test_a_tlv_that_goes_beyond_the_tlv_on_tls_is_refused(end: bytes) -> None:
    for client in (0, 1, 7):
        assert (
            cause_of(encode_v2(PEER, LOCAL, tls(client, 0, end), tlv(0xE0, b"more")))
            == "a TLV goes beyond its end"
        )


@pytest.mark.parametrize("size", range(5))
def test_a_tlv_on_tls_that_is_too_short_is_refused(size: int) -> None:
    assert cause_of(encode_v2(PEER, LOCAL, tlv(0x20, bytes(size)))) == "its TLV on TLS is too short"


# --- of anything ---


@pytest.mark.parametrize("name", NAMED[:2])
@given(data=st.data(), tail=st.binary(max_size=20))
@BOUNDED
def test_what_was_written_as_version_1_is_read(name: str, data: st.DataObject, tail: bytes) -> None:
    peer, local = data.draw(endpoints_of(name)), data.draw(endpoints_of(name))
    line = encode_v1(peer, local)
    assert parse_header(line + tail) == ProxyHeader(len(line), False, peer, local)


@pytest.mark.parametrize("name", NAMED)
@given(data=st.data(), tlvs=TLVS, has_checksum=st.booleans(), tail=st.binary(max_size=20))
@BOUNDED
def test_what_was_written_as_version_2_is_read(
    name: str, data: st.DataObject, tlvs: list[tuple[int, bytes]], has_checksum: bool, tail: bytes
) -> None:
    peer, local = data.draw(endpoints_of(name)), data.draw(endpoints_of(name))
    written = encode_v2(peer, local, *(tlv(kind, value) for kind, value in tlvs), *[b""] * has_checksum)
    header = header_of(written + tail)
    assert (header.size, header.is_local, header.peer, header.local) == (len(written), False, peer, local)
    assert [pair for pair in header.tlvs if pair[0] != 3] == tlvs
    assert (header.find_tlv(3) is not None) == has_checksum


def hold_the_promises(data: bytes) -> None:
    """Whole or byte by byte, the verdict is one; no error but the one; and it comes in time."""
    verdict: ProxyHeader | str | None = None
    decided = 0
    for decided in range(min(len(data), MAX_HEADER_BYTES + 1) + 1):
        verdict = cause_of(data[:decided]) if is_refused(data[:decided]) else parse_header(data[:decided])
        if verdict is not None:
            break
    if verdict is None:
        assert len(data) < MAX_HEADER_BYTES
    elif isinstance(verdict, str):
        assert is_refused(data)
    else:
        assert parse_header(data) == verdict
        assert verdict.size == decided <= MAX_HEADER_BYTES


@given(st.binary(max_size=300))
@BOUNDED
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    hold_the_promises(data)
    for signature in SIGNATURES:
        hold_the_promises(signature + data)


@given(
    st.text("TCP46UNKOW 0123456789abcf:.\r\n\0", max_size=120), st.sampled_from(["", "TCP4 ", "TCP6 ", "UNKNOWN "])
)
@BOUNDED
def test_any_line_is_read_or_refused(text: str, start: str) -> None:
    hold_the_promises(f"PROXY {start}{text}".encode())
    hold_the_promises(f"PROXY {start}{text}\r\n".encode())


@given(
    st.sampled_from([0x20, 0x21]), st.sampled_from(KNOWN_FAMILIES), st.integers(0, 400), st.binary(max_size=400)
)
@BOUNDED
def test_any_content_of_version_2_is_read_or_refused(command: int, family: int, size: int, content: bytes) -> None:
    hold_the_promises(V2 + bytes((command, family)) + size.to_bytes(2, "big") + content)
    hold_the_promises(frame(command, family, content))


@given(st.sampled_from([data for data, _, _ in HEADERS.values() if len(data) < 1000]), st.data())
@BOUNDED
def test_any_header_with_other_bytes_in_it_is_read_or_refused(whole: bytes, data: st.DataObject) -> None:
    changed = bytearray(whole)
    for at in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=4)):
        changed[at] = data.draw(st.integers(0, 255))
    hold_the_promises(bytes(changed))


@given(
    st.sampled_from([b"", *SIGNATURES, b"PROXY UNKNOWN ", V2 + b"\x20\x00", V2 + b"\x21\x31\x0f"]),
    st.integers(0, 10_000),
)
@BOUNDED
def test_nobody_needs_more_than_the_limit_to_decide(start: bytes, seed: int) -> None:
    data = start + random.Random(seed).randbytes(MAX_HEADER_BYTES - len(start))
    assert is_refused(data) or parse_header(data) is not None


@given(PORTS, PORTS)
@BOUNDED
def test_every_port_is_read_in_both_versions(one: int, other: int) -> None:
    peer, local = ("192.0.2.1", one), ("192.0.2.2", other)
    for data in (encode_v1(peer, local), encode_v2(peer, local)):
        header = header_of(data)
        assert (header.peer, header.local) == (peer, local)
