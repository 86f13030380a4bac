"""A client of the load generator over TLS 1.3, which verifies no certificate.

Knows: the ssl module; tickets, of which each is presented by the client that was given it.
Does not know: who answers.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl

from tools.benchmark.client import Client, Plan, connected

HINDRANCES = (ssl.SSLWantReadError, ssl.SSLWantWriteError)


def client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


class TlsClient(Client):
    """Shakes hands with its first request."""

    # Edges, not levels: OpenSSL may have read more than it has given.
    events = select.EPOLLIN | select.EPOLLOUT | select.EPOLLET

    def __init__(self, plan: Plan, index: int) -> None:
        super().__init__(plan, index)
        self.context = client_context()  # Python gives a session back only to the context that it is of
        self.ticket: ssl.SSLSession | None = None
        self.is_secured = self.is_sent = False

    def connect(self, source: str) -> socket.socket:
        raw = connected(socket.SOCK_STREAM, source, self.plan.port)
        self.is_secured = False
        try:
            self.sock = self.context.wrap_socket(raw, do_handshake_on_connect=False, session=self.ticket)
        except OSError:
            raw.close()
            raise
        return self.sock

    def send(self) -> None:
        self.stamp(0, self.plan.size)
        self.got = 0
        self.is_sent = False
        with contextlib.suppress(*HINDRANCES):
            self._send_rest()

    def take(self) -> bool:
        assert isinstance(self.sock, ssl.SSLSocket)
        # An answer may begin before the whole request is sent: a server that echoes waits for a client that reads.
        with contextlib.suppress(*HINDRANCES):
            self._send_rest()
        if not self.is_secured:
            return False
        try:
            while not self.compare(self.sock.recv(self.plan.size - self.got + 1)):
                pass
        except HINDRANCES:
            return False
        if self.plan.kind == "resume":
            self.ticket = self.sock.session
        return True

    def _send_rest(self) -> None:
        assert isinstance(self.sock, ssl.SSLSocket)
        if not self.is_secured:
            self.sock.do_handshake()
            self.is_secured, self.is_resumed = True, bool(self.sock.session_reused)
        if not self.is_sent:
            self.sock.send(self.request)  # all of it or nothing, as Python has set OpenSSL up
            self.is_sent = True

    def close(self) -> None:
        """Say goodbye and do not wait for the answer, as a client does that needs nothing more."""
        if isinstance(self.sock, ssl.SSLSocket) and self.is_secured:
            with contextlib.suppress(OSError):
                self.sock.unwrap()
        super().close()
