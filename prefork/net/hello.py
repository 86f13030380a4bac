"""The first words of a TLS client, as far as they say which protocols it can speak.

OpenSSL goes on without ALPN when nothing fits, where RFC 7301, 3.2 wants a refusal; Python has no call to
change that.

Knows: ClientHello of RFC 8446, 4.1.2. Does not know: sockets, contexts.
"""

from __future__ import annotations

import struct

HANDSHAKE_RECORD, CLIENT_HELLO, ALPN = 22, 1, 16
RECORD_HEADER_BYTES, MESSAGE_HEADER_BYTES = 5, 4
MAX_RECORDS = 16  # of one hello; RFC 8446, 5.1 forbids empty ones, and clients send one
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
    hello, at = b"", 0
    for _ in range(MAX_RECORDS):
        if data[at : at + 1] not in (b"", bytes((HANDSHAKE_RECORD,))):
            return ()
        begin = at + RECORD_HEADER_BYTES
        end = begin + int.from_bytes(data[at + 3 : begin], "big")
        if len(data) < begin or len(data) < end:
            return None if len(data) < MAX_HELLO_BYTES else ()
        hello += data[begin:end]
        at = end
        size = MESSAGE_HEADER_BYTES + int.from_bytes(hello[1:MESSAGE_HEADER_BYTES], "big")
        if len(hello) >= MESSAGE_HEADER_BYTES and len(hello) >= size:
            break
    else:  # whoever cuts a hello so finely wants us to look at it again and again
        return ()
    try:
        return _offer_of(_extensions(hello))
    except (struct.error, IndexError):  # it is for OpenSSL to say what is wrong with it
        return ()


def _extensions(hello: bytes) -> bytes:
    if hello[0] != CLIENT_HELLO:
        return b""
    at = MESSAGE_HEADER_BYTES + 2 + 32  # version, random
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
        names.append(offer[at + 1 : end].decode("latin-1"))
        at = end
    return names
