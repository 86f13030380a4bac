"""A reload as a transaction: read, check, bind, import, start, soak; then all, or nothing was lost.

Knows: the candidate generation, and how far it has come. Does not know: signals, clients, how workers live.
"""

from __future__ import annotations

import dataclasses
import enum
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prefork.address import parse_address
from prefork.config import Config, Loaded, describe_changes, describe_effective, read_config
from prefork.errors import BootError, ConfigError, PreforkError
from prefork.log import LineHandler, build_handler, open_log
from prefork.process.cpus import count_workers
from prefork.process.crew import Crew
from prefork.process.foundry import Foundry
from prefork.process.guarding import build_firewalls
from prefork.process.inherited import Inheritance
from prefork.process.plan import Plan, app_directories
from prefork.process.ports import Ports
from prefork.process.privileges import check_may_become, check_may_confine, resolve_identity
from prefork.process.roster import Candidate, State
from prefork.process.securing import describe_warnings, open_keylog, secure

FIXED = ("control", "pidfile")  # they name the running server to others: changing them takes a restart

log = logging.getLogger("prefork")


@dataclass(frozen=True, slots=True)
class Source:
    """Where the config comes from, the first time and at each reload."""

    path: str
    sets: Sequence[str] = ()
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    inheritance: Inheritance = field(default_factory=Inheritance)

    def read(self) -> Loaded:
        """Read and check the config.

        Raises:
            ConfigError: with all mistakes at once.
        """
        loaded = read_config(self.path, self.environ, self.sets)
        for warning in loaded.warnings:
            log.warning("%s", warning)
        return loaded


@dataclass(frozen=True, slots=True)
class Generation:
    """A config and the processes' plan that was made of it."""

    plan: Plan
    count: int  # of workers, when the generation began
    effective: Sequence[Mapping[str, Any]] = ()  # each value of the config, and its origin

    @property
    def number(self) -> int:
        return self.plan.generation

    @property
    def config(self) -> Config:
        return self.plan.config


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a reload ended: `committed` or `refused`, and why, and what it changed."""

    verdict: str
    reason: str = ""
    changes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Staff:
    """What a reload works with."""

    source: Source
    crew: Crew
    foundry: Foundry
    ports: Ports
    clock: Callable[[], float]
    current: Callable[[], Generation]


class Phase(enum.Enum):
    IMPORTING = "importing the app"
    ROLLING = "starting the new workers"
    SOAKING = "watching the new workers"
    OVER = "over"


class Reload:
    """One try to replace a generation by the next."""

    def __init__(self, number: int, current: Generation, running: int, staff: Staff) -> None:
        """Begin nothing yet.

        Args:
            number: of the generation that is to come.
            running: how many workers are wanted now, which a scale may have changed.
        """
        self.number = number
        self.verdict: Verdict | None = None
        self.generation: Generation | None = None
        self.waiting: list[Callable[[Verdict], None]] = []
        self._current = current
        self._running = running
        self._log = current.plan.log
        self._staff = staff
        self._phase = Phase.IMPORTING
        self._started_at = staff.clock()
        self._soaked_at: float | None = None

    @property
    def candidate(self) -> Candidate | None:
        """What the target has beside the current generation."""
        if self.generation is None or self._phase not in (Phase.ROLLING, Phase.SOAKING):
            return None
        return Candidate(self.number, self.generation.count, self.generation.config.reload.surge)

    @property
    def deadline(self) -> float | None:
        return self._soaked_at

    def begin(self) -> None:
        """Read the config, bind what is new, start the mold; any mistake is the verdict."""
        staff = self._staff
        try:
            loaded = staff.source.read()
            self._check_fixed(loaded.config)
            self._log = self._open_log(loaded.config)
            generation = build_generation(
                self.number, loaded, self._current.plan, self._log, staff.source.inheritance
            )
            slots = max(generation.count, self._running)
            staff.ports.prepare(self.number, loaded.config, slots)
            self.generation = generation
            staff.foundry.start(generation.plan)
        except Exception as error:  # whatever a config does: the server that runs goes on
            if isinstance(error, ConfigError):
                for problem in error.problems:
                    log.error("%s", problem.splitlines()[0])
            elif not isinstance(error, PreforkError | OSError):
                log.error("a bug in prefork refuses this config", exc_info=error)
            self.fail(str(error).splitlines()[0] if str(error) else type(error).__name__)

    def _check_fixed(self, config: Config) -> None:
        for name in FIXED:
            if getattr(config, name) != getattr(self._current.config, name):
                raise ConfigError([f"cannot change {name} by a reload; set it back, or restart the server"])

    def _open_log(self, config: Config) -> LineHandler:
        if config.log == self._current.config.log:
            return self._current.plan.log
        try:
            return build_handler(config.log, open_log(config.log))
        except OSError as error:
            raise ConfigError([f"cannot open log.file {config.log.file}: {error.strerror}"]) from error

    def step(self) -> None:
        """Go on as far as it can be gone now."""
        staff, now = self._staff, self._staff.clock()
        if self.generation is None or self.verdict is not None:
            return
        if self._phase in (Phase.IMPORTING, Phase.ROLLING):
            failure = staff.foundry.failure(self.number)
            if failure is not None:
                if failure.detail:
                    log.error("the new code cannot be imported", extra={"detail": failure.detail})
                self.fail(failure.reason)
                return
            if staff.foundry.is_ready(self.number):
                self._phase = Phase.ROLLING
        is_full = staff.crew.roster.is_full(self.generation.count, self.number)
        if self._phase is Phase.ROLLING and is_full:
            self._phase = Phase.SOAKING
            self._soaked_at = now + self.generation.config.reload.soak
        if self._phase is Phase.SOAKING and is_full and self._soaked_at is not None and now >= self._soaked_at:
            self._commit(self.generation)

    def _commit(self, generation: Generation) -> None:
        self._phase = Phase.OVER
        changes = describe_changes(self._current.config, generation.config)
        old, new = self._current.plan.securities, generation.plan.securities
        renewed = [name for name in new if name in old and old[name].fingerprint != new[name].fingerprint]
        changes += [f"listeners.{name}.tls files" for name in renewed]
        walls, walls_before = generation.plan.firewalls, self._current.plan.firewalls
        listed = [name for name in walls if name in walls_before and walls[name] != walls_before[name]]
        known = [change for change in changes if ".allow " in change or ".deny " in change or ".from " in change]
        changes += [f"listeners.{name} networks of files" for name in listed if not known]
        before, after = self._running, generation.count
        if before != after and not any(change.startswith("workers ") for change in changes):
            changes.insert(0, f"workers {before}→{after}")
        self.verdict = Verdict("committed", "", tuple(changes))
        log.info(
            "reload committed: generation %d serves after %.2f s; %s",
            self.number,
            self._staff.clock() - self._started_at,
            "; ".join(changes) or "the config has not changed, the code was loaded again",
        )

    def fail(self, reason: str) -> None:
        """Let everything be as it was before."""
        if self.verdict is not None:
            return
        self._phase = Phase.OVER
        self._soaked_at = None
        self.verdict = Verdict("refused", reason)
        self._staff.foundry.dismiss(self.number)
        if self.generation is not None:
            self._staff.ports.abandon(self.number)
        if self._log is not self._current.plan.log:
            os.close(self._log.fd)
        log.error("reload refused: generation %d serves on: %s", self._current.number, reason)

    def on_death(self, generation: int, reason: str) -> None:
        """A worker is gone that nobody had told to go."""
        if generation == self.number and self._phase is not Phase.OVER:
            self.fail(f"a new worker {reason}")

    def status(self) -> dict[str, Any]:
        starting = len(self._staff.crew.roster.of_generation(self.number, State.STARTING))
        return {"generation": self.number, "phase": self._phase.value, "starting": starting}


def build_generation(
    number: int, loaded: Loaded, like: Plan, handler: LineHandler, inheritance: Inheritance
) -> Generation:
    """Return a generation of a config, with what stays the same taken from another.

    Raises:
        BootError: the user cannot be become, or the folder not be entered.
        ConfigError: a certificate cannot be loaded, a list of networks not be read.
        ListenError: a socket was not inherited.
    """
    config = loaded.config
    owner = None
    if config.user:
        identity = resolve_identity(config.user)
        check_may_become(identity)
        owner = (identity.uid, identity.gid)
    if config.chroot:
        check_may_confine(config.chroot)
    directories = app_directories(loaded.path)
    securities = secure(loaded, directories, like.securities.values())
    keylogs = {security.keylog for security in securities.values()} - {None}
    if config.chroot and keylogs:
        raise BootError("cannot write tls.keylog: workers are confined to `chroot:`; unset one of them")
    for keylog in keylogs:
        open_keylog(str(keylog), owner)
    for warning in describe_warnings(securities.values()):
        log.warning("%s", warning)
    datagrams = find_datagrams(loaded, inheritance)
    firewalls = build_firewalls(loaded, directories)
    plan = dataclasses.replace(
        like,
        generation=number,
        config=config,
        directories=directories,
        log=handler,
        firewalls=firewalls,
        securities=securities,
        datagrams=datagrams,
    )
    return Generation(plan, count_workers(config.workers), describe_effective(loaded))


def find_datagrams(loaded: Loaded, inheritance: Inheritance) -> frozenset[str]:
    """Return the names of the listeners that have datagrams.

    Raises:
        ListenError: a socket was not inherited.
        ConfigError: datagrams are to speak TLS, or to be cut into frames.
    """
    found = set()
    for index, listener in enumerate(loaded.config.listeners):
        if not inheritance.is_datagram(parse_address(listener.bind)):
            continue
        found.add(listener.name)
        if listener.tls is not None or listener.framing.name != "raw":
            where = loaded.at("listeners", index, "tls" if listener.tls is not None else "framing")
            raise ConfigError([f"{where}: {listener.bind} has datagrams: neither TLS nor a framing is for them"])
    return frozenset(found)
