"""What handlers see as a file for Wireshark: packets of TCP and UDP made up around the bytes, as pcapng blocks.

Everything returns whole blocks and opens no file, so that several processes may append to one file, each by one
write(2) with O_APPEND. Follows draft-ietf-opsawg-pcapng (4.1 to 4.3), RFC 9293, 768, 791 and 8200.

Knows: blocks, headers of packets, checksums. Does not know: files, sockets, connections, what is worth a block.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from socket import AF_INET, AF_INET6, inet_pton
from typing import Any, ClassVar

SECTION, INTERFACE, ENHANCED_PACKET = 0x0A0D_0D0A, 1, 6
BYTE_ORDER = 0x1A2B_3C4D
RAW_IP = 101  # LINKTYPE_RAW: the first nibble says whether it is IPv4 or IPv6
NANOSECONDS = 9  # if_tsresol: negative power of 10
COMMENT, NAME, TIME_RESOLUTION, APPLICATION, PACKET_FLAGS = 1, 2, 9, 4, 2  # option codes of the blocks above
MAX_TEXT_BYTES = 4096  # of a comment; what is longer is cut
MAX_SEGMENT_BYTES = 65_000
MAX_DATAGRAM_BYTES = 65_507  # in IPv4, of which the total length has 16 bits; longer ones of unix are cut

Buffer = bytes | bytearray | memoryview

TCP, UDP = 6, 17
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16

# Blocks are in network order, as packets are: one call packs what goes before a packet, and its header of IP.
_BLOCK = struct.Struct(">II")
_LENGTH = struct.Struct(">I")
_OPTION = struct.Struct(">HH")
_SECTION = struct.Struct(">IHHq")
_INTERFACE = struct.Struct(">HHI")
_PACKET_IPV4 = struct.Struct(">IIIQIIHHHHHH4s4s")
_PACKET_IPV6 = struct.Struct(">IIIQIIIHH16s16s")
_TCP = struct.Struct(">HHIIHHHH")
_UDP = struct.Struct(">HHHH")

_PACKET_BYTES = 28  # of a block before its packet
_IPV4_BYTES, _IPV6_BYTES = 20, 40
_DONT_FRAGMENT = 0x4000
_HOPS = 64
_TCP_BYTES, _TCP_WORDS = 20, 5 << 12  # a header of 5 words of 32 bits, in the place of its flags
_WINDOW = 65_535
# RFC 9293, 3.2, largest segment; no operation; RFC 7323, 2.2: else many bytes would seem to fill the window.
_SYN_OPTIONS = struct.pack(">BBHBBBB", 2, 4, MAX_SEGMENT_BYTES, 1, 3, 3, 14)
_COUNTED = SYN | FIN  # as a byte of the sequence
_PADDING = tuple(map(bytes, range(4)))
# The options of a packet: whether it came or went, and their end.
_INBOUND, _OUTBOUND = (_OPTION.pack(PACKET_FLAGS, 4) + way.to_bytes(4) + bytes(4) for way in (1, 2))
_MAPPED = bytes(10) + b"\xff\xff"
_UNIX_HOST, _UNIX_PORT = "127.0.0.1", 1
_FREE_PORTS = range(1024, 65_536)


class Close(enum.Enum):
    """How a connection ended."""

    FINISHED = enum.auto()
    RESET_BY_PEER = enum.auto()
    RESET_BY_US = enum.auto()


def header(version: str, listeners: Sequence[str]) -> bytes:
    """Return what a file begins with; whoever opens the file writes it, once.

    Args:
        version: of prefork.
        listeners: their names; packets refer to them by their places.
    """
    application = _option(APPLICATION, f"prefork {version}".encode())
    section = _block(SECTION, _SECTION.pack(BYTE_ORDER, 1, 0, -1) + application + _option(0, b""))
    return section + b"".join(map(_interface, listeners))


def _interface(name: str) -> bytes:
    resolution = _option(TIME_RESOLUTION, bytes([NANOSECONDS]))
    return _block(
        INTERFACE, _INTERFACE.pack(RAW_IP, 0, 0) + _option(NAME, _text(name)) + resolution + _option(0, b"")
    )


def _block(kind: int, body: bytes) -> bytes:
    size = len(body) + 12
    return _BLOCK.pack(kind, size) + body + _LENGTH.pack(size)


def _option(code: int, value: bytes) -> bytes:
    return _OPTION.pack(code, len(value)) + value + bytes(-len(value) % 4)


def _text(text: str) -> bytes:
    data = text.encode("utf-8", "backslashreplace")
    return data if len(data) <= MAX_TEXT_BYTES else data[:MAX_TEXT_BYTES].decode("utf-8", "ignore").encode()


# --- checksums ---


def sum_words(data: Buffer) -> int:
    """Return the sum of RFC 1071, less than 65,535, where that is written 0; odd bytes are padded with zero.

    65,536 is 1 modulo 65,535, so that a long number is congruent to the sum of its words.
    """
    rest = int.from_bytes(data) % 0xFFFF
    return (rest << 8) % 0xFFFF if len(data) & 1 else rest


def _checksum(total: int) -> int:
    return -total % 0xFFFF  # 0, never 65,535: RFC 1624, 3


# --- ends ---


@dataclass(frozen=True, slots=True)
class _End:
    host: bytes  # 4 or 16
    port: int


def _pair(peer: Any, local: Any, serial: int) -> tuple[_End, _End]:
    """Return both ends in one family, IPv4 if both can be written so."""
    number, port = divmod(serial, len(_FREE_PORTS))
    made_up = bytes([127]) + ((number + 1) % (1 << 24)).to_bytes(3)
    there = _inet(peer) or _End(made_up, _FREE_PORTS[port])
    here = _inet(local) or _End(inet_pton(AF_INET, _UNIX_HOST), _UNIX_PORT)
    if len(there.host) != len(here.host):
        there, here = (e if len(e.host) == 16 else _End(_MAPPED + e.host, e.port) for e in (there, here))
    return there, here


def _inet(address: Any) -> _End | None:
    """Return an address of accept(2), (host, port, …), packed; None if it is of another kind."""
    if not isinstance(address, tuple) or len(address) < 2 or not isinstance(address[0], str):
        return None
    host = address[0].partition("%")[0]
    try:
        packed = inet_pton(AF_INET6 if ":" in host else AF_INET, host)
        return _End(packed[12:] if packed.startswith(_MAPPED) else packed, int(address[1]) & 0xFFFF)
    except (OSError, ValueError):
        return None


class _Way:
    """One direction of a flow: what all its packets have in common."""

    __slots__ = ("_identity", "_ip_sum", "_protocol", "_source", "_target", "next", "ports", "sum")

    def __init__(self, source: _End, target: _End, protocol: int, identity: int) -> None:
        self.ports = source.port, target.port
        self.next = 0  # sequence number of the next byte
        self._source, self._target = source.host, target.host
        self._protocol, self._identity = protocol, identity
        addresses = sum_words(source.host + target.host)
        self._ip_sum = 0x4500 + identity + _DONT_FRAGMENT + (_HOPS << 8 | protocol) + addresses
        # Of the pseudo header, RFC 9293, 3.1, without the length, and of the ports.
        self.sum = addresses + protocol + source.port + target.port

    def begin(self, interface: int, at_ns: int, size: int, rest: int) -> bytes:
        """Return what goes before a segment of so many bytes, in a block with so many behind it."""
        if len(self._source) == 4:
            full = _IPV4_BYTES + size
            return _PACKET_IPV4.pack(
                ENHANCED_PACKET,
                _PACKET_BYTES + full + rest,
                interface,
                at_ns,
                full,
                full,
                0x4500,
                full,
                self._identity,
                _DONT_FRAGMENT,
                _HOPS << 8 | self._protocol,
                _checksum(self._ip_sum + full),
                self._source,
                self._target,
            )
        full = _IPV6_BYTES + size
        block = ENHANCED_PACKET, _PACKET_BYTES + full + rest, interface, at_ns, full, full
        words = 6 << 28 | self._identity, size, self._protocol << 8 | _HOPS
        return _PACKET_IPV6.pack(*block, *words, self._source, self._target)


class Flow:
    """What goes to and fro between two addresses."""

    __slots__ = ("_comment", "_in", "_interface", "_out")
    PROTOCOL: ClassVar[int]

    def __init__(self, interface: int, peer: Any, local: Any, comment: str, serial: int) -> None:
        """Begin a flow.

        Args:
            interface: the listener's place in the header.
            peer: as accept(2) tells it. Ends that are not (host, port, …) are told in the comment, and stand in
                the packets as 127.0.0.1 port 1, those of peers as a number of 127.0.0.0/8.
            local: of the listener's side.
            comment: on the first packet, such as slot, id, version of TLS.
            serial: a number that no other flow of the file has, such as `slot << 32 | serial`; it keeps
                apart those of equal addresses.
        """
        real = [str(end) for end in (peer, local) if _inet(end) is None and end not in (None, "", b"")]
        self._comment = "; ".join(filter(None, (comment, *real)))
        self._interface = interface
        there, here = _pair(peer, local, serial)
        # Of packets that are not cut, this field may have any value: RFC 6864, 4.1.
        self._in = _Way(there, here, self.PROTOCOL, serial & 0xFFFF)
        self._out = _Way(here, there, self.PROTOCOL, serial & 0xFFFF)

    def _pack(self, way: _Way, at_ns: int, head: bytes, data: Buffer, comment: str) -> bytes:
        options = _INBOUND if way is self._in else _OUTBOUND
        if comment:
            options = _option(COMMENT, _text(comment)) + options
        size = len(head) + len(data)
        pad = -size % 4
        start = way.begin(self._interface, at_ns, size, pad + len(options) + 4)
        return b"".join((start, head, data, _PADDING[pad], options, start[4:8]))  # the block's length again


class Stream(Flow):
    """A connection as the packets of TCP that could have carried it.

    Times are nanoseconds since 1970 (`time.time_ns()`). Each method returns whole blocks.
    """

    __slots__ = ("_is_input_ended",)
    PROTOCOL = TCP

    def __init__(self, interface: int, peer: Any, local: Any, comment: str, serial: int) -> None:
        """Begin a connection; the arguments are those of `Flow`."""
        super().__init__(interface, peer, local, comment, serial)
        self._is_input_ended = False

    def opened(self, at_ns: int) -> bytes:
        """Return the handshake, with the comment; it comes before all else, also in the middle of a connection.

        Sequence numbers begin with the clock, RFC 9293, 3.4.1: the next connection of equal addresses is then
        seen to be another.
        """
        self._in.next = self._out.next = at_ns // 1000 & 0xFFFF_FFFF
        return (
            self._segment(self._in, at_ns, SYN, comment=self._comment)
            + self._segment(self._out, at_ns, SYN | ACK)
            + self._segment(self._in, at_ns, ACK)
        )

    def received(self, at_ns: int, data: Buffer) -> bytes:
        """Return what the peer said; PSH ends what was said at once."""
        return self._carry(self._in, at_ns, data)

    def sent(self, at_ns: int, data: Buffer) -> bytes:
        """Return what the peer was told."""
        return self._carry(self._out, at_ns, data)

    def input_ended(self, at_ns: int) -> bytes:
        """Return the end of what the peer says, while it may still be answered; said twice, nothing."""
        if self._is_input_ended:
            return b""
        self._is_input_ended = True
        return self._segment(self._in, at_ns, FIN | ACK)

    def closed(self, at_ns: int, reason: str, how: Close = Close.FINISHED) -> bytes:
        """Return the end of the connection, with the reason as a comment; nothing follows it."""
        if how is not Close.FINISHED:
            way = self._in if how is Close.RESET_BY_PEER else self._out
            return self._segment(way, at_ns, RST | ACK, comment=reason)
        blocks = self._segment(self._out, at_ns, FIN | ACK, comment=reason)
        if self._is_input_ended:
            return blocks + self._segment(self._in, at_ns, ACK)
        return blocks + self.input_ended(at_ns) + self._segment(self._out, at_ns, ACK)

    def _carry(self, way: _Way, at_ns: int, data: Buffer) -> bytes:
        size = len(data)
        if size <= MAX_SEGMENT_BYTES:
            return self._segment(way, at_ns, PSH | ACK, data) if size else b""
        blocks, view = [], memoryview(data)
        for begin in range(0, size, MAX_SEGMENT_BYTES):
            end = begin + MAX_SEGMENT_BYTES
            flags = PSH | ACK if end >= size else ACK
            blocks.append(self._segment(way, at_ns, flags, view[begin:end]))
        return b"".join(blocks)

    def _segment(self, way: _Way, at_ns: int, flags: int, data: Buffer = b"", comment: str = "") -> bytes:
        back = self._out if way is self._in else self._in
        ack = back.next if flags & ACK else 0
        begin, size = way.next, len(data)
        way.next = begin + size + (1 if flags & _COUNTED else 0) & 0xFFFF_FFFF
        words = _TCP_WORDS | flags
        if flags & SYN:
            data, size = _SYN_OPTIONS, len(_SYN_OPTIONS)
            words += size // 4 << 12
        total = way.sum + _TCP_BYTES + size + begin + ack + words + _WINDOW + sum_words(data)
        head = _TCP.pack(*way.ports, begin, ack, words, _WINDOW, _checksum(total), 0)
        return self._pack(way, at_ns, head, data, comment)


class Datagrams(Flow):
    """What is exchanged with one peer in datagrams."""

    __slots__ = ()
    PROTOCOL = UDP

    def datagram(self, at_ns: int, data: Buffer, is_received: bool) -> bytes:
        """Return one datagram; the first has the comment. More than 65,507 bytes are cut, and that is told."""
        comment, self._comment = self._comment, ""
        kept = data[:MAX_DATAGRAM_BYTES]
        if len(kept) < len(data):
            comment = "; ".join(filter(None, (comment, f"cut, of {len(data)} bytes")))
        way, size = self._in if is_received else self._out, _UDP.size + len(kept)
        # 0 would say that there is no checksum: RFC 768.
        check = _checksum(way.sum + size + size + sum_words(kept)) or 0xFFFF
        return self._pack(way, at_ns, _UDP.pack(*way.ports, size, check), kept, comment)
