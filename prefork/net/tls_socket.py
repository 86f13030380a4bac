"""A non-blocking socket that speaks TLS, with the verbs and the errors of a plain one.

Knows: the ssl module, records. Does not know: the loop, connections, certificates.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, takewhile
from typing import Any

RECORD_BYTES = 16_384  # of plaintext, RFC 8446, 5.1: a read of less would leave bytes where epoll cannot see them
RECORDS_PER_READ = 4
RECORD_HEADER_BYTES, APPLICATION_DATA = 5, 23  # RFC 8446, 5.1
MAX_SMALL_RECORD_BYTES = 1024  # an alert has some 20 bytes, a ticket some 250
TCP_CLOSE = 7  # tcpi_state of a connection that was reset; of one that was ended it is 8, CLOSE_WAIT
TCP_CORK = socket.TCP_CORK

Bytes = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class TlsDetails:
    """What two sides have agreed upon.

    Attributes:
        version: `TLSv1.3` or `TLSv1.2`.
        cipher: name of the cipher suite.
        bits: of its key.
        alpn: the protocol that ALPN chose (RFC 7301); None: none.
        server_name: that the client asked for (RFC 6066); None: none.
        peer_certificate: of the client, as `ssl.SSLSocket.getpeercert` gives it; None: it showed none.
        is_resumed: whether an earlier session was taken up again.
    """

    version: str | None
    cipher: str
    bits: int
    alpn: str | None
    server_name: str | None
    peer_certificate: dict[str, Any] | None
    is_resumed: bool


class TlsSocket(ssl.SSLSocket):
    """The server's end of a TLS connection.

    `recv` and `send` raise BlockingIOError where a plain socket does, and `shutdown(SHUT_WR)` says goodbye in
    TLS's words before the FIN (close_notify, RFC 8446, 6.1).
    """

    server_name: str | None = None

    def recv(self, buflen: int = RECORD_BYTES, flags: int = 0) -> bytes:
        """Return what the next records hold; b"" when the peer has said that nothing more comes.

        Raises:
            ssl.SSLWantWriteError: the peer is to be told something first, and takes nothing.
        """
        try:
            data: bytes = self.read(RECORD_BYTES)
        except ssl.SSLWantReadError:
            raise BlockingIOError from None
        except ssl.SSLEOFError:
            return self._end()
        except ValueError:  # after shutdown() it is a plain socket, of which the rest is only dropped
            return super().recv(buflen, flags)
        return data if len(data) < RECORD_BYTES else self._read_on(data)

    def _end(self) -> bytes:
        """There is no more, and there was no goodbye: b"" for a FIN, as many clients end.

        Raises:
            ConnectionResetError: it was a reset; the ssl module makes no difference.
        """
        if (
            self.family != socket.AF_UNIX
            and self.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == TCP_CLOSE
        ):
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        return b""

    def _read_on(self, data: bytes) -> bytes:
        """Read more after a full record: it is a part of something larger."""
        parts = [data]
        while len(parts) < RECORDS_PER_READ and len(data) == RECORD_BYTES and self._is_data_next():
            try:
                data = self.read(RECORD_BYTES)
            except ssl.SSLError:  # the rest of the record is still to come
                break
            parts.append(data)
        return b"".join(parts)

    def _is_data_next(self) -> bool:
        """Whether the next record is large, and so no goodbye: once that is read, epoll tells of it no more."""
        try:
            header = socket.socket.recv(self, RECORD_HEADER_BYTES, socket.MSG_PEEK)
        except OSError:
            return False
        is_data = len(header) == RECORD_HEADER_BYTES and header[0] == APPLICATION_DATA
        return is_data and int.from_bytes(header[3:], "big") > MAX_SMALL_RECORD_BYTES

    def send(self, data: Any, flags: int = 0) -> int:  # noqa: ARG002  # of a plain socket
        """Send as many records as the kernel takes; return how many bytes they hold."""
        try:
            sent = self.write(data)
        except ssl.SSLWantWriteError:
            raise BlockingIOError from None
        size = len(data)
        return sent if sent == size else self._write_on(memoryview(data), sent)

    def _write_on(self, data: memoryview, sent: int) -> int:
        try:
            while sent < len(data):
                sent += self.write(data[sent:])
        except ssl.SSLError:  # OpenSSL wants the same bytes again, and gets them: they are still to be sent
            pass
        return sent

    def sendmsg(  # type: ignore[override]  # which SSLSocket refuses to have
        self,
        buffers: Any,
        ancdata: Any = (),  # noqa: ARG002  # of a plain socket
        flags: int = 0,
        address: Any = None,  # noqa: ARG002
    ) -> int:
        """Send the first of some buffers, small ones together in one record.

        A retry begins with the same bytes and is never shorter, as SSL_write(3) demands: buffers are only
        appended to a queue until they are sent.
        """
        if flags & socket.MSG_MORE and self.family != socket.AF_UNIX:
            self.setsockopt(socket.IPPROTO_TCP, TCP_CORK, 1)  # until shutdown(), whose FIN takes all along
        return self.send(buffers[0] if len(buffers[0]) >= RECORD_BYTES else b"".join(first_of(buffers)))

    def getpeername(self) -> Any:
        """Return the peer's address; None if it is gone: the handshake tells of that, not the socket's birth."""
        try:
            return super().getpeername()
        except OSError:
            return None

    def say_goodbye(self) -> bool:
        """Send close_notify; return False if there is no room for it yet.

        The peer's own is not waited for, and a peer that is gone needs none.
        """
        try:
            self.unwrap()
        except ssl.SSLWantWriteError:
            return False
        except (OSError, ValueError):  # the peer's goodbye is not there, or the peer is not
            pass
        return True

    def shutdown(self, how: int) -> None:
        self.say_goodbye()
        super().shutdown(how)

    def describe(self) -> TlsDetails:
        """Return what was agreed upon."""
        cipher = self.cipher()
        return TlsDetails(
            version=self.version(),
            cipher=cipher[0] if cipher else "",
            bits=cipher[2] if cipher else 0,
            alpn=self.selected_alpn_protocol(),
            server_name=self.server_name,
            peer_certificate=self.getpeercert() or None,
            is_resumed=bool(self.session_reused),
        )


def first_of(buffers: Sequence[Bytes]) -> list[Bytes]:
    """Return as many buffers, from the first on, as fill a record."""
    before = accumulate(map(len, buffers), initial=0)
    return [
        buffer for buffer, _ in zip(buffers, takewhile(lambda size: size < RECORD_BYTES, before), strict=False)
    ]
