"""The PROXY header: whom a load balancer speaks for, in the first bytes of its connection.

A header may come in pieces. What cannot become one is refused at the first byte that shows it: a client that
speaks something else waits for an answer, and the header would be waited for till the deadline.

Knows: versions 1 and 2 of HAProxy's doc/proxy-protocol.txt.
Does not know: sockets, deadlines, whose header may be believed.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from prefork.errors import RemoteProtocolError

V1_SIGNATURE, V2_SIGNATURE = b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n"
SIGNATURES: tuple[bytes, bytes] = (V1_SIGNATURE, V2_SIGNATURE)
SIGNATURE_BYTES = len(V2_SIGNATURE)
MAX_HEADER_BYTES = 4096  # of nginx, NGX_PROXY_PROTOCOL_MAX_HEADER
MAX_V1_BYTES = 107  # of the specification, 2.1, with CRLF

V1_BEGINNINGS = (b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN ", b"PROXY UNKNOWN\r\n")
V1_FAMILIES = {b"TCP4": socket.AF_INET, b"TCP6": socket.AF_INET6}
V1_PORT, MAX_PORT = re.compile(rb"0|[1-9][0-9]{0,4}"), 65_535

V2_PREFIX_BYTES = len(V2_SIGNATURE) + 4
V2_COMMAND, V2_FAMILY = 12, 13  # where they are
LOCAL, PROXY = 0x20, 0x21  # with the version, 2
UNSPEC, TCP4, TCP6, UNIX = 0x00, 0x11, 0x21, 0x31
INET, INET6 = struct.Struct("!4s4sHH"), struct.Struct("!16s16sHH")
SUN_PATH_BYTES = 108
# Where either half of the byte is UNSPEC, addresses are to be ignored: specification, 2.2.
ADDRESS_BYTES = {UNSPEC: 0, 0x01: 0, 0x10: 0, 0x20: 0, 0x30: 0, TCP4: 12, TCP6: 36, UNIX: 2 * SUN_PATH_BYTES}
DATAGRAMS = (0x02, 0x12, 0x22, 0x32)

TLV_PREFIX_BYTES = 3
ALPN, AUTHORITY, CRC32C, NOOP, UNIQUE_ID, SSL = 0x01, 0x02, 0x03, 0x04, 0x05, 0x20
SSL_VERSION, SSL_COMMON_NAME, SSL_CIPHER = 0x21, 0x22, 0x23
SSL_PREFIX = struct.Struct("!BI")
CLIENT_SSL, CLIENT_CERTIFICATE = 0x01, 0x02 | 0x04  # of this connection, or of the session that it resumes
CRC_BYTES = 4
MAX_UNIQUE_ID_BYTES = 128  # specification, 2.2.5
# The longest of them: 64 characters of a common name, RFC 5280, A.1; others have 255, RFC 1035, RFC 7301.
MAX_TEXT_BYTES = 256


def _divide(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


CRC_TABLE = tuple(map(_divide, range(256)))


@dataclass(frozen=True, slots=True)
class ProxyTls:
    """What a load balancer says of the TLS that it ended; None is what it does not say, or not in a text.

    Attributes:
        common_name: of the client's certificate; proves something only if `is_verified`.
        is_verified: the client has a certificate, and it was found good.
        has_certificate: the client showed one, on this connection or on the session that it resumed.
    """

    version: str | None
    cipher: str | None
    common_name: str | None
    is_verified: bool
    has_certificate: bool


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """Whom a load balancer speaks for.

    Attributes:
        size: bytes of the header, to be taken from the stream.
        is_local: the load balancer speaks for itself or does not say for whom: the real addresses stay.
        peer: of the client, as accept(2) has it: (host, port), (host, port, 0, 0), or a path; None if local.
        local: where the client connected to, likewise.
        tlvs: type and value of each, as they came, without padding.
        tls: of the client; None if it came without, or the load balancer does not say.
    """

    size: int
    is_local: bool
    peer: Any = None
    local: Any = None
    tlvs: tuple[tuple[int, bytes], ...] = ()
    tls: ProxyTls | None = None

    def find_tlv(self, kind: int) -> bytes | None:
        """Return the value of the first TLV of a type, 0 to 255; None if there is none."""
        return _first(self.tlvs, kind)

    @property
    def authority(self) -> str | None:
        """The host that the client asked for, by SNI as a rule."""
        return _text(self.find_tlv(AUTHORITY))

    @property
    def alpn(self) -> str | None:
        """The protocol that was agreed upon with the client."""
        return _text(self.find_tlv(ALPN))

    @property
    def unique_id(self) -> bytes | None:
        """What the load balancer calls the connection: 1 to 128 bytes of any kind."""
        value = self.find_tlv(UNIQUE_ID)
        return value if value and len(value) <= MAX_UNIQUE_ID_BYTES else None


def has_signature(data: bytes) -> bool:
    """Return whether bytes begin with a whole signature of either version."""
    return data.startswith(SIGNATURES)


def parse_header(data: bytes) -> ProxyHeader | None:
    """Read the header at the beginning of a stream; see HAProxy's doc/proxy-protocol.txt.

    Args:
        data: what has come so far, from the very first byte; what follows the header is not looked at.

    Returns:
        None: the header is not whole yet; never so with MAX_HEADER_BYTES or more.

    Raises:
        RemoteProtocolError: this is no header, or a wrong one.
    """
    if data.startswith(V2_SIGNATURE):
        return _parse_v2(data)
    if data.startswith(V1_SIGNATURE):
        return _parse_v1(data)
    if not any(signature.startswith(data) for signature in SIGNATURES):
        raise _refusal("the first bytes are those of another protocol")
    return None


def crc32c(data: bytes) -> int:
    """Return the checksum of RFC 4960, appendix B (Castagnoli)."""
    table, value = CRC_TABLE, 0xFFFFFFFF
    for byte in data:
        value = table[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF


def _refusal(cause: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"cannot read the PROXY header: {cause}")


def _parse_v1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, MAX_V1_BYTES)
    if end < 0:
        _check_beginning(data)
        return None
    words = data[:end].split(b" ")
    if words[1] == b"UNKNOWN":
        _check_ending(data[:end])
        return ProxyHeader(end + 2, is_local=True)
    family = V1_FAMILIES.get(words[1])
    if family is None:
        raise _refusal("its protocol is none of TCP4, TCP6 and UNKNOWN")
    if len(words) != 6:
        raise _refusal("its line is not two addresses and two ports with single spaces")
    peer = _read_endpoint(family, words[2], words[4])
    return ProxyHeader(end + 2, False, peer, _read_endpoint(family, words[3], words[5]))


def _check_beginning(data: bytes) -> None:
    if len(data) >= MAX_V1_BYTES:
        raise _refusal(f"its line has no end within {MAX_V1_BYTES} bytes")
    if not any(data.startswith(known) or known.startswith(data) for known in V1_BEGINNINGS):
        raise _refusal("its protocol is none of TCP4, TCP6 and UNKNOWN")
    _check_ending(data.removesuffix(b"\r"))


def _check_ending(line: bytes) -> None:
    if b"\r" in line or b"\n" in line:
        raise _refusal("a single CR or LF is in its line")


def _read_endpoint(family: socket.AddressFamily, host: bytes, port: bytes) -> Any:
    try:
        text = socket.inet_ntop(family, socket.inet_pton(family, host.decode("ascii")))
    except (OSError, ValueError):
        raise _refusal("an address is not one of its protocol") from None  # it would quote the peer
    if not V1_PORT.fullmatch(port) or int(port) > MAX_PORT:
        raise _refusal(f"a port is no number from 0 to {MAX_PORT}")
    return (text, int(port)) if family == socket.AF_INET else (text, int(port), 0, 0)


def _parse_v2(data: bytes) -> ProxyHeader | None:
    size = _measure_v2(data)
    if size is None or len(data) < size:
        return None
    kind = data[V2_FAMILY]
    # To be skipped unread: specification, 2.2. It does not say where TLVs begin behind an unknown address.
    if data[V2_COMMAND] == LOCAL or kind not in _READERS:
        return ProxyHeader(size, is_local=True)
    peer, local = _READERS[kind](data)
    begin = V2_PREFIX_BYTES + ADDRESS_BYTES[kind]
    tlvs = _read_tlvs(data, begin, size)
    tls = _first(tlvs, SSL)
    return ProxyHeader(size, False, peer, local, tlvs, None if tls is None else _read_tls(tls))


def _measure_v2(data: bytes) -> int | None:
    if len(data) > V2_COMMAND and data[V2_COMMAND] not in (LOCAL, PROXY):
        raise _refusal("its version is not 2, or its command neither LOCAL nor PROXY")
    if len(data) <= V2_FAMILY:
        return None
    kind = UNSPEC if data[V2_COMMAND] == LOCAL else data[V2_FAMILY]
    if kind not in ADDRESS_BYTES:
        raise _refusal("it is one of datagrams" if kind in DATAGRAMS else "its address family is unknown")
    if len(data) < V2_PREFIX_BYTES:
        return None
    count = int.from_bytes(data[V2_FAMILY + 1 : V2_PREFIX_BYTES], "big")
    if count < ADDRESS_BYTES[kind]:
        raise _refusal("it is too short for its addresses")
    if V2_PREFIX_BYTES + count > MAX_HEADER_BYTES:
        raise _refusal(f"it has more than {MAX_HEADER_BYTES} bytes")
    return V2_PREFIX_BYTES + count


def _read_inet(data: bytes) -> tuple[Any, Any]:
    peer, local, peer_port, local_port = INET.unpack_from(data, V2_PREFIX_BYTES)
    return (socket.inet_ntoa(peer), peer_port), (socket.inet_ntoa(local), local_port)


def _read_inet6(data: bytes) -> tuple[Any, Any]:
    peer, local, peer_port, local_port = INET6.unpack_from(data, V2_PREFIX_BYTES)
    texts = [socket.inet_ntop(socket.AF_INET6, packed) for packed in (peer, local)]
    return (texts[0], peer_port, 0, 0), (texts[1], local_port, 0, 0)


def _read_unix(data: bytes) -> tuple[Any, Any]:
    between = V2_PREFIX_BYTES + SUN_PATH_BYTES
    return _read_path(data[V2_PREFIX_BYTES:between]), _read_path(data[between : between + SUN_PATH_BYTES])


def _read_path(field: bytes) -> str | bytes:
    """A name in the abstract namespace, unix(7), is bytes in Python; how many NUL end it, the field cannot say."""
    is_abstract = field[0] == 0 and any(field)
    return field.rstrip(b"\0") if is_abstract else os.fsdecode(field.partition(b"\0")[0])


_READERS: dict[int, Callable[[bytes], tuple[Any, Any]]] = {TCP4: _read_inet, TCP6: _read_inet6, UNIX: _read_unix}


def _spans(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    while at < end:
        start = at + TLV_PREFIX_BYTES
        stop = start + int.from_bytes(data[at + 1 : start], "big")
        if stop > end:
            raise _refusal("a TLV goes beyond its end")
        yield data[at], start, stop
        at = stop


def _read_tlvs(data: bytes, begin: int, size: int) -> tuple[tuple[int, bytes], ...]:
    spans = tuple(_spans(data, begin, size))
    sums = [(start, stop) for kind, start, stop in spans if kind == CRC32C]
    if len(sums) > 1:
        raise _refusal("it has several checksums")
    for start, stop in sums:
        zeroed = data[:start] + bytes(CRC_BYTES) + data[stop:size]  # specification, 2.2.3
        if data[start:stop] != crc32c(zeroed).to_bytes(CRC_BYTES, "big"):
            raise _refusal("its checksum is wrong")
    return tuple((kind, data[start:stop]) for kind, start, stop in spans if kind != NOOP)


def _read_tls(value: bytes) -> ProxyTls | None:
    if len(value) < SSL_PREFIX.size:
        raise _refusal("its TLV on TLS is too short")
    client, verify = SSL_PREFIX.unpack_from(value)
    tlvs = [(kind, value[start:stop]) for kind, start, stop in _spans(value, SSL_PREFIX.size, len(value))]
    if not client & CLIENT_SSL:
        return None
    version, cipher, name = (_text(_first(tlvs, kind)) for kind in (SSL_VERSION, SSL_CIPHER, SSL_COMMON_NAME))
    # SSL_get_verify_result(3) says X509_V_OK, 0, of a client that showed no certificate, too.
    has_certificate = bool(client & CLIENT_CERTIFICATE)
    return ProxyTls(version, cipher, name, has_certificate and verify == 0, has_certificate)


def _first(tlvs: Iterable[tuple[int, bytes]], kind: int) -> bytes | None:
    return next((value for found, value in tlvs if found == kind), None)


def _text(value: bytes | None) -> str | None:
    if not value or len(value) > MAX_TEXT_BYTES:
        return None
    text = value.decode(errors="replace")
    return text if text.isprintable() and "\ufffd" not in text else None
