"""Sockets that were opened by who started the server: systemd's, or any under a number (sd_listen_fds(3)).

Knows: LISTEN_FDS, LISTEN_FDNAMES, descriptors. Does not know: listeners, workers.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field

from prefork.address import Address
from prefork.errors import ListenError
from prefork.process.binding import set_datagram_options

FIRST_FD = 3  # SD_LISTEN_FDS_START


@dataclass(frozen=True, slots=True)
class Inheritance:
    """What was open when the server started.

    Attributes:
        fds: the descriptors.
        names: of sockets, by systemd's names.
    """

    fds: frozenset[int] = frozenset()
    names: Mapping[str, int] = field(default_factory=dict)

    def find(self, address: Address) -> socket.socket:
        """Return a socket for an `fd://` address; closing it leaves the inherited one open.

        Raises:
            ListenError: nothing was inherited under that number or name, or it is no socket that can serve.
        """
        fd = int(address.path) if address.path.isdecimal() else self.names.get(address.path)
        if fd is None:
            known = ", ".join(sorted(self.names)) or "none"
            raise ListenError(f"cannot serve {address}: no socket of that name was inherited; there are {known}")
        if fd not in self.fds:
            raise ListenError(f"cannot serve {address}: descriptor {fd} was not inherited; pass it to the server")
        try:
            sock = socket.socket(fileno=os.dup(fd))
        except OSError as error:
            raise ListenError(f"cannot serve {address}: descriptor {fd} is no socket: {error.strerror}") from error
        reason = _unfit(sock)
        if reason:
            sock.close()
            raise ListenError(f"cannot serve {address}: {reason}")
        sock.setblocking(False)
        if sock.type == socket.SOCK_DGRAM and sock.family != socket.AF_UNIX:
            set_datagram_options(sock)
        return sock

    def is_datagram(self, address: Address) -> bool:
        """Whether an address stands for datagrams; of an inherited one the socket tells.

        Raises:
            ListenError: nothing was inherited under that number or name.
        """
        if not address.is_inherited:
            return address.is_datagram
        with self.find(address) as sock:
            return sock.type == socket.SOCK_DGRAM


def _unfit(sock: socket.socket) -> str:
    if sock.type == socket.SOCK_DGRAM:
        return ""
    if sock.type != socket.SOCK_STREAM:
        return "it is neither a stream nor a datagram socket"
    is_listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    return "" if is_listening else "the socket does not listen; call listen(2) before exec"


def take_inheritance(environ: Mapping[str, str]) -> Inheritance:
    """Find out what is open, before anything of our own is, and keep it from the programs that apps start."""
    names: dict[str, int] = {}
    count = environ.get("LISTEN_FDS", "")
    if count.isdecimal() and environ.get("LISTEN_PID", str(os.getpid())) == str(os.getpid()):
        given = environ.get("LISTEN_FDNAMES", "").split(":")[: int(count)]
        names = {name: FIRST_FD + place for place, name in reversed(list(enumerate(given))) if name}
    fds = {int(name) for name in os.listdir("/proc/self/fd") if int(name) >= FIRST_FD}
    mine = frozenset(fd for fd in fds if os.path.exists(f"/proc/self/fd/{fd}"))  # listdir's own is gone again
    for fd in mine:
        os.set_inheritable(fd, False)
    return Inheritance(mine, names)
