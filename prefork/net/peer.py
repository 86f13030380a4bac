"""Who is at the other end of a socket, and how that is written.

Knows: addresses, SO_PEERCRED of unix(7). Does not know: connections, what a user may do.
"""

from __future__ import annotations

import socket
import struct
from typing import Any, NamedTuple

UCRED = struct.Struct("@iII")  # struct ucred: pid, uid, gid
MAX_PEER_CHARACTERS = 120


class Credentials(NamedTuple):
    """The process that connected, as it was at that moment."""

    pid: int
    uid: int
    gid: int

    def __str__(self) -> str:
        return f"pid {self.pid} (uid {self.uid}, gid {self.gid})"


def read_credentials(sock: socket.socket) -> Credentials:
    """Return who has connected to a unix socket."""
    return Credentials(*UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size)))


def name_peer(peer: Any) -> str:
    """Return an address in a few characters: 192.0.2.7:1234, [2001:db8::7]:1234, or what stands for it."""
    if type(peer) is tuple and len(peer) > 1 and type(peer[0]) is str:
        host, port = peer[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return str(peer)[:MAX_PEER_CHARACTERS]
