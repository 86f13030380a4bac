"""A client's end of a TLS connection that can end its output and still hear what follows.

`ssl.SSLSocket.unwrap` reads after it has said goodbye, and what has come by then is lost (SSL_shutdown(3)). Here
the records pass through memory, where nothing is left to be read at that moment.

Knows: the ssl module, one connected socket. Does not know: what is said.
"""

from __future__ import annotations

import socket
import ssl
from collections import deque

RECORD_BYTES = 16_384  # of plaintext, RFC 8446, 5.1
RECEIVE_BYTES = 65_536


class TlsStream:
    """Speaks TLS over a socket, with the verbs and the errors of a plain one that does not block."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, host: str) -> None:
        """Shake hands; the socket blocks until then, for its time-out at each step.

        Raises:
            OSError: the server is not trusted, or does not answer.
            ValueError: the host's name is none for TLS.
        """
        self._socket = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._sealed = b""  # records that the kernel has not taken yet
        self._early: deque[bytes] = deque()  # read before the goodbye was said
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self.flush()
                self._feed()
            else:
                self.flush()
                return

    @property
    def is_blocked(self) -> bool:
        """Whether records wait for the kernel to take them."""
        return bool(self._sealed)

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, data: memoryview) -> int:
        """Return how many bytes were sealed.

        Raises:
            BlockingIOError: none, since those before are still to be sent.
        """
        self.flush()
        if self._sealed:
            raise BlockingIOError
        count = self._tls.write(data[:RECORD_BYTES])
        self.flush()
        return count

    def recv(self, count: int) -> bytes:
        """Return what has come; b"" when the server has said goodbye, or has gone without.

        Raises:
            BlockingIOError: nothing has come.
        """
        self.flush()
        if self._early:
            return self._early.popleft()
        while True:
            try:
                return self._tls.read(count)
            except ssl.SSLWantReadError:
                self._feed()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""

    def shutdown(self, how: int) -> None:  # noqa: ARG002  # of a plain socket
        """Say goodbye (close_notify, RFC 8446, 6.1); answers may follow."""
        try:
            while data := self._tls.read(RECEIVE_BYTES):
                self._early.append(data)
        except ssl.SSLError:  # nothing more is there
            pass
        try:
            self._tls.unwrap()
        except ssl.SSLError:  # the server's goodbye has not come yet
            pass
        self.flush()

    def flush(self) -> None:
        """Send what is sealed, as far as the kernel takes it."""
        self._sealed += self._outgoing.read()
        try:
            while self._sealed:
                self._sealed = self._sealed[self._socket.send(self._sealed) :]
        except BlockingIOError:  # the rest goes with the next call
            pass

    def _feed(self) -> None:
        data = self._socket.recv(RECEIVE_BYTES)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
