"""Reads what `prefork.pcapng` has written: the connections of a capture, and what was said on each, in order.

Blocks and options that are not known are skipped, as the format asks for; lengths, checksums and sequence
numbers must be right. What is kept is bounded, whatever a file says.

Knows: blocks, packets, the order of bytes. Does not know: who captured them, what they are wanted for.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, BinaryIO, NamedTuple

from prefork.errors import RemoteProtocolError
from prefork.pcapng import (
    ACK,
    BYTE_ORDER,
    COMMENT,
    ENHANCED_PACKET,
    FIN,
    INTERFACE,
    NAME,
    NANOSECONDS,
    PACKET_FLAGS,
    PSH,
    RAW_IP,
    RST,
    SECTION,
    SYN,
    TCP,
    TIME_RESOLUTION,
    UDP,
    sum_words,
)

MAX_BLOCK_BYTES = 16 * 1024 * 1024  # as Wireshark has it, MAX_BLOCK_SIZE of wiretap/pcapng.c
MAX_KEPT_BYTES = 256 * 1024 * 1024
COST_BYTES = 500  # of Python's objects for a packet, a connection, an interface

_BLOCK = struct.Struct(">II")
_LENGTH = struct.Struct(">I")
_OPTION = struct.Struct(">HH")
_SECTION = struct.Struct(">IHHq")
_INTERFACE = struct.Struct(">HHI")
_PACKET = struct.Struct(">IQII")
_IPV4 = struct.Struct(">2xHHHxB2x4s4s")
_IPV6 = struct.Struct(">IHBx16s16s")
_TCP = struct.Struct(">HHIIBB6x")
_UDP = struct.Struct(">HHH2x")
_FRAGMENT = 0x3FFF  # more of them, or an offset
_INBOUND, _OUTBOUND = 1, 2

_End = tuple[bytes, int]
_Key = tuple[int, int, int, _End, _End]


@dataclass(frozen=True, slots=True)
class Chunk:
    """What was said at once; no bytes: the peer ended its input.

    Attributes:
        at_ns: nanoseconds since 1970.
    """

    is_received: bool
    at_ns: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Captured:
    """One connection, or the datagrams exchanged with one peer.

    Attributes:
        number: its place in the file, from 1 on.
        comment: of its first packet.
        end: why it was closed, an empty string if nobody said; None if the capture ended before.
    """

    number: int
    listener: str
    peer: tuple[str, int]
    local: tuple[str, int]
    comment: str
    is_datagram: bool
    chunks: tuple[Chunk, ...]
    end: str | None


def read_streams(source: bytes | BinaryIO, max_bytes: int = MAX_KEPT_BYTES) -> list[Captured]:
    """Return the connections of a capture in the order in which they began.

    Args:
        source: a file from where it stands, or what it holds.
        max_bytes: of memory, about.

    Raises:
        RemoteProtocolError: this was not written by prefork, it was cut or changed, or it is too large; the
            message names the byte where the block begins in which that is seen.
    """
    reader = _Reader(max_bytes)
    offset = 0
    try:
        for kind, body in _blocks(io.BytesIO(source) if isinstance(source, bytes) else source):
            reader.take(kind, body)
            offset += len(body) + 12
    except ValueError as error:
        raise RemoteProtocolError(f"cannot read the capture at byte {offset}: {error}") from error
    return [flow.finish() for flow in reader.flows]


# --- blocks ---


def _blocks(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield the kind and the body of each block."""
    is_first = True
    while start := file.read(_BLOCK.size):
        if len(start) < _BLOCK.size:
            raise ValueError(f"it ends after {len(start)} bytes of a block")
        kind, size = _BLOCK.unpack(start)
        if is_first and kind != SECTION:
            raise ValueError("this is no pcapng file")
        if size % 4 or not 12 <= size <= MAX_BLOCK_BYTES:
            raise ValueError(f"a block cannot have {size} bytes")
        body = file.read(size - 8)
        if len(body) < size - 8:
            raise ValueError(f"it ends after {len(body) + 8} of the {size} bytes of a block")
        if _LENGTH.unpack_from(body, size - 12) != (size,):
            raise ValueError("the two lengths of a block differ")
        yield kind, body[:-4]
        is_first = False
    if is_first:
        raise ValueError("it is empty")


def _read_options(body: bytes, place: int) -> dict[int, bytes]:
    """Return the first option of each code."""
    found: dict[int, bytes] = {}
    while place < len(body):
        if place + 4 > len(body):
            raise ValueError("an option is cut")
        code, size = _OPTION.unpack_from(body, place)
        if not code:
            break
        place += 4
        if place + size > len(body):
            raise ValueError(f"an option of {size} bytes is longer than its block")
        found.setdefault(code, body[place : place + size])
        place += size + -size % 4
    return found


def _unpack(form: struct.Struct, body: bytes, what: str) -> tuple[Any, ...]:
    if len(body) < form.size:
        raise ValueError(f"{what} is cut")
    return form.unpack_from(body)


class _Interface(NamedTuple):
    name: str
    unit_ns: int


def _read_interface(body: bytes) -> _Interface:
    link, _, _ = _unpack(_INTERFACE, body, "an interface")
    if link != RAW_IP:
        raise ValueError(f"prefork writes packets of the link type {RAW_IP}, not {link}")
    options = _read_options(body, _INTERFACE.size)
    power = int.from_bytes(options.get(TIME_RESOLUTION, b"\x06"))
    if power > NANOSECONDS:
        raise ValueError(f"times cannot be read in the resolution {power:#x}")
    return _Interface(options.get(NAME, b"").decode("utf-8", "replace"), 10 ** (NANOSECONDS - power))


# --- packets ---


class _Datagram(NamedTuple):
    """What IP carries."""

    protocol: int
    identity: int
    source: bytes
    target: bytes
    segment: bytes


class _Packet(NamedTuple):
    """What a block tells of one packet.

    Attributes:
        is_received: None: the block does not say.
        key: of the flow in this direction.
        back: of the flow in the other.
        flags: of TCP, as is `begin`, its sequence number.
    """

    is_received: bool | None
    at_ns: int
    comment: str
    key: _Key
    back: _Key
    begin: int
    flags: int
    data: bytes


def _read_ip(data: bytes) -> _Datagram:
    if data[:1] == b"\x45":
        size, identity, fragment, protocol, source, target = _unpack(_IPV4, data, "a packet")
        if size == len(data) and not fragment & _FRAGMENT:
            return _Datagram(protocol, identity, source, target, data[_IPV4.size :])
    elif data[:1] == b"\x60":
        label, size, protocol, source, target = _unpack(_IPV6, data, "a packet")
        if size == len(data) - _IPV6.size:
            return _Datagram(protocol, label & 0xFFFF, source, target, data[_IPV6.size :])
    raise ValueError("a packet is not as prefork writes them")


def _read_packet(body: bytes, interfaces: list[_Interface]) -> _Packet:
    number, time, size, full_size = _unpack(_PACKET, body, "a packet")
    if number >= len(interfaces):
        raise ValueError(f"there is no interface {number}")
    end = _PACKET.size + size
    if size != full_size or end > len(body):
        raise ValueError("a packet is cut")
    options = _read_options(body, end + -size % 4)
    ip = _read_ip(body[_PACKET.size : end])
    begin = flags = 0
    if ip.protocol == TCP:
        source, target, begin, _, words, flags = _unpack(_TCP, ip.segment, "a segment")
        place = words >> 4 << 2
        if not _TCP.size <= place <= len(ip.segment):
            raise ValueError(f"a segment's header cannot have {place} bytes")
    elif ip.protocol == UDP:
        source, target, told = _unpack(_UDP, ip.segment, "a datagram")
        place = _UDP.size
        if told != len(ip.segment):
            raise ValueError("the two lengths of a datagram differ")
    else:
        raise ValueError(f"prefork writes no packets of the protocol {ip.protocol}")
    if (sum_words(ip.source + ip.target + ip.segment) + ip.protocol + len(ip.segment)) % 0xFFFF:
        raise ValueError("a packet was changed: its checksum is another")
    way = int.from_bytes(options.get(PACKET_FLAGS, b"")) & 3
    here, there = (ip.source, source), (ip.target, target)
    return _Packet(
        {_INBOUND: True, _OUTBOUND: False}.get(way),
        time * interfaces[number].unit_ns,
        options.get(COMMENT, b"").decode("utf-8", "replace"),
        (number, ip.protocol, ip.identity, here, there),
        (number, ip.protocol, ip.identity, there, here),
        begin,
        flags,
        ip.segment[place:],
    )


# --- flows ---


class _Flow:
    """A connection as far as it has been read."""

    __slots__ = ("_chunks", "_first", "_listener", "_number", "_opened", "end", "next")

    def __init__(self, number: int, listener: str, first: _Packet) -> None:
        self.end: str | None = None
        self.next: dict[bool, int] = {}  # sequence numbers, by direction
        self._number, self._listener, self._first = number, listener, first
        self._chunks: list[Chunk] = []
        self._opened: tuple[bool, int, bytearray] | None = None  # a chunk of which more may come

    def say(self, is_received: bool, at_ns: int, data: bytes, is_whole: bool) -> None:
        """Take bytes; those that are not whole go on with the next."""
        if self._opened is not None and self._opened[0] is not is_received:
            self._close_chunk()
        if self._opened is None and is_whole:
            self._chunks.append(Chunk(is_received, at_ns, data))
            return
        if self._opened is None:
            self._opened = is_received, at_ns, bytearray()
        self._opened[2].extend(data)
        if is_whole:
            self._close_chunk()

    def _close_chunk(self) -> None:
        if self._opened is not None:
            is_received, at_ns, data = self._opened
            self._chunks.append(Chunk(is_received, at_ns, bytes(data)))
            self._opened = None

    def finish(self) -> Captured:
        """Return what was read."""
        self._close_chunk()
        first = self._first
        ends = [(str(ip_address(host)), port) for host, port in first.key[3:]]
        peer, local = reversed(ends) if first.is_received is False else ends
        is_datagram, chunks = first.key[1] == UDP, tuple(self._chunks)
        return Captured(self._number, self._listener, peer, local, first.comment, is_datagram, chunks, self.end)


class _Reader:
    """Takes block after block."""

    __slots__ = ("_interfaces", "_left_bytes", "_max_bytes", "_open", "flows")

    def __init__(self, max_bytes: int) -> None:
        self.flows: list[_Flow] = []
        self._open: dict[_Key, _Flow] = {}  # by the key of what is received
        self._interfaces: list[_Interface] = []
        self._max_bytes = self._left_bytes = max_bytes

    def take(self, kind: int, body: bytes) -> None:
        """Take one block; those of other kinds say nothing about what was said."""
        if kind == SECTION:
            order, major, _, _ = _unpack(_SECTION, body, "a section")
            if (order, major) != (BYTE_ORDER, 1):
                raise ValueError("a section is of another byte order or version")
            self._interfaces = []
            self._open = {}
        elif kind == INTERFACE:
            self._keep(len(body))
            self._interfaces.append(_read_interface(body))
        elif kind == ENHANCED_PACKET:
            self._keep(len(body))
            packet = _read_packet(body, self._interfaces)
            if packet.key[1] == UDP:
                self._take_datagram(packet)
            else:
                self._take_segment(packet)

    def _keep(self, count: int) -> None:
        self._left_bytes -= count + COST_BYTES
        if self._left_bytes < 0:
            raise ValueError(f"all before would need more than {self._max_bytes} bytes of memory")

    def _begin(self, packet: _Packet) -> _Flow:
        listener = self._interfaces[packet.key[0]].name
        flow = _Flow(len(self.flows) + 1, listener, packet)
        self.flows.append(flow)
        self._open[packet.back if packet.is_received is False else packet.key] = flow
        return flow

    def _find(self, packet: _Packet) -> tuple[_Flow | None, bool]:
        """Return the flow of a packet, and whether it was received."""
        is_received = packet.is_received
        if is_received is None:
            is_received = packet.back not in self._open or packet.key in self._open
        return self._open.get(packet.key if is_received else packet.back), is_received

    def _take_datagram(self, packet: _Packet) -> None:
        flow, is_received = self._find(packet)
        flow = flow or self._begin(packet)
        flow.say(is_received, packet.at_ns, packet.data, is_whole=True)

    def _take_segment(self, packet: _Packet) -> None:
        flags = packet.flags
        if flags & SYN and not flags & ACK:
            self._begin(packet).next[True] = packet.begin + 1 & 0xFFFF_FFFF
            return
        flow, is_received = self._find(packet)
        if flow is None:
            raise ValueError("a segment belongs to no connection that begins in this file")
        if flags & SYN:
            flow.next[is_received] = packet.begin + 1 & 0xFFFF_FFFF
        elif packet.data or flags & (FIN | RST):
            self._follow(flow, packet, is_received)

    def _follow(self, flow: _Flow, packet: _Packet, is_received: bool) -> None:
        expected = flow.next.get(is_received)
        if packet.begin != expected:
            raise ValueError(f"bytes are missing: the sequence goes on with {packet.begin}, not {expected}")
        is_end = packet.flags & FIN > 0
        flow.next[is_received] = packet.begin + len(packet.data) + is_end & 0xFFFF_FFFF
        if packet.data:
            flow.say(is_received, packet.at_ns, packet.data, packet.flags & PSH > 0)
        if flow.end is None and is_end and is_received:
            flow.say(True, packet.at_ns, b"", is_whole=True)
        elif flow.end is None and packet.flags & (FIN | RST):
            flow.end = packet.comment
