"""The master: binds, forks, supervises; turns signals and commands into a target, and steps towards it.

It has one thread and one loop, never waits inside a handler, never imports user code, and never reads a
client's byte.

Knows: the target, the books and those who keep them. Does not know: what is served, how a worker works.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

from setproctitle import setproctitle

from prefork.config import Loaded
from prefork.config.model import MAX_WORKERS
from prefork.errors import BootError, PreforkError
from prefork.log import build_handler, install, open_log
from prefork.process.control import ControlServer
from prefork.process.course import Course, Ending
from prefork.process.crew import Crew, Death
from prefork.process.foundry import Foundry
from prefork.process.kernel import Kernel
from prefork.process.messages import Drain
from prefork.process.notify import Notifier
from prefork.process.operations import Operations
from prefork.process.pidfile import PidFile
from prefork.process.plan import Plan, app_directories
from prefork.process.ports import Ports, Watchers
from prefork.process.reload import Generation, Source, Staff, build_generation
from prefork.process.reloads import Reloads
from prefork.process.roster import Action, State, Step, WorkerRecord, reconcile
from prefork.process.signals import SignalInbox
from prefork.scoreboard import Scoreboard
from prefork.wire import default_control

SEATS = 4 * MAX_WORKERS  # generations overlap: old ones drain while new ones serve
TICK_SECONDS = 0.5  # between two looks at the beats
LEAVE_SHARES = (
    0.5,
    0.95,
)  # of the drain time: when connections end that others take over, the later the better
LAST_LEAVE_SECONDS = 2.0  # the same when the server stops, and a longer stay would delay that
EXIT_BOOT = 3

log = logging.getLogger("prefork")


class Master:
    """The server's first process."""

    def __init__(
        self,
        source: Source,
        loaded: Loaded,
        kernel: Kernel,
        notifier: Notifier,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._selector = selectors.DefaultSelector()
        scoreboard = Scoreboard(SEATS)
        config = loaded.config
        try:
            handler = build_handler(config.log, open_log(config.log))
        except OSError as error:
            raise BootError(f"cannot open log.file {config.log.file}: {error.strerror}; set `log:`") from error
        install(handler, config.log, who="master")
        self._staff = Staff(
            source,
            Crew(kernel, clock, self._selector, scoreboard),
            Foundry(kernel, clock, self._selector),
            Ports(source.inheritance),
            clock,
            lambda: self._current,
        )
        self._kernel = kernel
        plan = Plan(1, config, app_directories(loaded.path), scoreboard, handler, kernel, os.getpid())
        self._current = build_generation(1, loaded, plan, handler, source.inheritance)
        self._course = Course(self._current.count, clock)
        self._reloads = Reloads()
        self._operations = Operations(self._staff, self._course, self._reloads, kernel, self._selector)
        self._notifier = notifier
        self._held: list[Any] = [notifier]  # what is closed at the end, the last first
        self.exit_code = 0

    # --- the loop ---

    def run(self) -> int:
        """Serve until told to stop; return the exit code.

        Raises:
            PreforkError: it cannot boot; nothing is left behind.
        """
        try:
            self._boot()
            while not self._is_over():
                for key, _ in self._selector.select(self._patience()):
                    key.data()
                for number in self._signals.take():
                    self._on_signal(number)
                for pid, status in self._kernel.reap():
                    self._on_exit(pid, status)
                self._advance()
        finally:
            self._close()
        return self.exit_code

    def _advance(self) -> None:
        """Bring the books up to date, then do what they say is next."""
        crew, foundry = self._staff.crew, self._staff.foundry
        crew.flush_orders()
        crew.look_at_beats()
        crew.end_overdue()
        self._operations.tend()
        for death in crew.take_deaths():
            self._on_death(death)
        self._step_reload()
        if self._course.ending < Ending.DRAINING:
            foundry.tend(self._course.target.generation)
        self._step_ending()
        self._recycle()
        while actions := [a for a in reconcile(crew.roster, self._course.target, self._clock()) if self._can(a)]:
            for action in actions:
                self._do(action)
        self._cover()
        self._notifier.follow(self._course, self._reloads, crew)

    def _patience(self) -> float:
        """Return how long nothing can become due, in seconds."""
        now = self._clock()
        return max(0.0, min(self._deadlines(now)) - now)

    def _deadlines(self, now: float) -> Iterator[float]:
        yield now + TICK_SECONDS
        yield from self._staff.crew.roster.deadlines(now)
        yield from self._staff.foundry.deadlines()
        yield from self._notifier.deadlines()
        yield from self._operations.deadlines()
        if self._course.ending is Ending.DELAYED:
            yield self._course.drain_at
        if self._reloads.running is not None and self._reloads.running.deadline is not None:
            yield self._reloads.running.deadline

    def _is_over(self) -> bool:
        return (
            self._course.ending >= Ending.DRAINING
            and not self._staff.crew.roster.records
            and self._staff.foundry.is_empty
        )

    # --- boot ---

    def _boot(self) -> None:
        config = self._current.config
        setproctitle("prefork: master")
        self._signals = SignalInbox()
        self._held.append(self._signals)
        self._selector.register(self._signals, selectors.EVENT_READ, lambda: None)
        if config.pidfile:
            self._held.append(PidFile(config.pidfile))
        path = config.control or default_control(self._staff.source.path, self._staff.source.environ, True)
        if path is None:
            raise BootError("cannot open a control socket: no run directory can be used; set `control:`")
        self._held.append(ControlServer(path, self._selector, self._operations.commands.answer))
        self._held.append(self._operations)
        self._held.append(self._staff.ports)
        self._staff.ports.prepare(1, config, self._current.count)
        self._staff.ports.take_admin(1)
        if os.getpid() != 1 and not self._kernel.adopt_orphans():
            raise BootError("cannot become the parent of the workers: PR_SET_CHILD_SUBREAPER is refused")
        self._staff.foundry.start(self._current.plan)
        for listener in self._staff.ports.bound():
            log.info("%s listens on %s", listener["name"], listener["bind"])
        self._operations.open()

    def _close(self) -> None:
        for held in reversed(self._held):
            held.close()
        self._selector.close()

    # --- signals and commands: they change the target ---

    def _on_signal(self, number: int) -> None:
        course = self._course
        if number in (signal.SIGTERM, signal.SIGQUIT):
            ending = Ending.IMMEDIATE if course.ending else Ending.DELAYED
            course.end(ending, self._current.config.timeouts.delay)
        elif number == signal.SIGINT:
            course.end(Ending.IMMEDIATE)
        elif number == signal.SIGHUP:
            self._reloads.wish()
        elif number in (signal.SIGTTIN, signal.SIGTTOU):
            change = 1 if number == signal.SIGTTIN else -1
            try:
                course.scale(course.target.count + change)
            except PreforkError as error:
                log.error("%s", error)
        elif number == signal.SIGUSR1:
            self._reopen_logs()
        elif number == signal.SIGUSR2:
            log.warning("USR2 (upgrade in place) is not served by this version; HUP loads new code")

    def _step_ending(self) -> None:
        if self._course.step():
            self._reloads.give_up("the server stops")
            self._staff.ports.refuse_new()
            self._staff.foundry.dismiss_all()
            for record in self._staff.crew.roster.in_state(State.DRAINING):
                self._retire(record)
            if self._course.ending is Ending.IMMEDIATE:
                self._staff.foundry.kill_leaving()

    def _reopen_logs(self) -> None:
        chosen = self._current.config.log
        if chosen.file is None:
            return
        try:
            fd = open_log(chosen)
        except OSError as error:
            log.error("cannot reopen log.file %s: %s", chosen.file, error.strerror)
            return
        self._staff.crew.reopen_logs(chosen, fd)
        self._staff.foundry.reopen_logs(chosen, fd)
        self._current.plan.log.redirect(fd)

    # --- what has happened ---

    def _on_exit(self, pid: int, status: int) -> None:
        if not self._staff.foundry.on_exit(pid, status) and not self._operations.on_exit(pid, status):
            self._staff.crew.on_exit(pid, status)

    def _on_death(self, death: Death) -> None:
        record = death.record
        if not death.was_ordered and self._reloads.running is not None:
            self._reloads.running.on_death(record.generation, death.reason)
        is_first_boot = not self._staff.crew.was_ever_ready and not death.was_ordered and not death.was_killed
        if is_first_boot and not self._staff.crew.roster.in_state(State.STARTING):
            self._give_up(death.reason)

    def _give_up(self, reason: str) -> None:
        if not self._course.ending:
            log.error("cannot boot: no worker was ever ready: %s", reason)
            self.exit_code = EXIT_BOOT
            self._course.end(Ending.IMMEDIATE)

    def _step_reload(self) -> None:
        staff, reloads = self._staff, self._reloads
        if not staff.crew.was_ever_ready:
            failure = staff.foundry.failure(1)
            if failure is not None:
                if failure.detail:
                    log.error("the app cannot be imported", extra={"detail": failure.detail})
                self._give_up(failure.reason)
        if self._course.ending >= Ending.DRAINING:
            return
        reloads.begin(self._current, self._course.target.count, staff)
        if reloads.running is not None:
            reloads.running.step()
            self._course.consider(reloads.running.candidate)
        if reloads.committed is not None:
            self._commit(reloads.committed)
        reloads.conclude()

    def _commit(self, generation: Generation) -> None:
        self._cover()  # so that nobody of the old generation takes anything more of what the new one has
        before, self._current = self._current, generation
        self._course.commit(generation.count, generation.number)
        self._staff.ports.commit(generation.number, generation.config, self._clock())
        self._staff.foundry.dismiss(before.number)
        if generation.plan.log is not before.plan.log:
            install(generation.plan.log, generation.config.log, who="master")
            os.close(before.plan.log.fd)
        self._operations.change(before)

    def _recycle(self) -> None:
        """Let one worker that has served for long enough be replaced."""
        crew = self._staff.crew
        if self._reloads.running is None and not any(r.is_tired for r in crew.roster.records):
            crew.tire_one(self._clock())

    # --- what is to be done ---

    def _can(self, action: Action) -> bool:
        return action.step is not Step.SPAWN or self._staff.foundry.is_ready(action.generation)

    def _do(self, action: Action) -> None:
        crew, record = self._staff.crew, action.record
        if record is None:
            self._spawn(action.slot, action.generation)
        elif action.step is Step.PAUSE:
            crew.pause(record)
        elif action.step is Step.RESUME:
            crew.resume(record)
        elif action.step is Step.KILL:
            crew.kill(record)
        else:
            self._retire(record)

    def _spawn(self, slot: int, generation: int) -> None:
        mold = self._staff.foundry.channel(generation)
        running = self._reloads.running
        chosen = running.generation if running and running.number == generation else self._current
        if mold is None or chosen is None:
            return
        try:
            self._staff.ports.grow(generation, chosen.config, slot + 1)
            self._staff.crew.spawn(slot, generation, chosen.config, mold)
        except (PreforkError, OSError, IndexError) as error:
            if running is not None and running.number == generation:
                running.fail(f"cannot start a worker: {error}")
                self._course.consider(None)
            else:
                self._staff.crew.postpone(slot, f"cannot start a worker: {error}")

    def _retire(self, record: WorkerRecord) -> None:
        drain = record.link.config.timeouts.drain
        if self._course.ending >= Ending.DRAINING:
            order = Drain(drain, 0.0, min(LAST_LEAVE_SECONDS, drain / 4), is_last=True)
        else:
            leave_from, leave_until = (share * drain for share in LEAVE_SHARES)
            order = Drain(drain, leave_from, leave_until, self._staff.ports.has_dropped)
        self._staff.crew.retire(record, order)

    def _cover(self) -> None:
        if self._course.ending >= Ending.DRAINING:
            return
        crew, ports = self._staff.crew, self._staff.ports
        ports.close_unused(max(self._course.target.count, self._reloads.coming_count), self._clock())
        ready = [r for r in crew.roster.in_state(State.READY) if not crew.is_laden(r)]
        ready = ready or [r for r in crew.roster.in_state(State.READY) if not crew.is_lagging(r)]
        ready = ready or crew.roster.in_state(State.READY)
        holds = self._operations.holds
        paused = crew.roster.in_state(State.PAUSED)
        if any(r.slot not in holds.slots for r in ready):  # else all would wait for nobody
            paused += [r for r in ready if r.slot in holds.slots]
            ready = [r for r in ready if r.slot not in holds.slots]
        ready.sort(key=lambda r: r.generation)
        wanted = self._course.target.count
        awake = [r for r in crew.roster.records if not crew.is_lagging(r)]
        ports.assign(Watchers(ready, paused, awake), wanted, holds.listeners)
        ports.steer(tuple(sorted({r.slot for r in ready})), wanted)
