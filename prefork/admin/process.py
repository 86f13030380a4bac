"""The admin process: health, metrics and the dashboard over HTTP, on a loop of its own.

It asks the master, and reads nothing of the workers: it may die, hang or be flooded, and nobody else notices.

Knows: its plan, its socket, the channel to the master. Does not know: how answers are made, workers.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import signal
import socket

from setproctitle import setproctitle

from prefork.admin.desk import Desk
from prefork.admin.site import Site
from prefork.config.limits import Limits
from prefork.config.model import ListenerConfig
from prefork.log import install
from prefork.net.acceptor import Shift
from prefork.net.loop import Selector, new_loop
from prefork.net.pulse import Pulse
from prefork.net.server import Loadout, Server
from prefork.net.service import Draining, Worksite
from prefork.net.tally import Tally
from prefork.process.kernel import close_all_but, die_with_parent
from prefork.process.plan import Plan
from prefork.process.privileges import step_down
from prefork.scoreboard import Notice
from prefork.watch import Watch

NAME = "admin"
BEAT_SECONDS = 0.25
LIMITS = Limits(connections=256, when_full="oldest", per_ip=0, idle=120.0, life=0.0, lag=0.0)

log = logging.getLogger("prefork.admin")


class AdminProcess:
    """Serves the site until the master is gone."""

    def __init__(self, plan: Plan, seat: int, fd: int, channel: socket.socket) -> None:
        self._plan = plan
        self._seat = seat
        self._fd = fd
        self._channel = channel

    def run(self) -> int:
        """Live the process's life; return its exit code."""
        plan = self._plan
        close_all_but({0, 1, 2, plan.log.fd, self._fd, self._channel.fileno()})
        install(plan.log, plan.config.log, who=NAME)
        setproctitle("prefork: admin")
        for warning in step_down(plan.config.user, None):
            log.warning("%s", warning)
        die_with_parent(signal.SIGKILL)
        loop, selector = new_loop()
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(self._serve(loop, selector))
        return 0

    async def _serve(self, loop: asyncio.AbstractEventLoop, selector: Selector) -> None:
        plan = self._plan
        desk = await Desk.open(self._channel)
        site = Site(desk, plan.config.admin)
        work = Worksite(loop, selector, Tally(plan.scoreboard.page(self._seat)), Draining(), NAME)
        listeners = [ListenerConfig(bind=str(plan.config.admin.bind), app=NAME, name=NAME, limits=LIMITS)]
        board = copy.copy(plan.scoreboard)
        board.notice = Notice()  # a ban keeps nobody from asking how the server is
        server = Server(listeners, Loadout({NAME: site.serve}), work, board, self._seat)
        pulse = Pulse(work, min(BEAT_SECONDS, plan.config.timeouts.beat / 4), server.tell_time)
        server.watch(NAME, 0, self._fd, Shift(Watch.FIRST))
        fresh = asyncio.ensure_future(site.processes.keep_fresh())
        await desk.wait_gone()
        fresh.cancel()
        server.close()
        pulse.close()
        signal.set_wakeup_fd(-1)
