"""Blocks and packets of a capture, taken apart by the words of their RFCs, and connections to write.

Knows: headers of IP, TCP and UDP, one connection's addresses. Does not know: what a test is about.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from prefork.captured import Captured, Chunk, read_streams
from prefork.pcapng import Stream, header

AT = 1_795_380_035_712_446_436
PEER, LOCAL = ("192.0.2.7", 50_000), ("192.0.2.1", 9000)
PEER_6, LOCAL_6 = ("2001:db8::7%eth0", 50_000, 0, 2), ("2001:db8::1", 9000, 0, 0)
HEADER = header("0.1.0", ["echo", "other"])


@dataclass(frozen=True, slots=True)
class Packet:
    """A block as this file's own eyes see it."""

    interface: int
    at_ns: int
    ip: bytes
    comment: str
    direction: int

    @property
    def is_ipv6(self) -> bool:
        return self.ip[0] >> 4 == 6

    @property
    def addresses(self) -> bytes:
        return self.ip[8:40] if self.is_ipv6 else self.ip[12:20]

    @property
    def protocol(self) -> int:
        return self.ip[6] if self.is_ipv6 else self.ip[9]

    @property
    def segment(self) -> bytes:
        return self.ip[40:] if self.is_ipv6 else self.ip[20:]

    @property
    def data(self) -> bytes:
        return self.segment[(self.segment[12] >> 4) * 4 :] if self.protocol == 6 else self.segment[8:]

    @property
    def flags(self) -> int:
        return self.segment[13]

    @property
    def numbers(self) -> tuple[int, int]:
        seq, ack = struct.unpack_from(">II", self.segment, 4)
        return seq, ack

    @property
    def ports(self) -> tuple[int, int]:
        source, target = struct.unpack_from(">HH", self.segment)
        return source, target


def blocks(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        kind, size = struct.unpack_from(">II", data)
        assert size % 4 == 0
        assert struct.unpack_from(">I", data, size - 4) == (size,)
        yield kind, data[8 : size - 4]
        data = data[size:]


def options(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while data:
        code, size = struct.unpack_from(">HH", data)
        if code == 0:
            assert data == bytes(4)
        found[code] = data[4 : 4 + size]
        data = data[4 + size + -size % 4 :]
    return found


def packets(data: bytes) -> list[Packet]:
    found = []
    for kind, body in blocks(data):
        assert kind == 6
        interface, high, low, size, full = struct.unpack_from(">IIIII", body)
        assert size == full
        told = options(body[20 + size + -size % 4 :])
        ip = body[20 : 20 + size]
        comment = told.get(1, b"").decode()
        found.append(Packet(interface, high << 32 | low, ip, comment, int.from_bytes(told[2])))
    return found


def words_sum(data: bytes) -> int:
    """Return the sum of RFC 1071, word by word."""
    total = 0
    for place in range(0, len(data), 2):
        total += int.from_bytes(data[place : place + 2].ljust(2, b"\0"))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def assert_right(packet: Packet) -> None:
    """Check lengths and checksums by the words of the RFCs."""
    size = len(packet.segment)
    if packet.is_ipv6:
        assert int.from_bytes(packet.ip[4:6]) == size
    else:
        assert packet.ip[0] == 0x45
        assert int.from_bytes(packet.ip[2:4]) == len(packet.ip)
        assert words_sum(packet.ip[:20]) == 0xFFFF
    pseudo = packet.addresses + struct.pack(">II", size, packet.protocol)
    assert words_sum(pseudo + packet.segment) == 0xFFFF


def stream(peer: Any = PEER, local: Any = LOCAL, serial: int = 3) -> Stream:
    return Stream(0, peer, local, "slot 1; echo-3", serial)


def say(flow: Stream, said: Sequence[tuple[bool, bytes]]) -> bytes:
    """Return a whole connection in which this was said, a microsecond between each."""
    written = [flow.opened(AT)]
    for place, (is_received, data) in enumerate(said, start=1):
        written.append((flow.received if is_received else flow.sent)(AT + place * 1000, data))
    return b"".join([*written, flow.closed(AT + 1_000_000, "done")])


def chunks_of(said: Sequence[tuple[bool, bytes]]) -> tuple[Chunk, ...]:
    return tuple(Chunk(is_in, AT + place * 1000, data) for place, (is_in, data) in enumerate(said, start=1))


def read_one(data: bytes) -> Captured:
    (captured,) = read_streams(data)
    return captured
