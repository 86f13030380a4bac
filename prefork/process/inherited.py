"""Sockets that were opened by who started the server: systemd's, or any under a number (sd_listen_fds(3)).

Knows: LISTEN_FDS, LISTEN_FDNAMES, descriptors. Does not know: listeners, workers.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

from prefork.address import Address
from prefork.errors import ListenError

FIRST_FD = 3  # SD_LISTEN_FDS_START
VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def find_inherited(address: Address, environ: MutableMapping[str, str]) -> socket.socket:
    """Return a socket for an `fd://` address; closing it leaves the inherited one open.

    Raises:
        ListenError: nothing was inherited under that number or name, or it is no socket that can serve.
    """
    fd = int(address.path) if address.path.isdecimal() else _named(address, environ)
    try:
        sock = socket.socket(fileno=os.dup(fd))
    except OSError as error:
        raise ListenError(f"cannot serve {address}: descriptor {fd} is no socket: {error.strerror}") from error
    is_stream = sock.type == socket.SOCK_STREAM
    if is_stream and not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.close()
        raise ListenError(f"cannot serve {address}: the socket does not listen; call listen(2) before exec")
    if sock.type not in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        sock.close()
        raise ListenError(f"cannot serve {address}: it is neither a stream nor a datagram socket")
    sock.setblocking(False)
    return sock


def _named(address: Address, environ: MutableMapping[str, str]) -> int:
    if environ.get("LISTEN_PID", str(os.getpid())) != str(os.getpid()):
        raise ListenError(f"cannot serve {address}: the sockets are for process {environ['LISTEN_PID']}")
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    count = int(environ.get("LISTEN_FDS", "0") or 0)
    if address.path not in names[:count]:
        known = ", ".join(names[:count]) or "none"
        raise ListenError(f"cannot serve {address}: no socket of that name was inherited; there are {known}")
    return FIRST_FD + names.index(address.path)


def is_datagram(address: Address, environ: MutableMapping[str, str]) -> bool:
    """Whether an address stands for datagrams; of an inherited one the socket tells.

    Raises:
        ListenError: nothing was inherited under that number or name.
    """
    if not address.is_inherited:
        return address.is_datagram
    with find_inherited(address, environ) as sock:
        return sock.type == socket.SOCK_DGRAM


def claim(environ: MutableMapping[str, str]) -> None:
    """Keep what was inherited from the processes that apps start, sd_listen_fds(3)."""
    count = environ.get("LISTEN_FDS", "0")
    for fd in range(FIRST_FD, FIRST_FD + int(count) if count.isdecimal() else FIRST_FD):
        try:
            os.set_inheritable(fd, False)
        except OSError:  # there are fewer than the variable says
            break
