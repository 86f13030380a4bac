"""The admin process, as the master keeps it: started, watched by its beat, started again when it is gone.

What becomes of it is nothing to the workers, and to the master no more than a channel that ends.

Knows: one process, its socket, its seat. Does not know: HTTP, what it is asked.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
from collections.abc import Callable
from typing import Any

from prefork.errors import PreforkError
from prefork.process.control import Answer, ControlClient
from prefork.process.kernel import Kernel
from prefork.process.listener import Listener
from prefork.process.plan import Plan
from prefork.process.roster import FIRST_BACKOFF_SECONDS, LAST_BACKOFF_SECONDS
from prefork.scoreboard import Cell

STABLE_SECONDS = 5.0

log = logging.getLogger("prefork")


class Attendant:
    """The supervision of the admin process, if the config wants one."""

    def __init__(
        self, kernel: Kernel, clock: Callable[[], float], selector: selectors.BaseSelector, answer: Answer
    ) -> None:
        self._kernel = kernel
        self._clock = clock
        self._selector = selector
        self._answer = answer
        self._plan: Plan | None = None
        self._listener: Listener | None = None
        self._pid: int | None = None
        self._client: ControlClient | None = None
        self._seat: int | None = None
        self._times = (0.0, 0.0)  # when it was started, and when it may be
        self._failures = 0

    @property
    def bound(self) -> str | None:
        """Where it listens, with its real port."""
        return None if self._listener is None else str(self._listener.bound)

    def configure(self, plan: Plan, listener: Listener | None) -> None:
        """Serve as a generation wants it.

        Args:
            listener: which somebody else closes; None: there is to be no admin process.
        """
        before, self._plan = self._plan, plan
        if listener is not None and listener is not self._listener:
            log.info("admin listens on %s", listener.bound)
        self._listener = listener
        if before is not None:
            self.end()
        self._failures, self._times = 0, (0.0, 0.0)

    def tend(self) -> None:
        """Start it if it is not there; end it if it stands still."""
        now = self._clock()
        if self._plan is None or self._listener is None:
            return
        if self._pid is None:
            if now >= self._times[1]:
                self._start(now)
            return
        beat = max(self._page()[Cell.BEAT] / 1e9, self._times[0])
        if now - beat > self._plan.config.timeouts.beat:
            log.error("admin (pid %d) has not been round its loop for timeouts.beat", self._pid)
            self._kernel.kill(self._pid, signal.SIGKILL)
            self._times = (now, now)

    def _page(self) -> Any:
        assert self._plan is not None
        assert self._seat is not None
        return self._plan.scoreboard.page(self._seat)

    def _start(self, now: float) -> None:
        plan, listener = self._plan, self._listener
        assert plan is not None
        assert listener is not None
        self._seat = plan.scoreboard.borrow()
        ours, theirs = socket.socketpair()
        seat, fd = self._seat, listener.sockets[0].fileno()
        try:
            self._pid = self._kernel.fork(lambda: live(plan, seat, fd, theirs))
        except OSError as error:
            log.error("cannot start the admin process: %s", error.strerror)
            ours.close()
            self._forget(now)
            return
        finally:
            theirs.close()
        self._times = (now, now)
        self._client = ControlClient(ours, self._selector, self._answer, lambda client: None)  # noqa: ARG005

    def on_exit(self, pid: int, status: int) -> bool:
        """Take note of an exit; return False if it was another's."""
        if pid != self._pid:
            return False
        code = os.waitstatus_to_exitcode(status)
        reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self._forget(self._clock())
        log.error(
            "admin (pid %d) ended by %s; started again in %.1f s", pid, reason, self._times[1] - self._clock()
        )
        return True

    def _forget(self, now: float) -> None:
        if self._plan is not None and self._seat is not None:
            self._plan.scoreboard.give_back(self._seat)
        if self._client is not None:
            self._client.close()
        is_stable = now - self._times[0] > STABLE_SECONDS
        self._failures = 0 if is_stable else min(self._failures + 1, 16)
        wait = 0.0 if is_stable else min(FIRST_BACKOFF_SECONDS * 2.0**self._failures, LAST_BACKOFF_SECONDS)
        self._pid = self._client = self._seat = None
        self._times = (now, now + wait)

    def deadlines(self) -> list[float]:
        """Return when it has to be looked at again."""
        return [self._times[1]] if self._listener is not None and self._pid is None else []

    def end(self) -> None:
        """End the process, and wait for that: it holds nothing that could be lost."""
        if self._pid is not None:
            self._kernel.kill(self._pid, signal.SIGKILL)
            try:
                os.waitpid(self._pid, 0)
            except ChildProcessError:  # it was reaped as a stranger
                pass
            self._forget(self._clock())

    def close(self) -> None:
        """End it for good."""
        self.end()
        self._plan = self._listener = None


def live(plan: Plan, seat: int, fd: int, channel: socket.socket) -> int:
    """Be the admin process; return its exit code."""
    from prefork.admin.process import AdminProcess  # which needs asyncio: the master does not

    try:
        return AdminProcess(plan, seat, fd, channel).run()
    except PreforkError as error:
        log.error("the admin process cannot start: %s", error)
        return 3
