"""The end of a connection that we close first: its FIN is sent, and its input is read and dropped.

A socket that is closed with unread input answers with a reset, and a reset destroys what the peer has not
read yet of our answer (RFC 1122, 4.2.2.13; RFC 2525, 2.17). So the descriptor stays for a moment.

Knows: one socket. Does not know: protocols, what was said on the connection.
"""

from __future__ import annotations

import socket
import struct

from prefork.net.loop import READABLE
from prefork.net.service import Service

LINGER_SECONDS = 2.0  # nginx: lingering_timeout 5 s
NO_LINGER = struct.pack("ii", 1, 0)  # SO_LINGER with 0 seconds: close(2) sends a reset, socket(7)
DROP_BYTES = 65_536
READS_PER_EVENT = 16  # then others have their turn; epoll reports the rest again


class Linger:
    """Reads until the peer's FIN, an error, or the deadline; then closes."""

    __slots__ = ("_fd", "_reason", "_serial", "_service", "_socket", "deadline")

    def __init__(self, sock: socket.socket, service: Service, mask: int, serial: int, reason: str = "") -> None:
        """Begin.

        Args:
            mask: what the socket is watched for.
            serial: the number of the connection.
            reason: why it has ended, for the books.
        """
        self._socket = sock
        self._fd = sock.fileno()
        self._service = service
        self._serial = serial
        self._reason = reason
        self.deadline = service.site.loop.time() + LINGER_SECONDS
        selector = service.site.selector
        selector.replace(self._fd, self)
        if mask != READABLE:
            selector.rewatch(self._fd, mask, READABLE)

    def on_event(self, mask: int) -> None:  # noqa: ARG002  # any event is answered by a read
        try:
            for _ in range(READS_PER_EVENT):
                if not self._socket.recv(DROP_BYTES):
                    break
            else:
                return
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # reset: the peer is gone, which is what this waits for
            pass
        self.expire()

    def expire(self) -> None:
        """Close: it is over, or takes too long."""
        self._service.site.selector.forget(self._fd)
        self._socket.close()
        self._service.count_closed(self._serial, self._reason)
