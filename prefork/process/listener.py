"""Listening sockets, as the master opens and keeps them: one per slot, so that no queue dies with a worker.

An inet address has one SO_REUSEPORT socket per slot. Closing one resets what waits in its queue, and moves
the last of the group into its place (socket(7), net/core/sock_reuseport.c): so they are only ever added, in
the order of the slots, and closed all together. A unix address has one socket: AF_UNIX has no SO_REUSEPORT.

Knows: one address and its sockets. Does not know: workers, who watches what.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from typing import Any

from prefork.address import Address
from prefork.config import ListenerConfig
from prefork.config.model import Socket as SocketOptions
from prefork.errors import ListenError
from prefork.process import steering

KEEPALIVE_INTERVAL_SECONDS = 15
KEEPALIVE_PROBES = 4
TCP_INFO_UNACKED = 24  # offset of tcpi_unacked in struct tcp_info, linux/tcp.h


class Listener:
    """A bound address and the sockets of its slots."""

    def __init__(self, config: ListenerConfig, address: Address, slots: int) -> None:
        """Bind the address; nobody is served before a worker watches the sockets.

        Raises:
            ListenError: it cannot be bound; the message says why, and what to do.
        """
        self.name = config.name
        self.address = address
        self._steered: tuple[int, ...] | None = None
        self._is_steered = False
        self.sockets: list[socket.socket] = []
        if address.is_unix:
            self._family, self._where = socket.AF_UNIX, address.path
            self.sockets.append(_open_unix(address.path, config.socket))
            self._inode = os.lstat(address.path).st_ino
        else:
            self._family, self._where = _resolve(address)
            try:
                _probe(self._family, self._where)
            except OSError as error:
                raise ListenError(f"cannot listen on {address} ({self.name}): {describe(error)}") from error
            try:
                self.grow(slots, config.socket)
            except ListenError:
                self.close()
                raise

    @property
    def is_parked(self) -> bool:
        """Whether the last socket is steered around, so that nobody new comes to it."""
        return self._is_steered and bool(self._steered) and len(self.sockets) - 1 > max(self._steered or ())

    def is_queue_empty(self) -> bool:
        """Whether nobody waits at the last socket: for a listening one, tcpi_unacked is its accept queue."""
        state = self.sockets[-1].getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_UNACKED + 4)
        return int.from_bytes(state[TCP_INFO_UNACKED:], sys.byteorder) == 0

    def shrink(self) -> None:
        """Close the last socket. Only the last: any other's place in the group would go to the last."""
        last = self.sockets.pop()
        last.shutdown(socket.SHUT_RDWR)  # a worker that stands still may hold it too: it must leave the group now
        last.close()

    @property
    def is_shared(self) -> bool:
        """Whether all workers watch one socket."""
        return self.address.is_unix

    @property
    def bound(self) -> Address:
        """The address with its real port."""
        if self.address.is_unix:
            return self.address
        name = self.sockets[0].getsockname()
        return Address(self.address.scheme, self.address.host, name[1])

    def grow(self, slots: int, options: SocketOptions) -> None:
        """Have a socket for each of so many slots; those that are there stay.

        Raises:
            ListenError: the kernel gives no further socket.
        """
        while not self.is_shared and len(self.sockets) < slots:
            where = self.sockets[0].getsockname() if self.sockets else self._where
            try:
                self.sockets.append(_open_inet(self._family, where, options))
            except OSError as error:
                raise ListenError(f"cannot listen on {self.address} ({self.name}): {describe(error)}") from error

    def configure(self, options: SocketOptions) -> None:
        """Set the options on sockets that listen already; their connections inherit them, tcp(7)."""
        for sock in self.sockets:
            if not self.is_shared:
                _set_options(sock, options)
            sock.listen(options.backlog)  # a second listen(2) changes the backlog and loses nothing

    def steer(self, slots: tuple[int, ...]) -> bool:
        """Let the kernel give new connections to these slots alone, each as often as it is named.

        Returns:
            False if the kernel cannot be told; it then spreads them over all slots, which serves them too.
        """
        if self.is_shared or not slots or slots == self._steered:
            return True
        self._steered = slots
        self._is_steered = steering.attach(self.sockets[0], slots)
        return self._is_steered

    def refuse_new(self) -> None:
        """Let nobody new in; who is on the way still ends up in the queue."""
        if self.is_shared:
            self._unlink()
        else:
            for sock in self.sockets:
                steering.drop_handshakes(sock)

    def close(self) -> None:
        """Close the sockets; a unix path is removed."""
        if self.is_shared and self.sockets:
            self._unlink()
        for sock in self.sockets:
            sock.close()
        self.sockets.clear()

    def _unlink(self) -> None:
        try:
            if os.lstat(self.address.path).st_ino == self._inode:  # and not a successor's
                os.unlink(self.address.path)
        except OSError:  # somebody has removed it already, or its directory
            pass


def describe(error: OSError) -> str:
    """Return an error of bind(2) or listen(2) in words, with the cure."""
    cures = {
        errno.EADDRINUSE: "the address is in use; stop its server, or choose another port",
        errno.EACCES: "permission denied; ports below 1024 need root or CAP_NET_BIND_SERVICE",
        errno.EADDRNOTAVAIL: "no interface of this machine has that address",
        errno.EMFILE: "no file descriptor is left; raise `ulimit -n`",
    }
    return cures.get(error.errno or 0, error.strerror or str(error))


def _resolve(address: Address) -> tuple[socket.AddressFamily, Any]:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ListenError(f"cannot listen on {address}: the host has no address: {error}") from error
    return socket.AddressFamily(found[0][0]), found[0][4]


def _probe(family: int, where: Any) -> None:
    """Bind once without SO_REUSEPORT: with it, a second server of the same user would join the group."""
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(where)


def _open_inet(family: int, where: Any, options: SocketOptions) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        _set_options(sock, options)
        sock.bind(where)
        sock.listen(options.backlog)
    except OSError:
        sock.close()
        raise
    return sock


def _set_options(sock: socket.socket, options: SocketOptions) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, int(options.nodelay))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(options.keepalive > 0))
    if options.keepalive > 0:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, round(options.keepalive)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(options.user_timeout * 1000))


def _open_unix(path: str, options: SocketOptions) -> socket.socket:
    """Listen under a temporary name, then rename: the path is never without a server that answers."""
    refuse_live(path)
    temporary = f"{path}.{os.getpid()}"
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.bind(temporary)
        sock.listen(options.backlog)
        os.rename(temporary, path)
    except OSError as error:
        sock.close()
        if os.path.lexists(temporary):
            os.unlink(temporary)
        raise ListenError(f"cannot listen on unix://{path}: {error.strerror or error}") from error
    return sock


def refuse_live(path: str) -> None:
    """Check that a unix path is free, or the left-over of a server that is gone.

    Raises:
        ListenError: a server answers there, or it is no socket.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise ListenError(f"cannot listen on unix://{path}: {error.strerror}") from error
    if not stat.S_ISSOCK(mode):
        raise ListenError(f"cannot listen on unix://{path}: a file is there that is no socket; remove it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            sock.connect(path)
        except ConnectionRefusedError:  # connect(2): nobody listens any more
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise ListenError(f"cannot listen on unix://{path}: {error.strerror}") from error
    raise ListenError(f"cannot listen on unix://{path}: a server answers there; stop it first")
