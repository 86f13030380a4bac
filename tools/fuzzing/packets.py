"""Targets that read binary packets: PROXY headers, TLS hellos, control messages, words between processes, bans.

Knows: how good ones are made, and what must hold of whole ones and of their beginnings.
Does not know: connections, processes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from random import Random
from typing import Any
from zlib import crc32

from prefork.errors import ChannelError, PreforkError, RemoteProtocolError
from prefork.firewall import Bans
from prefork.net.hello import MAX_HELLO_BYTES, read_offer
from prefork.net.proxy_header import MAX_HEADER_BYTES, V2_SIGNATURE, crc32c, parse_header
from prefork.process import messages
from prefork.watch import Watch
from prefork.wire import HEADER, REQUEST_BYTES, pack, unpack
from tools.fuzzing.frames import check_words, cut
from tools.fuzzing.mutation import Mutator
from tools.fuzzing.target import Broken, Target

PREFIXES = 4  # beginnings of an input that are read as well
TCP4 = bytes.fromhex("c0a80001 c0a8000b dc04 01bb")
TCP6 = bytes.fromhex("20010db8000000000000000000000001 20010db800000000000000000000000b dc04 01bb")
TLS = b"\x20\0\x17\x07\0\0\0\0\x21\0\x07TLSv1.3\x22\0\x05a.com"
V1_HEADERS = (
    b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\nGET /",
    b"PROXY TCP6 2001:db8::1 ::ffff:192.0.2.1 0 65535\r\n",
    b"PROXY UNKNOWN\r\n",
    b"PROXY UNKNOWN ffff:: \xff 65535 65535\r\n",
)
REQUESTS = tuple(
    pack({"id": 1, "command": command, "arguments": arguments})
    for command, arguments in (
        ("health", {}),
        ("ban", {"network": "10.0.0.0/8", "duration": "10m"}),
        ("x", {"a": [1.5]}),
    )
)
BODIES = (
    *(b"{}", b"[]", b"null", b"", b'{"a":' * 50 + b"1" + b"}" * 50, b"[" * 3000, b'{"id": ' + b"9" * 5000 + b"}"),
    *(
        b'{"id": NaN}',
        b'{"id": 1e999}',
        b'{"a": "\\ud800"}',
        b"\xff\xfe{\0}\0",
        b'{"id": 1, "id": 2}',
        b"\xef\xbb\xbf{}",
    ),
)
WORDS_BETWEEN: tuple[messages.Fact | messages.Order, ...] = (
    *(messages.Spawned(1), messages.Ready(), messages.Failed("why", "Trace\n  back"), messages.Tired("TERM")),
    *(messages.Spawn(1, 2), messages.Cover("echo", 1, next(iter(Watch)), 3), messages.Uncover("echo", 1)),
    *(messages.Drain(1.5, 0.0, 2.0, True), messages.ReopenLogs()),
)
# Requests of the fewest bytes, `{}`, cost 8 µs each: 90 ms when 70,000 bytes are nothing but these.
CONTROL_SECONDS = 0.25


def build_packet_targets() -> Iterator[Target]:
    """Return the targets."""
    make = Mutator(
        tuple(_headers()), (V2_SIGNATURE, b"PROXY ", b"TCP4 ", b"\r\n", b" ", b"\x21\x11", b"\x03\0\x04")
    ).make
    yield Target("proxy", "PROXY headers, parse_header()", make, read_proxy, (RemoteProtocolError,))
    hellos = (
        _hello(),
        _hello(b"h2", b"http/1.1"),
        _in_pieces(_hello(b"echo"), 7),
        b"\x16\x03\x01\0\0" * 9,
        b"GET / HTTP/1.1",
    )
    make = Mutator(hellos, (b"\x16\x03\x01\0\0", b"\x16\x03\x01\0\x01\x01", b"\0\x10\0\x05\0\x03\x02h2")).make
    yield Target("hello", "the first words of TLS clients, read_offer()", make, read_hello)
    make = Mutator((*REQUESTS, *map(_with_size, BODIES)), (*BODIES, *REQUESTS, b"\0\0\0\x02{}"), 70_000).make
    control = ("control", "the control socket, wire.unpack()", make, read_control, (RemoteProtocolError,))
    yield Target(*control, CONTROL_SECONDS)
    names = tuple(name.encode() for name in messages.KINDS)
    make = Mutator(
        tuple(map(messages.encode, WORDS_BETWEEN)) + BODIES, (*names, *BODIES, b'"watch"', b'"pid"')
    ).make
    yield Target("messages", "words between processes, messages.decode()", make, read_message, (ChannelError,))
    yield Target(
        "bans", "bans in shared memory, Bans.unpack()", Mutator(tuple(_bans())).make, read_bans, (PreforkError,)
    )


def _headers() -> Iterator[bytes]:
    yield from V1_HEADERS
    for command, kind, content in (
        (0x21, 0x11, TCP4),
        (0x21, 0x21, TCP6),
        (0x21, 0x31, b"/run/a".ljust(108, b"\0") + b"\0b".ljust(108, b"\0")),
        (0x21, 0x11, TCP4 + TLS + b"\x02\0\x01a\x01\0\x02h2\x05\0\x01x\x04\0\x03\0\0\0"),
        (0x20, 0x00, b""),
        (0x21, 0x00, b"anything"),
        (0x21, 0x11, TCP4 + b"\xe0\0\0" * 1300),
    ):
        yield V2_SIGNATURE + struct.pack("!BBH", command, kind, len(content)) + content + b"GET /"
    summed = V2_SIGNATURE + struct.pack("!BBH", 0x21, 0x11, 19) + TCP4 + b"\x03\0\x04" + bytes(4)
    yield summed[:-4] + crc32c(summed).to_bytes(4, "big")


def _hello(*names: bytes) -> bytes:
    """Return a ClientHello of RFC 8446, 4.1.2, without chance in it: inputs are to be the same again."""
    offer = b"".join(bytes((len(name),)) + name for name in names)
    extensions = struct.pack("!HHHBH9s", 0, 14, 12, 0, 9, b"localhost") + struct.pack("!HHBH", 43, 3, 2, 0x0304)
    if names:
        extensions += struct.pack("!HHH", 16, len(offer) + 2, len(offer)) + offer
    body = b"\x03\x03" + bytes(range(32)) + b"\x20" + bytes(32) + b"\0\x04\x13\x01\xc0\x2f\x01\0"
    body += struct.pack("!H", len(extensions)) + extensions
    return struct.pack("!BHHB", 22, 0x0301, len(body) + 4, 1) + len(body).to_bytes(3, "big") + body


def _in_pieces(record: bytes, size: int) -> bytes:
    parts = [record[at : at + size] for at in range(5, len(record), size)]
    return b"".join(record[:3] + struct.pack("!H", len(part)) + part for part in parts)


def _with_size(body: bytes) -> bytes:
    return HEADER.pack(len(body)) + body


def _bans() -> Iterator[bytes]:
    bans = Bans()
    yield b""
    for network in ("10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "::/0"):
        bans.add(network, 1e6)
        yield bans.pack()


def beginnings(data: bytes) -> list[bytes]:
    """Return some beginnings of an input, the shortest first; which, follows from its bytes."""
    random = Random(crc32(data))
    return [data[:count] for count in sorted(random.randint(0, len(data)) for _ in range(PREFIXES))]


def read_proxy(data: bytes) -> None:
    """Read a header; a beginning of it is either not whole or says the same, and what is wrong stays wrong."""
    whole: Any = None
    try:
        whole = parse_header(data)
    except RemoteProtocolError as error:
        check_words(str(error))
        whole = error
    if whole is None and len(data) >= MAX_HEADER_BYTES:
        raise Broken("a header is not whole at its longest")
    for begun in beginnings(data):
        try:
            found = parse_header(begun)
        except RemoteProtocolError:
            if not isinstance(whole, RemoteProtocolError):
                raise Broken("a beginning is refused, and the whole is not") from None
            continue
        if found is not None and found != whole:
            raise Broken("a beginning says something else than the whole")
    if isinstance(whole, RemoteProtocolError):
        raise whole
    if whole is not None and not (0 < whole.size <= len(data) and whole == parse_header(data[: whole.size])):
        raise Broken("the size of a header is wrong")
    if whole is not None:
        check_words(repr([whole.authority, whole.alpn]))


def read_hello(data: bytes) -> None:
    """Read a hello; what a beginning says of it, it says for good."""
    data = data[:MAX_HELLO_BYTES]  # no more is ever looked at: what is not whole by then offers nothing
    offer = read_offer(data)
    for begun in beginnings(data):
        found = read_offer(begun)
        if found is not None and found != offer:
            raise Broken("a beginning says something else than the whole")


def read_control(data: bytes) -> None:
    """Take messages from a stream; they are the same in pieces."""
    found, error = _take([data])
    others, other = _take(cut(data, Random(crc32(data))))
    if repr(found) != repr(others) or str(error) != str(other):
        raise Broken("other messages come when a stream is cut")
    if error is not None:
        check_words(str(error))
        raise error


def _take(pieces: list[bytes]) -> tuple[list[Any], RemoteProtocolError | None]:
    buffer, found = bytearray(), []
    try:
        for piece in pieces:
            buffer += piece
            found += [*unpack(buffer, REQUEST_BYTES)]
            if len(buffer) > REQUEST_BYTES + HEADER.size:
                raise Broken("more is kept than a message may have")
    except RemoteProtocolError as error:
        return [], error
    return found, None


def read_message(data: bytes) -> None:
    """Read a word; what was taken is the same when it is written and read again."""
    message = messages.decode(data)
    if repr(messages.decode(messages.encode(message))) != repr(message):
        raise Broken("a word is another one when it is written and read again")


def read_bans(data: bytes) -> None:
    """Read bans and ask them."""
    bans = Bans.unpack(data)
    again = Bans.unpack(bans.pack())
    if again.pack() != bans.pack():
        raise Broken("bans are others when they are written and read again")
    for host in (bytes(4), b"\x0a\0\0\1", bytes(16), b"\x20\1\x0d\xb8" + bytes(12)):
        if bans.covers(host) != again.covers(host):
            raise Broken("an address is banned or not by the same bans")
    bans.entries()
    bans.expire(0.0)
