"""The mold of a generation: imports the app once, then forks workers from itself on the master's orders.

It is the preload that can be reloaded: a new generation has a new mold, and code that cannot be imported is
found here, before any worker is touched. Workers are forked twice, so that the master is their parent.

Knows: its plan, its channel. Does not know: sockets, clients, how many workers there are to be.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import stat
import threading

from setproctitle import setproctitle

from prefork.errors import PreforkError
from prefork.log import install
from prefork.process.channel import Channel
from prefork.process.kernel import close_all_but, die_with_parent
from prefork.process.loading import Apps, describe_failure, import_apps, settle_in
from prefork.process.messages import Ready, ReopenLogs, Spawn
from prefork.process.plan import Plan
from prefork.process.privileges import step_down
from prefork.process.worker import Worker

log = logging.getLogger("prefork")


class Mold:
    """The process between the master and the workers of one generation."""

    def __init__(self, plan: Plan, channel: socket.socket) -> None:
        self._plan = plan
        self._channel_fd = channel.fileno()
        self._channel = Channel(channel)
        self._apps: Apps | None = None
        self._warned: set[str] = set()

    def run(self) -> int:
        """Live the process's life; return its exit code."""
        plan = self._plan
        close_all_but({0, 1, 2, plan.log.fd, self._channel_fd})
        install(plan.log, plan.config.log, who=f"mold g{plan.generation}", generation=plan.generation)
        setproctitle(f"prefork: mold g{plan.generation}")
        try:
            self._step_down()
            die_with_parent(signal.SIGKILL)  # an import may never look at the channel; setuid(2) forgets it
            if plan.config.preload:
                self._apps = import_apps(self._plan)
        except PreforkError as error:
            self._channel.send(describe_failure(error))
            return 3
        gc.collect()
        gc.freeze()  # else the collector writes into every object's header, and no page stays shared
        self._channel.send(Ready())
        return self._obey()

    def _step_down(self) -> None:
        """Be who the workers are to be, where they are to be, before anything of the user is imported."""
        config = self._plan.config
        if config.umask is not None:
            os.umask(config.umask)
        if config.chroot:
            self._plan = settle_in(config.chroot, self._plan)
        for warning in step_down(config.user, config.chroot):
            log.warning("%s", warning)

    def _obey(self) -> int:
        while True:
            message = self._channel.wait()
            if message is None:  # the master is gone, or wants this generation no more
                return 0
            order, fds = message
            if isinstance(order, Spawn):
                self._spawn(order, fds)
            elif isinstance(order, ReopenLogs) and fds:
                self._plan.log.redirect(fds[0])

    def _spawn(self, order: Spawn, fds: list[int]) -> None:
        self._warn_of_threads()
        self._warn_of_sockets(fds)
        kernel = self._plan.kernel
        try:
            go_between = kernel.fork(lambda: self._beget(order, fds))
            os.waitpid(go_between, 0)
        except OSError as error:  # the worker's channel ends with its descriptor: the master learns of it so
            log.error("cannot fork a worker: %s", error)
        for fd in fds:
            os.close(fd)

    def _beget(self, order: Spawn, fds: list[int]) -> int:
        """Be the process in between: its end makes the worker a child of the master."""
        parent = os.getpid()
        self._plan.kernel.fork(lambda: Worker(self._plan, order, fds, self._apps).run(parent))
        return 0

    def _warn_of_threads(self) -> None:
        for thread in threading.enumerate():
            if thread is not threading.main_thread():
                self._warn(
                    f"thread {thread.name!r}",
                    f"the app started the thread {thread.name!r} at import: it does not live on in the workers, "
                    "and a lock that it holds is held there for ever; start it in `lifespan:`, or set "
                    "`preload: false`",
                )

    def _warn_of_sockets(self, fds: list[int]) -> None:
        known = {0, 1, 2, self._plan.log.fd, self._channel_fd, *fds}
        try:
            names = os.listdir("/proc/self/fd")
        except OSError:  # after a change of user a process may not look at itself, proc(5)
            return
        for fd in map(int, names):
            try:
                is_socket = fd not in known and stat.S_ISSOCK(os.fstat(fd).st_mode)
            except OSError:  # the descriptor of the listing itself
                continue
            if is_socket:
                self._warn(
                    f"socket {fd}",
                    f"the app opened a socket at import (descriptor {fd}): all workers share it; open it in "
                    "`lifespan:`, or set `preload: false`",
                )

    def _warn(self, key: str, text: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            log.error(text)
