"""One connection of a client over TLS, and what such clients have in common: whom they trust, their sessions.

Knows: ssl without blocking; that a ticket comes behind the handshake (RFC 8446, 4.6.1) and is used once.
Does not know: who has made the certificate, which process takes a session up again.
"""

from __future__ import annotations

import ssl
from collections import deque

from tools.disorder.call import Call, Stage
from tools.disorder.tally import Ending

_SERVER_NAME = "localhost"
_RECORD_BYTES = 16_384  # of plaintext, RFC 8446, 5.1
# The oldest is offered first: at 80 new connections per second it has crossed a reload or two by then.
_SESSIONS = 200


class Trust:
    """The context of all clients, and the sessions that they were given."""

    def __init__(self, authority: str) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.load_verify_locations(authority)
        self._sessions: deque[ssl.SSLSession] = deque(maxlen=_SESSIONS)

    def take_session(self) -> ssl.SSLSession | None:
        """Return the oldest session, which nobody else is given; None: there is none yet."""
        return self._sessions.popleft() if self._sessions else None

    def keep(self, session: ssl.SSLSession | None) -> None:
        if session is not None and session.has_ticket:
            self._sessions.append(session)


class SecureCall(Call):
    """A connection over TLS. It verifies certificate and name, and takes note of how it was ended."""

    __slots__ = ("_is_over", "_offered", "_tls", "_trust")

    def __init__(self, port: int, begun: float, trust: Trust, session: ssl.SSLSession | None) -> None:
        super().__init__(port, begun)
        self._trust = trust
        self._offered = session
        self._tls: ssl.SSLSocket | None = None
        self._is_over = False  # the server has said goodbye behind ours

    def on_connected(self) -> Ending | None:
        ending = super().on_connected()
        if ending is not None:
            return ending
        self.stage = Stage.HANDSHAKE
        try:
            self.sock = self._tls = self._trust.context.wrap_socket(
                self.sock,
                server_hostname=_SERVER_NAME,
                do_handshake_on_connect=False,
                suppress_ragged_eofs=False,
                session=self._offered,
            )
        except (OSError, ValueError):  # it was reset meanwhile
            return Ending.HANDSHAKE
        return self.on_handshake()

    def on_handshake(self) -> Ending | None:
        try:
            self._secured.do_handshake()
        except ssl.SSLWantReadError:
            return None
        except OSError:
            return Ending.HANDSHAKE
        self.stage = Stage.REST
        return None

    def remarks(self) -> tuple[str, ...]:
        """Return whether it offered a session, and whether the server took it up."""
        if self._offered is None:
            return ("full",)
        return ("offered", "resumed") if self._secured.session_reused else ("offered",)

    def on_readable(self) -> Ending | None:
        if self.stage is Stage.END:
            return self._on_goodbye()
        ending = super().on_readable()
        if ending is Ending.OK and self._tls is not None:
            self._trust.keep(self._tls.session)
        return ending

    def look(self) -> Ending | None:
        try:
            data = self._receive()
        except BlockingIOError:
            return None
        except ssl.SSLEOFError:
            return Ending.RUDE
        except OSError:
            return Ending.RESET_IDLE
        return Ending.WRONG if data else Ending.MOVED

    def half_close(self) -> None:
        """Say goodbye in TLS's words, which the server is to return: TLS has no half-close of one side alone."""
        self.stage = Stage.END
        self._say_goodbye()

    @property
    def _secured(self) -> ssl.SSLSocket:
        assert self._tls is not None
        return self._tls

    def _receive(self) -> bytes:
        try:
            return self._secured.recv(_RECORD_BYTES)
        except ssl.SSLWantReadError:
            raise BlockingIOError from None

    def _on_goodbye(self) -> Ending | None:
        try:
            self._say_goodbye()
        except OSError:
            return Ending.UNCLEAN
        return Ending.OK if self._is_over else None

    def _say_goodbye(self) -> None:
        if self._is_over:
            return
        try:
            self._secured.unwrap()
        except ssl.SSLWantReadError:
            return
        self._is_over = True
