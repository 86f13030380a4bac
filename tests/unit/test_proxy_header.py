"""What a PROXY header says is found however its bytes arrive."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.net.proxy_header import SIGNATURES, ProxyHeader, ProxyTls, crc32c, has_signature, parse_header
from tests.unit.proxy_headers import (
    AWS,
    BOUNDED,
    HEADERS,
    LOCAL,
    LOCAL6,
    OVER_TLS,
    PEER,
    PEER6,
    TLS,
    V2,
    cause_of,
    checksum,
    encode_v2,
    header_of,
    is_refused,
    tls,
    tlv,
)

# --- what a header says ---


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_says_what_the_specification_says_of_its_bytes(name: str) -> None:
    data, peer, local = HEADERS[name]
    header = header_of(data)
    assert (header.size, header.peer, header.local) == (len(data), peer, local)
    assert header.is_local == (peer is None)


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_is_not_judged_before_its_last_byte(name: str) -> None:
    data, _, _ = HEADERS[name]
    assert {parse_header(data[:count]) for count in range(len(data))} == {None}


@pytest.mark.parametrize("tail", [b"x", b"\r\n", b"\n", b"GET / HTTP/1.1\r\n\r\n", bytes(5000), *SIGNATURES])
@pytest.mark.parametrize("name", HEADERS)
def test_what_comes_behind_a_header_changes_nothing(name: str, tail: bytes) -> None:
    data, _, _ = HEADERS[name]
    assert parse_header(data + tail) == parse_header(data)


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_has_a_signature_once_it_is_whole(name: str) -> None:
    data, _, _ = HEADERS[name]
    size = 12 if name.startswith("v2") else 6
    assert has_signature(data)
    assert [has_signature(data[:count]) for count in range(size + 1)] == [False] * size + [True]


def test_what_is_no_header_has_no_signature() -> None:
    for data in (
        b"",
        b"\r\n",
        b"PROXY",
        b"proxy TCP4 ",
        b"PROXY\tTCP4",
        b" PROXY ",
        b"GET / HTTP/1.1\r\n",
        V2[1:],
    ):
        assert not has_signature(data)


def test_what_is_local_says_nothing_more() -> None:
    for data in (V2 + b"\x20" + OVER_TLS[13:], V2 + b"\x21\x00" + AWS[14:], b"PROXY UNKNOWN\r\n"):
        header = header_of(data)
        assert header == ProxyHeader(len(data), is_local=True)
        assert (header.tlvs, header.tls, header.authority) == ((), None, None)


def test_a_header_cannot_be_changed() -> None:
    header = header_of(OVER_TLS)
    assert hash(header) == hash(header_of(OVER_TLS))
    for value, name in ((header, "peer"), (header, "tlvs"), (header.tls, "is_verified")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, name, True)


# --- type, length, value ---


def test_tlvs_are_kept_in_their_order_without_padding() -> None:
    data = encode_v2(PEER, LOCAL, tlv(0xE1, b"b"), tlv(4, b"pad"), tlv(0xE0, b""), tlv(0xE1, b"a"), tlv(4, b""))
    header = header_of(data)
    assert header.tlvs == ((0xE1, b"b"), (0xE0, b""), (0xE1, b"a"))
    assert [header.find_tlv(kind) for kind in (0xE1, 0xE0, 4, 5)] == [b"b", b"", None, None]


def test_the_id_of_a_vpc_endpoint_is_found() -> None:
    assert header_of(AWS).tlvs == ((3, bytes.fromhex("e8d6892d")), (0xEA, b"\1vpce-08d2bf15fac5001c9"))


def test_the_well_known_tlvs_have_names() -> None:
    names = (tlv(1, b"h2"), tlv(2, "bücher.example".encode()), tlv(5, b"\0\xff\n"), tlv(2, b"second.example"))
    header = header_of(encode_v2(PEER6, LOCAL6, *names))
    assert (header.alpn, header.authority, header.unique_id) == ("h2", "bücher.example", b"\0\xff\n")
    bare = header_of(encode_v2(PEER6, LOCAL6))
    assert (bare.alpn, bare.authority, bare.unique_id, bare.tls) == (None, None, None, None)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"a\nb",
        b"a\0",
        b"\x1b[2J",
        b"\x7f",
        b"\xff",
        b"\xc3",
        b"\xed\xa0\x80",
        "a\u202eb".encode(),
        b"x" * 257,
    ],
)
def test_a_text_that_cannot_be_shown_is_none(value: bytes) -> None:
    header = header_of(encode_v2(PEER, LOCAL, tlv(1, value), tlv(2, value), tls(1, 0, tlv(0x22, value))))
    assert (header.alpn, header.authority) == (None, None)
    assert header.tls == ProxyTls(None, None, None, False, False)
    assert header.find_tlv(2) == value


def test_a_text_of_256_bytes_is_shown() -> None:
    assert header_of(encode_v2(PEER, LOCAL, tlv(2, "ä".encode() * 128))).authority == "ä" * 128


@pytest.mark.parametrize(("size", "is_known"), [(0, False), (1, True), (128, True), (129, False)])
def test_a_unique_id_has_at_most_128_bytes(size: int, is_known: bool) -> None:
    header = header_of(encode_v2(PEER, LOCAL, tlv(5, b"\n" * size)))
    assert header.unique_id == (b"\n" * size if is_known else None)


def test_what_a_load_balancer_says_of_tls_is_found() -> None:
    assert header_of(OVER_TLS).tls == TLS


@pytest.mark.parametrize(
    ("client", "verify", "is_verified", "has_certificate"),
    [
        (0x01, 0, False, False),  # nothing was shown, and OpenSSL found nothing wrong with that
        (0x01, 1, False, False),
        (0x03, 0, True, True),
        (0x05, 0, True, True),
        (0x07, 18, False, True),
        (0xFF, 0, True, True),
        (0x03, 0xFFFFFFFF, False, True),
    ],
)
def test_only_a_certificate_that_was_shown_can_be_verified(
    client: int, verify: int, is_verified: bool, has_certificate: bool
) -> None:
    found = header_of(encode_v2(PEER, LOCAL, tls(client, verify))).tls
    assert found == ProxyTls(None, None, None, is_verified, has_certificate)


@pytest.mark.parametrize("client", [0x00, 0x02, 0x06, 0xFE])
def test_a_client_that_came_without_tls_has_none(client: int) -> None:
    """HAProxy sends the TLV for such clients too."""
    assert header_of(encode_v2(PEER, LOCAL, tls(client, 0, tlv(0x22, b"example.com")))).tls is None


# --- the checksum ---


# RFC 3720, B.4, in the order of its bytes; the first is the check value of every catalogue of such sums.
@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"123456789", 0xE3069283),
        (b"", 0),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_the_checksum_is_that_of_the_rfc(data: bytes, value: int) -> None:
    assert crc32c(data) == checksum(data) == value


@given(st.binary(max_size=100))
@BOUNDED
def test_the_table_counts_what_the_division_counts(data: bytes) -> None:
    assert crc32c(data) == checksum(data)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_checksum_is_right_wherever_it_stands(at: int) -> None:
    tlvs = [tlv(0xE0, b"one"), tlv(2, b"example.com")]
    tlvs.insert(at, b"")
    data = encode_v2(PEER, LOCAL, *tlvs)
    assert header_of(data).authority == "example.com"
    assert parse_header(data + b"a tail that is not counted") == parse_header(data)


def test_every_bit_that_falls_over_is_seen_by_the_checksum() -> None:
    """Where the flip makes it a header that carries no checksum to be read, it is none of its business."""
    begin = 16  # the addresses, and the TLVs
    unseen = []
    for bit in range(begin * 8, len(AWS) * 8):
        data = bytearray(AWS)
        data[bit // 8] ^= 1 << bit % 8
        if not is_refused(bytes(data)):
            unseen.append(divmod(bit, 8))
    assert {at for at, _ in unseen} <= {begin + 12}, unseen  # the TLV's own type


def test_a_flipped_address_under_a_checksum_is_refused() -> None:
    assert cause_of(AWS[:16] + b"\xad" + AWS[17:]) == "its checksum is wrong"


@pytest.mark.parametrize("value", [b"", b"\0\0\0", b"\0\0\0\0\0", b"\0\0\0\0"])
def test_a_checksum_of_another_size_or_value_is_refused(value: bytes) -> None:
    assert cause_of(encode_v2(PEER, LOCAL, tlv(3, value))) == "its checksum is wrong"


def test_several_checksums_are_refused() -> None:
    assert cause_of(encode_v2(PEER, LOCAL, b"", tlv(3, bytes(4)))) == "it has several checksums"
