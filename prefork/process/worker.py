"""A worker's life: the one place where the processes' wing and the bytes' wing meet.

It runs the event loop, serves what the master tells it to watch, and leaves when it is told, or when the
master is gone, which it learns from the end of its channel.

Knows: its plan, its slot, its server. Does not know: other workers, why it is told what it is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from setproctitle import setproctitle

from prefork.errors import ConfigError, PreforkError
from prefork.log import install
from prefork.metrics import REGISTRY
from prefork.net.acceptor import Shift
from prefork.net.lookout import Lookout
from prefork.net.loop import READABLE, Selector, new_loop
from prefork.net.pulse import Pulse
from prefork.net.server import Loadout, Server
from prefork.net.service import USER_ERRORS, Draining, Worksite
from prefork.net.survey import answer_survey, end_denied
from prefork.net.tally import Tally
from prefork.net.tap import open_tap
from prefork.process.alarm import Alarm
from prefork.process.channel import Channel
from prefork.process.kernel import close_all_but, die_with_parent
from prefork.process.loading import Apps, describe_failure, import_apps
from prefork.process.messages import (
    Cover,
    Drain,
    Found,
    Left,
    Ready,
    ReopenLogs,
    SetLevel,
    Spawn,
    Spawned,
    Survey,
    Tired,
    Uncover,
)
from prefork.process.plan import Plan

BEAT_SECONDS = 0.25  # or a quarter of timeouts.beat, if that is less
ROWS_PER_PACKET = 100  # of an answer; each has some 300 bytes
ORPHAN_SECONDS = 2.0  # to finish what is open when the master is gone
ORPHAN_ALARM_SECONDS = 3  # for a loop that stands still then

log = logging.getLogger("prefork")


def log_unraisable(event: sys.UnraisableHookArgs) -> None:
    """Log what nobody can catch, one record each, where Python would write to standard error.

    A server name that is no ASCII (RFC 6066, 3) fails so within the ssl module; its handshake fails with it, and
    that is told there.
    """
    error = event.exc_value
    if not (isinstance(error, UnicodeDecodeError) and isinstance(event.object, bytes)):
        log.error("%s: %s", event.err_msg or "an exception was ignored", event.object, exc_info=error)


class Worker:
    """The process that serves clients."""

    def __init__(self, plan: Plan, order: Spawn, fds: list[int], apps: Apps | None) -> None:
        """Be told who one is.

        Args:
            fds: the channel, and the pipe that the stack is written to.
            apps: None: import them here.
        """
        self._plan = plan
        self._order = order
        self._channel_fd, self._stack_fd = fds
        self._channel = Channel(socket.socket(fileno=self._channel_fd))
        self._apps = apps
        self._title = ""
        self._exit_code = 0
        self._give_up_ports: Callable[[], None] = lambda: None

    def run(self, parent: int) -> int:
        """Live the process's life; return its exit code.

        Args:
            parent: the pid of the process in between, which is about to leave this one to the master.
        """
        plan, slot = self._plan, self._order.slot
        close_all_but({0, 1, 2, plan.log.fd, self._channel_fd, self._stack_fd})
        self._channel.send(Spawned(os.getpid()))
        who = f"worker {slot} g{plan.generation}"
        install(plan.log, plan.config.log, who=who, slot=slot, generation=plan.generation)
        sys.unraisablehook = log_unraisable
        faulthandler.enable(file=self._stack_fd)
        faulthandler.register(signal.SIGUSR2, file=self._stack_fd)
        signal.signal(signal.SIGQUIT, self._on_orphaned)
        die_with_parent(signal.SIGQUIT)  # the process in between first, then the master
        if os.getppid() not in (parent, plan.master_pid):  # the master has died meanwhile
            return 1
        try:
            apps = self._apps or import_apps(plan)
            loop, selector = new_loop()
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                self._run_to_end(runner, self._serve(loop, selector, apps))
        except PreforkError as error:
            self._channel.send(describe_failure(error))
            return 3
        return self._exit_code

    def _run_to_end(self, runner: asyncio.Runner, serve: Coroutine[None, None, None]) -> None:
        """Run the loop until `serve` returns.

        asyncio lets a SystemExit of any task end the loop; the task has it too, and costs its connection alone.
        """
        main = runner.get_loop().create_task(serve)
        while not main.done():
            try:
                runner.get_loop().run_until_complete(main)
            except SystemExit as error:
                log.error("a handler called sys.exit(%r): that ends its connection, not the worker", error.code)
        main.result()

    async def _serve(self, loop: asyncio.AbstractEventLoop, selector: Selector, apps: Apps) -> None:
        label = f"{self._order.slot}.g{self._plan.generation}.{os.getpid()}"
        page = self._plan.scoreboard.page(self._order.seat)
        REGISTRY.bind(page)
        site = Worksite(loop, selector, Tally(page), Draining(), label)
        plan = self._plan
        site.journal.share = plan.config.log.access
        loadout = Loadout(apps.found, plan.firewalls, plan.securities, plan.datagrams)
        self._server = Server(plan.config.listeners, loadout, site, plan.scoreboard, self._order.seat)
        self._give_up_ports = self._server.give_up
        self._is_over = asyncio.Event()
        pulse = Pulse(site, min(BEAT_SECONDS, self._plan.config.timeouts.beat / 4), self._on_beat)
        async with contextlib.AsyncExitStack() as stack:
            await self._enter_lifespan(stack, apps)
            loop.add_signal_handler(signal.SIGTERM, self._channel.send, Tired("SIGTERM"))
            selector.watch(self._channel_fd, self, READABLE)
            limit = plan.config.log.slow_turn
            alarm = Alarm(Lookout(site, limit).look, limit)
            self._channel.send(Ready(REGISTRY.declared))
            REGISTRY.is_closed = True
            await self._is_over.wait()
            alarm.stop()
            self._server.close()
        pulse.close()
        # asyncio closes its self-pipe before it takes the signals' wake-up descriptor back.
        signal.set_wakeup_fd(-1)

    async def _enter_lifespan(self, stack: contextlib.AsyncExitStack, apps: Apps) -> None:
        name = self._plan.config.lifespan
        if not name:
            return
        lifespan = apps.found[name]
        try:
            await stack.enter_async_context(lifespan() if callable(lifespan) else lifespan)
        except Exception as error:
            raise ConfigError([f"cannot enter lifespan {name}: {type(error).__name__}: {error}"]) from error

    def on_event(self, mask: int) -> None:  # noqa: ARG002  # whatever the event, a read tells
        messages = self._channel.receive()
        if messages is None:
            self._server.site.selector.unwatch(self._channel_fd)
            log.error("the master is gone: finishing what is open, then leaving")
            self._drain(Drain(ORPHAN_SECONDS, 0.0, ORPHAN_SECONDS / 2, is_last=False))
            return
        for order, fds in messages:
            if isinstance(order, Cover) and not fds:  # recvmsg(2) drops what there is no room for
                log.error("cannot watch %s: no file descriptor is left; raise `ulimit -n`", order.listener)
            elif isinstance(order, Cover):
                self._cover(order, fds[0])
            elif isinstance(order, Uncover):
                self._server.unwatch(order.listener, order.slot)
                self._channel.send(Left())
            elif isinstance(order, Drain):
                self._drain(order)
                self._channel.send(Left())
            elif isinstance(order, Survey):
                self._answer(order, fds)
            elif isinstance(order, SetLevel):
                logging.root.setLevel(order.level.upper())
            elif isinstance(order, ReopenLogs) and fds:
                self._plan.log.redirect(fds[0])

    def _cover(self, order: Cover, fd: int) -> None:
        partner = None if order.partner is None else self._plan.scoreboard.page(order.partner)
        try:
            self._server.watch(order.listener, order.slot, fd, Shift(order.watch, partner))
        except USER_ERRORS as error:
            log.error("the app cannot serve %s: %s", order.listener, error, exc_info=error)
            self._exit_code = 1
            self._is_over.set()

    def _drain(self, order: Drain) -> None:
        leave = (order.leave_from, order.leave_until)
        if self._server.site.draining.begun:
            self._server.hasten(order.seconds, leave, self._is_over.set)
        else:
            self._server.drain(order.seconds, leave, order.is_last, self._is_over.set)

    def _answer(self, survey: Survey, fds: list[int]) -> None:
        """Answer a question in parts that fit into a packet."""
        rows: list[Any] = []
        try:
            if survey.command == "capture":
                self._capture(survey.arguments, fds)
            elif survey.command == "deny" and fds:
                rows = end_denied(self._server.site, survey.arguments["listener"], fds[0])
            elif survey.command == "captures":
                journal = self._server.site.journal
                rows = [[self._order.slot, journal.untapped]] if journal.tap or journal.untapped else []
            else:
                rows = answer_survey(self._server.site, self._order.slot, survey.command, survey.arguments)
        except (PreforkError, ValueError, TypeError) as error:
            log.error("cannot answer a question: %s", error)
        for start in range(0, max(1, len(rows)), ROWS_PER_PACKET):
            part = rows[start : start + ROWS_PER_PACKET]
            self._channel.send(Found(survey.number, part, start + ROWS_PER_PACKET >= len(rows)))

    def _capture(self, wanted: dict[str, Any], fds: list[int]) -> None:
        site = self._server.site
        if site.journal.tap is not None:
            site.journal.tap.close("it was ended")
        site.journal.untapped = ""
        if fds:
            open_tap(site, self._order.slot, fds[0], wanted)

    def _on_beat(self) -> None:
        self._server.tell_time()
        self._show_title()

    def _show_title(self) -> None:
        site = self._server.site
        state = " draining" if site.draining.begun else ""
        title = (
            f"prefork: worker {self._order.slot} g{self._plan.generation} "
            f"[{','.join(self._server.names)}] {site.tally.open} connections{state}"
        )
        if title != self._title:
            self._title = title
            setproctitle(title)

    def _on_orphaned(self, number: int, frame: object) -> None:  # noqa: ARG002  # a signal handler's arguments
        """The master may be gone. If so, a loop that stands still gives up the port here, and ends soon."""
        if os.getppid() != self._plan.master_pid:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(ORPHAN_ALARM_SECONDS)
            self._give_up_ports()
