"""An alarm that looks at the process's main thread from within: setitimer(2) and SIGALRM.

System calls that wait are interrupted too; only C code that does not come back to the interpreter for a while is
seen when it ends. A second thread would see that no earlier, and share the table of descriptors: each system call
is 60 ns dearer then (fdget() of the kernel's fs/file.c), and a table that grows waits for RCU, some 15 ms. An app
that sets SIGALRM itself has it.

Knows: one signal. Does not know: what is looked for.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from types import FrameType

LEAST_SECONDS = 0.005

log = logging.getLogger("prefork")

Look = Callable[[FrameType | None, float], float]


class Alarm:
    """Calls `look` with the frame that it meets and the time; `look` returns the seconds until the next time."""

    def __init__(self, look: Look, seconds: float) -> None:
        """Begin, unless the app has a handler of SIGALRM; for the main thread alone.

        Args:
            seconds: until the first time; 0: never.
        """
        self._look = look
        self._is_over = not seconds
        if self._is_over or signal.getitimer(signal.ITIMER_REAL)[0]:  # an orphan has its last seconds
            return
        if signal.getsignal(signal.SIGALRM) not in (signal.SIG_DFL, signal.SIG_IGN):
            log.warning("log.slow_turn has no effect: the app has a handler of SIGALRM")
            return
        signal.signal(signal.SIGALRM, self._ring)
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def _ring(self, _number: int, frame: FrameType | None) -> None:
        try:
            wait = self._look(frame, time.monotonic())
        except Exception:  # what is interrupted is anybody's code, into which it would be raised
            log.exception("cannot look at a slow turn; log.slow_turn has no effect any more")
            return
        if not self._is_over and signal.getsignal(signal.SIGALRM) == self._ring:
            signal.setitimer(signal.ITIMER_REAL, max(LEAST_SECONDS, wait))

    def stop(self) -> None:
        self._is_over = True
        if signal.getsignal(signal.SIGALRM) == self._ring:
            signal.setitimer(signal.ITIMER_REAL, 0)
