"""The first words of a TLS client, as far as they say which protocols it can speak.

OpenSSL goes on without ALPN when nothing fits, where RFC 7301, 3.2 wants a refusal; Python has no call to
change that.

Knows: ClientHello of RFC 8446, 4.1.2. Does not know: sockets, contexts.
"""

from __future__ import annotations

import struct

HANDSHAKE_RECORD, CLIENT_HELLO, ALPN = 22, 1, 16
RECORD_HEADER_BYTES = 5
MAX_HELLO_BYTES = 16_384 + RECORD_HEADER_BYTES
# An alert record, RFC 8446, 6: fatal, no_application_protocol.
NO_APPLICATION_PROTOCOL = bytes((21, 3, 3, 0, 2, 2, 120))


def read_offer(data: bytes) -> tuple[str, ...] | None:
    """Return the protocols that a client offers by ALPN; none if it speaks of none.

    Args:
        data: what the client has sent so far; what is no ClientHello offers nothing.

    Returns:
        None: the words are not whole yet.
    """
    if data[:1] != bytes((HANDSHAKE_RECORD,)):
        return ()
    if len(data) < RECORD_HEADER_BYTES:
        return None
    size = int.from_bytes(data[3:5], "big")
    if len(data) < RECORD_HEADER_BYTES + size and len(data) < MAX_HELLO_BYTES:
        return None
    try:
        return _offer_of(_extensions(data[RECORD_HEADER_BYTES : RECORD_HEADER_BYTES + size]))
    except (struct.error, IndexError, UnicodeDecodeError):  # it is for OpenSSL to say what is wrong with it
        return ()


def _extensions(hello: bytes) -> bytes:
    if hello[0] != CLIENT_HELLO:
        return b""
    at = 1 + 3 + 2 + 32  # type, length, version, random
    at += 1 + hello[at]  # session id
    at += 2 + int(struct.unpack_from("!H", hello, at)[0])  # cipher suites
    at += 1 + hello[at]  # compression methods
    return hello[at + 2 :]


def _offer_of(extensions: bytes) -> tuple[str, ...]:
    at = 0
    while at < len(extensions):
        kind, size = struct.unpack_from("!HH", extensions, at)
        if kind == ALPN:
            return tuple(_names(extensions[at + 6 : at + 4 + size]))
        at += 4 + size
    return ()


def _names(offer: bytes) -> list[str]:
    names, at = [], 0
    while at < len(offer):
        end = at + 1 + offer[at]
        names.append(offer[at + 1 : end].decode("ascii"))
        at = end
    return names
