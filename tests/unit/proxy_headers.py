"""PROXY headers as a load balancer writes them: its side of the specification, without the parser's tables.

Knows: HAProxy's doc/proxy-protocol.txt, hypothesis. Does not know: how the parser reads.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st

from prefork.errors import RemoteProtocolError
from prefork.net.proxy_header import ProxyHeader, ProxyTls, parse_header

BOUNDED = settings(derandomize=True, database=None, deadline=None, max_examples=200)
CHECKSUM = 0x03
PORTS = st.integers(0, 65_535)
TLVS = st.lists(st.tuples(st.integers(0x40, 0xFF), st.binary(max_size=40)), max_size=8)

PEER, LOCAL = ("192.168.0.1", 56324), ("192.168.0.11", 443)
PEER6, LOCAL6 = ("2001:db8::1", 56324, 0, 0), ("2001:db8::b", 443, 0, 0)
V2 = bytes.fromhex("0d0a0d0a 000d0a51 5549540a")
TCP4 = bytes.fromhex("c0a80001 c0a8000b dc04 01bb")
TCP6 = bytes.fromhex("20010db8000000000000000000000001 20010db800000000000000000000000b dc04 01bb")
# What an AWS network load balancer sends for a client behind a VPC endpoint: checksum, its id, padding.
AWS = (
    V2 + bytes.fromhex("21110054 ac1f0771 ac1f0a1f c8f20050 030004 e8d6892d ea0017 01")
    + b"vpce-08d2bf15fac5001c9" + bytes.fromhex("040024") + bytes(36)
)  # fmt: skip
# What HAProxy sends by `send-proxy-v2-ssl-cn` for a client with a certificate.
OVER_TLS = (
    V2 + bytes.fromhex("2111 0053") + TCP4
    + bytes.fromhex("200044 07 00000000 210007") + b"TLSv1.3"
    + bytes.fromhex("22000b") + b"example.com"
    + bytes.fromhex("230016") + b"TLS_AES_256_GCM_SHA384"
    + bytes.fromhex("250007") + b"RSA2048" + bytes.fromhex("f00001") + b"?"
)  # fmt: skip
TLS = ProxyTls("TLSv1.3", "TLS_AES_256_GCM_SHA384", "example.com", True, True)
WORST_V1 = b"PROXY UNKNOWN " + b" ".join([b":".join([b"ffff"] * 8)] * 2) + b" 65535 65535\r\n"

# Bytes by the specification's words, and what they say of peer and local; None is the real addresses.
HEADERS: dict[str, tuple[bytes, Any, Any]] = {
    "the example of the specification": (b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", PEER, LOCAL),
    "v1 shortest": (b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", ("0.0.0.0", 0), ("0.0.0.0", 0)),
    "v1 longest ipv4": (
        b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
        ("255.255.255.255", 65535),
        ("255.255.255.255", 65535),
    ),
    "v1 ipv6": (b"PROXY TCP6 2001:db8::1 2001:db8::b 56324 443\r\n", PEER6, LOCAL6),
    "v1 ipv6 in full": (b"PROXY TCP6 2001:0DB8:0:0:0:0:0:1 2001:DB8:0::000b 56324 443\r\n", PEER6, LOCAL6),
    "v1 ipv6 of ipv4": (
        b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n",
        ("::ffff:192.0.2.1", 1, 0, 0),
        ("::1", 2, 0, 0),
    ),
    "v1 unknown": (b"PROXY UNKNOWN\r\n", None, None),
    "v1 unknown with the longest addresses": (WORST_V1, None, None),
    "v1 unknown with anything": (b"PROXY UNKNOWN \0\xff  TCP4 99999 \r\n", None, None),
    "v2 ipv4": (V2 + b"\x21\x11\x00\x0c" + TCP4, PEER, LOCAL),
    "v2 ipv6": (V2 + b"\x21\x21\x00\x24" + TCP6, PEER6, LOCAL6),
    "v2 unix": (
        V2 + b"\x21\x31\x00\xd8" + b"/run/a.sock".ljust(108, b"\0") + b"/run/b.sock".ljust(108, b"\0"),
        "/run/a.sock",
        "/run/b.sock",
    ),
    "v2 unix of the longest path": (V2 + b"\x21\x31\x00\xd8" + b"a" * 108 + b"b" * 108, "a" * 108, "b" * 108),
    "v2 unix abstract and unnamed": (
        V2 + b"\x21\x31\x00\xd8" + b"\0name".ljust(108, b"\0") + bytes(108),
        b"\0name",
        "",
    ),
    "v2 unix of no text": (
        V2 + b"\x21\x31\x00\xd8" + b"/\xff\n\0junk".ljust(108, b"\0") + bytes(108),
        os.fsdecode(b"/\xff\n"),
        "",
    ),
    "v2 local": (V2 + b"\x20\x00\x00\x00", None, None),
    "v2 local with a family and addresses": (V2 + b"\x20\x11\x00\x0c" + TCP4, None, None),
    "v2 local of anything": (V2 + b"\x20\xff\x00\x05junk\n", None, None),
    "v2 unspecified": (V2 + b"\x21\x00\x00\x00", None, None),
    "v2 unspecified with anything": (V2 + b"\x21\x00\x00\x03\x03\x00\xff", None, None),
    "v2 unspecified stream": (V2 + b"\x21\x01\x00\x00", None, None),
    "v2 ipv4 unspecified": (V2 + b"\x21\x10\x00\x0c" + TCP4, None, None),
    "v2 ipv6 unspecified": (V2 + b"\x21\x20\x00\x00", None, None),
    "v2 unix unspecified": (V2 + b"\x21\x30\x00\x00", None, None),
    "v2 with padding": (V2 + b"\x21\x11\x00\x11" + TCP4 + b"\x04\x00\x02\0\0", PEER, LOCAL),
    "v2 with an empty tlv": (V2 + b"\x21\x11\x00\x0f" + TCP4 + b"\xe0\x00\x00", PEER, LOCAL),
    "v2 of aws": (AWS, ("172.31.7.113", 51442), ("172.31.10.31", 80)),
    "v2 over tls": (OVER_TLS, PEER, LOCAL),
    "v2 longest": (V2 + b"\x21\x11\x0f\xf0" + TCP4 + b"\xe0\x0f\xe1" + b"x" * 4065, PEER, LOCAL),
    "v2 longest local": (V2 + b"\x20\x00\x0f\xf0" + b"x" * 4080, None, None),
}


def is_refused(data: bytes) -> bool:
    try:
        parse_header(data)
    except RemoteProtocolError:
        return True
    return False


def cause_of(data: bytes) -> str:
    """Return why bytes are refused, and hold that no byte of theirs is in it, nor in what caused it."""
    with pytest.raises(RemoteProtocolError) as caught:
        parse_header(data)
    error = caught.value
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None
    found = re.fullmatch(r"cannot read the PROXY header: ([A-Za-z0-9, ]+)", str(error))
    assert found is not None, str(error)
    return found[1]


def header_of(data: bytes) -> ProxyHeader:
    header = parse_header(data)
    assert header is not None
    return header


def endpoints_of(name: str) -> st.SearchStrategy[Any]:
    """Return addresses as accept(2) has them, of "ipv4", "ipv6" or "unix"."""
    if name == "ipv4":
        return st.tuples(st.ip_addresses(v=4).map(str), PORTS)
    if name == "ipv6":
        hosts = st.binary(min_size=16, max_size=16) | st.ip_addresses(v=6).map(lambda address: address.packed)
        texts = hosts.map(lambda packed: socket.inet_ntop(socket.AF_INET6, packed))
        return st.tuples(texts, PORTS, st.just(0), st.just(0))
    paths = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=27)  # 108 bytes at most
    return paths | st.binary(min_size=1, max_size=106).map(lambda name: b"\0" + name + b"x")


def encode_v1(peer: Any, local: Any) -> bytes:
    """Return the line of two addresses."""
    protocol = "TCP4" if len(peer) == 2 else "TCP6"
    return f"PROXY {protocol} {peer[0]} {local[0]} {peer[1]} {local[1]}\r\n".encode()


def encode_v2(peer: Any, local: Any, *tlvs: bytes) -> bytes:
    """Return the header of two addresses; `b""` among the TLVs is where the checksum goes."""
    if not isinstance(peer, tuple):
        family, addresses = 0x31, b"".join(encode_path(path).ljust(108, b"\0") for path in (peer, local))
    else:
        family = 0x11 if len(peer) == 2 else 0x21
        hosts = b"".join(ipaddress.ip_address(end[0]).packed for end in (peer, local))
        addresses = hosts + b"".join(end[1].to_bytes(2, "big") for end in (peer, local))
    return frame(0x21, family, addresses, *tlvs)


def frame(command: int, family: int, content: bytes, *tlvs: bytes) -> bytes:
    """Return a header of version 2 of any content."""
    before = content + b"".join(tlvs[: tlvs.index(b"")] if b"" in tlvs else tlvs)
    after = b"".join(tlvs[tlvs.index(b"") :]) if b"" in tlvs else b""
    size = len(before) + len(after) + 7 * (b"" in tlvs)
    head = V2 + bytes((command, family)) + size.to_bytes(2, "big") + before
    if b"" not in tlvs:
        return head
    sum_ = checksum(head + tlv(CHECKSUM, bytes(4)) + after)
    return head + tlv(CHECKSUM, sum_.to_bytes(4, "big")) + after


def encode_path(path: str | bytes) -> bytes:
    return path if isinstance(path, bytes) else path.encode()


def tlv(kind: int, value: bytes) -> bytes:
    """Return a type, a length and a value."""
    return bytes((kind,)) + len(value).to_bytes(2, "big") + value


def tls(client: int, verify: int, *tlvs: bytes) -> bytes:
    """Return the TLV on the client's TLS."""
    return tlv(0x20, bytes((client,)) + verify.to_bytes(4, "big") + b"".join(tlvs))


def checksum(data: bytes) -> int:
    """Return the CRC32c as the division of polynomials that it is: RFC 3720, 12.1, bit after bit."""
    rest = 0xFFFFFFFF
    for bit in (byte >> place & 1 for byte in data for place in range(8)):
        is_odd = (rest >> 31) ^ bit
        rest = (rest << 1) & 0xFFFFFFFF ^ (0x1EDC6F41 if is_odd else 0)
    return int(f"{rest:032b}"[::-1], 2) ^ 0xFFFFFFFF
