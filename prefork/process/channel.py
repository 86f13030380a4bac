"""One end of the socketpair between the master and a child: whole messages, with descriptors, both ways.

SOCK_SEQPACKET keeps message boundaries and tells of the other side's end by EOF (unix(7)).

Knows: one socket, packets. Does not know: what messages mean.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Sequence

from prefork.errors import ChannelError
from prefork.process.messages import Fact, Order, decode, encode

PACKET_BYTES = 65_536
MAX_FDS = 8  # of one message; a Spawn has two


class Channel:
    """A non-blocking end. What does not fit into the kernel's buffer waits here, in order."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._waiting: deque[tuple[bytes, tuple[int, ...]]] = deque()

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def is_blocked(self) -> bool:
        """Whether messages wait for the other side to read."""
        return bool(self._waiting)

    def send(self, message: Fact | Order, fds: Sequence[int] = ()) -> None:
        """Send a message, or keep it until `flush`; a dead other side is learnt from `receive`.

        The descriptors may be closed by the caller at once: they are duplicated if the message waits.
        """
        self.flush()
        packet = encode(message)
        if self._waiting or not self._try(packet, fds):
            self._waiting.append((packet, tuple(os.dup(fd) for fd in fds)))

    def flush(self) -> None:
        """Send what waits, as far as the other side takes it."""
        while self._waiting:
            packet, fds = self._waiting[0]
            if not self._try(packet, fds):
                return
            self._waiting.popleft()
            for fd in fds:
                os.close(fd)

    def _try(self, packet: bytes, fds: Sequence[int]) -> bool:
        try:
            socket.send_fds(self._socket, [packet], fds)
        except BlockingIOError:
            return False
        except OSError:  # EPIPE, ECONNRESET: nobody reads any more, and EOF will say so
            pass
        return True

    def receive(self) -> list[tuple[Fact | Order, list[int]]] | None:
        """Return the messages that are there, with their descriptors; None at the end.

        Raises:
            ChannelError: a packet is no message.
        """
        messages: list[tuple[Fact | Order, list[int]]] = []
        while True:
            try:
                packet, fds, _, _ = socket.recv_fds(self._socket, PACKET_BYTES, MAX_FDS)
            except BlockingIOError:
                return messages
            except ConnectionResetError:  # it died with our messages unread: told once, before its last words
                continue
            if not packet:
                # What was read before the end is told first; the end is there to be read again.
                return messages or None
            for fd in fds:  # recvmsg(2) makes them inheritable
                os.set_inheritable(fd, False)
            messages.append((decode(packet), fds))

    def wait(self) -> tuple[Fact | Order, list[int]] | None:
        """Block until a message comes; None at the end. For a process that has nothing else to do."""
        self._socket.setblocking(True)
        try:
            packet, fds, _, _ = socket.recv_fds(self._socket, PACKET_BYTES, MAX_FDS)
        except ConnectionResetError:
            return None
        finally:
            self._socket.setblocking(False)
        for fd in fds:
            os.set_inheritable(fd, False)
        return (decode(packet), fds) if packet else None

    def close(self) -> None:
        for _, fds in self._waiting:
            for fd in fds:
                os.close(fd)
        self._waiting.clear()
        self._socket.close()


def open_pair() -> tuple[Channel, socket.socket]:
    """Return the master's end, and the socket that a child makes its end of.

    Raises:
        ChannelError: the kernel gives no socket.
    """
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError as error:
        raise ChannelError(f"cannot make a channel: {error}") from error
    return Channel(ours), theirs
