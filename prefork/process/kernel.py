"""What prefork asks of the operating system beyond sockets: five calls, so that tests need no patching.

Knows: fork, kill, waitpid, prctl. Does not know: why.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_CHILD_SUBREAPER = 36
HANDLED = (
    signal.SIGTERM,
    signal.SIGQUIT,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGCHLD,
)


class Kernel:
    """The real one; a test brings its own with the same methods."""

    def fork(self, run: Callable[[], int]) -> int:
        """Fork; the child runs `run` and exits with what it returns.

        All signals are blocked over the fork until the child has handlers of its own, which do nothing: it acts
        on the master's orders, also when a whole process group or cgroup gets a signal.

        Returns:
            The child's pid.

        Raises:
            OSError: there is no room for another process.
        """
        sys.stdout.flush()
        sys.stderr.flush()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
        try:
            pid = os.fork()
            if pid == 0:
                _become(run)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        return pid

    def kill(self, pid: int, number: int) -> None:
        """Send a signal; a process that is gone already is no error."""
        try:
            os.kill(pid, number)
        except ProcessLookupError:  # it has ended, and its exit will be reaped or has been
            pass

    def reap(self) -> list[tuple[int, int]]:
        """Return (pid, wait status) of all children that have ended, strangers too."""
        gone: list[tuple[int, int]] = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return gone
            if pid == 0:
                return gone
            gone.append((pid, status))

    def adopt_orphans(self) -> bool:
        """Become the parent of orphaned descendants, PR_SET_CHILD_SUBREAPER of prctl(2)."""
        return prctl(PR_SET_CHILD_SUBREAPER, 1) == 0


def _ignore(number: int, frame: object) -> None:
    """Do nothing. SIG_IGN would be inherited by the programs that user code starts, execve(2)."""


def _become(run: Callable[[], int]) -> None:
    """Run a child's whole life; never returns.

    The parent's objects stay referenced by the frames below this one, so that none of them is ever finalised
    here and closes a descriptor by a number that means something else by then.
    """
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in HANDLED:
            signal.signal(number, _ignore)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
        code = run()
    except BaseException:  # noqa: BLE001  # the top of a process: nothing above may unwind the parent's frames
        sys.excepthook(*sys.exc_info())
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def prctl(option: int, value: int = 0) -> int:
    """Call prctl(2) with one argument; the others are 0, as several options demand.

    Returns:
        What the kernel says; -1: it refuses, or does not know the option.
    """
    arguments = [ctypes.c_ulong(number) for number in (value, 0, 0, 0)]
    return int(ctypes.CDLL(None, use_errno=True).prctl(option, *arguments))


def die_with_parent(number: int) -> None:
    """Ask for a signal when the parent ends, PR_SET_PDEATHSIG of prctl(2)."""
    prctl(PR_SET_PDEATHSIG, number)


def close_all_but(keep: set[int]) -> None:
    """Close every descriptor but some: a listening socket that is forgotten here is a black hole."""
    start = 0
    for fd in sorted(keep):
        if fd > start:
            os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, max(start, os.sysconf("SC_OPEN_MAX")))
