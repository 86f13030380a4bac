"""A ClientHello made by hand, so that any field of it can be wrong.

Knows: RFC 5246, 7.4.1.2 and RFC 8446, 4.1.2. Does not know: who reads it, what is answered.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise

HANDSHAKE, ALERT = 22, 21  # content types, RFC 8446, 5.1
SERVER_HELLO = 2
SERVER_NAME, SUPPORTED_GROUPS, POINT_FORMATS, SIGNATURES, ALPN = 0, 10, 11, 13, 16
STRONG = (0xC02B, 0xC02F, 0xC02C, 0xC030)  # ECDHE with AES-GCM, for either kind of key
TLS_1_2 = 0x0303


def extension(kind: int, content: bytes) -> bytes:
    return struct.pack("!HH", kind, len(content)) + content


def _short(content: bytes) -> bytes:
    return struct.pack("!H", len(content)) + content


def alpn(*names: bytes) -> bytes:
    """Return the extension that offers protocols, RFC 7301, 3.1."""
    return extension(ALPN, _short(b"".join(bytes((len(name),)) + name for name in names)))


def server_name(name: bytes, kind: int = 0) -> bytes:
    """Return the extension that asks for a server by its name, RFC 6066, 3."""
    return extension(SERVER_NAME, _short(bytes((kind,)) + _short(name)))


USUAL = (
    extension(SUPPORTED_GROUPS, _short(struct.pack("!HH", 0x001D, 0x0017))),
    extension(POINT_FORMATS, b"\1\0"),
    extension(SIGNATURES, _short(struct.pack("!6H", 0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501))),
)


def message(
    *extensions: bytes, suites: Sequence[int] = STRONG, version: int = TLS_1_2, compressions: bytes = b"\0"
) -> bytes:
    """Return the handshake message, without records."""
    body = struct.pack("!H", version) + bytes(range(32)) + b"\0"
    body += _short(struct.pack(f"!{len(suites)}H", *suites))
    body += bytes((len(compressions),)) + compressions
    body += _short(b"".join((*USUAL, *extensions)))
    return b"\1" + len(body).to_bytes(3, "big") + body


def records(content: bytes, *cuts: int, kind: int = HANDSHAKE) -> bytes:
    """Return a message in records, cut at some places."""
    parts = [content[start:end] for start, end in pairwise((0, *cuts, len(content)))]
    return b"".join(struct.pack("!BHH", kind, 0x0301, len(part)) + part for part in parts)


def payload(record: bytes) -> bytes:
    """Return what one record holds."""
    return record[5:]
