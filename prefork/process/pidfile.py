"""The pid file: says who the master is, and is locked while it lives.

The lock is a POSIX one (fcntl(2)): it is not inherited by children, and the kernel gives it up with the process.

Knows: one path. Does not know: what the process does.
"""

from __future__ import annotations

import fcntl
import os

from prefork.errors import BootError


class PidFile:
    """A file with our pid, held for as long as this object is open."""

    def __init__(self, path: str) -> None:
        """Write the file; one that a dead process has left is replaced.

        Raises:
            BootError: a living process holds it, or it cannot be written.
        """
        self._path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise BootError(f"cannot write pidfile {path}: {error.strerror}; set `pidfile:`") from error
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(self._fd, 32).decode("ascii", "replace").strip()
            os.close(self._fd)
            raise BootError(
                f"cannot take pidfile {path}: the server with pid {owner} holds it; stop it first"
            ) from error
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Remove the file, then give up the lock: nobody sees it unlocked and ours."""
        try:
            os.unlink(self._path)
        except OSError:  # removed by somebody else, or not ours to remove any more
            pass
        os.close(self._fd)
