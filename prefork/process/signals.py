"""Signals as the master gets them: caught, written down, and read by its loop.

Knows: signal numbers, a pipe. Does not know: what any of them means.
"""

from __future__ import annotations

import os
import signal
from collections import deque

from prefork.process.kernel import HANDLED


class SignalInbox:
    """Catches signals; its descriptor is readable while some were not taken yet."""

    def __init__(self) -> None:
        self._caught: deque[int] = deque()
        self._read_fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # The C handler writes one byte per signal, also between fork and handler; a full pipe is no loss,
        # since it is readable, and the numbers are kept here.
        signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for number in HANDLED:
            signal.signal(number, self._catch)

    def fileno(self) -> int:
        return self._read_fd

    def _catch(self, number: int, frame: object) -> None:  # noqa: ARG002  # a signal handler's arguments
        self._caught.append(number)

    def take(self) -> list[int]:
        """Return the signals since the last call, in the order of their coming."""
        try:
            while os.read(self._read_fd, 4096):
                pass
        except BlockingIOError:  # the pipe is empty
            pass
        caught = []
        while self._caught:
            caught.append(self._caught.popleft())
        return caught

    def close(self) -> None:
        """Ignore what comes in the last moments: the server has ended, and its exit status is to say so."""
        signal.set_wakeup_fd(-1)
        for number in HANDLED:
            signal.signal(number, signal.SIG_DFL if number == signal.SIGCHLD else signal.SIG_IGN)
        os.close(self._read_fd)
        os.close(self._write_fd)
