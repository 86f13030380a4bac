"""Who is at the other end of a unix socket.

Knows: SO_PEERCRED of unix(7). Does not know: connections, what a user may do.
"""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

UCRED = struct.Struct("@iII")  # struct ucred: pid, uid, gid


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
