"""One connection of a client: its socket, the stage it is in, the bytes it expects back.

Knows: how to connect, send and receive without blocking, how to compare each byte, what an errno means.
Does not know: when to begin, how long to wait, what to do next.
"""

from __future__ import annotations

import errno
import socket
from enum import Enum, auto

from tools.disorder.tally import Ending

_READ_BYTES = 65536
_LOCAL = frozenset({errno.EADDRNOTAVAIL, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_RESET = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN, errno.ECONNABORTED})


class Stage(Enum):
    """Where a connection is in its life."""

    CONNECTING = auto()
    HANDSHAKE = auto()  # TLS is being agreed upon
    ANSWER = auto()  # a request is open
    END = auto()  # the answer is whole and the client has half-closed: EOF must follow
    REST = auto()  # between two requests
    IDLE = auto()  # never asks


class Call:
    """A non-blocking connection that checks what comes back."""

    __slots__ = ("begun", "fd", "payload", "received", "sock", "stage")

    def __init__(self, port: int, begun: float) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.fd = self.sock.fileno()
        self.stage = Stage.CONNECTING
        self.begun = begun
        self.payload = b""
        self.received = 0
        code = self.sock.connect_ex(("127.0.0.1", port))
        if code not in (0, errno.EINPROGRESS):
            self.sock.close()
            raise OSError(code, errno.errorcode.get(code, str(code)))

    def ask(self, payload: bytes) -> None:
        """Send a request. A payload of a few KiB always fits into an empty send buffer."""
        self.payload = payload
        self.received = 0
        self.stage = Stage.ANSWER
        if self.sock.send(payload) != len(payload):
            raise OSError(errno.ENOBUFS, "the send buffer took only a part of the request")

    def on_connected(self) -> Ending | None:
        code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            return ending_of(code, 0)
        self.stage = Stage.REST
        return None

    def on_handshake(self) -> Ending | None:
        """Go on with what comes before the first request; a plain connection has no such thing."""
        return None

    def remarks(self) -> tuple[str, ...]:
        """Return what is to be counted of the way in which it was opened."""
        return ()

    def on_readable(self) -> Ending | None:
        """Read; return how the request ended (OK: the answer is whole, or EOF came), None if it goes on."""
        try:
            data = self._receive()
        except BlockingIOError:
            return None
        except OSError as error:
            return self._broken(error)
        if self.stage is Stage.ANSWER:
            return self._on_answer(data)
        if self.stage is Stage.IDLE:
            return Ending.WRONG if data else Ending.CLOSED_IDLE
        return Ending.WRONG if data else Ending.OK

    def look(self) -> Ending | None:
        """Return what came while no request was open: MOVED, RESET_IDLE, WRONG (bytes), or None."""
        try:
            data = self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return None
        except OSError:
            return Ending.RESET_IDLE
        return Ending.WRONG if data else Ending.MOVED

    def half_close(self) -> None:
        self.stage = Stage.END
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.sock.close()

    def _receive(self) -> bytes:
        return self.sock.recv(_READ_BYTES)

    def describe(self) -> str:
        try:
            port = str(self.sock.getsockname()[1])
        except OSError:
            port = "?"
        return f"{self.stage.name.lower()} {self.received}/{len(self.payload)} bytes, client port {port}"

    def _on_answer(self, data: bytes) -> Ending | None:
        if not data:
            return Ending.EOF
        end = self.received + len(data)
        if self.payload[self.received : end] != data:
            return Ending.WRONG
        self.received = end
        return Ending.OK if end == len(self.payload) else None

    def _broken(self, error: OSError) -> Ending:
        if self.stage is Stage.END:
            return Ending.UNCLEAN
        if self.stage is Stage.IDLE:
            return Ending.RESET_IDLE
        return ending_of(error.errno or 0, self.received)


def ending_of(code: int, received: int) -> Ending:
    """Return how a request ended by this errno, after so many bytes of its answer."""
    if code == errno.ECONNREFUSED:
        return Ending.REFUSED
    if code == errno.ETIMEDOUT:
        return Ending.TIMEOUT
    if code in _LOCAL:
        return Ending.LOCAL
    if code in _RESET:
        return Ending.RESET_MIDDLE if received else Ending.RESET_BEFORE
    return Ending.RESET_MIDDLE if received else Ending.EOF
