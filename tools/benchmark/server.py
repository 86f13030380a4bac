"""The servers under measurement: how each is started, found and stopped.

Knows: the command lines of the peers and of prefork, and prefork's status document.
Does not know: what is measured on them.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.benchmark.accounting import family, start_time, wait_until
from tools.benchmark.certificate import Certificate, self_signed
from tools.benchmark.workshop import (
    HERE,
    Failure,
    Program,
    Workshop,
    environment,
    last_line,
    python,
    wait_line,
)

BOOT_TIMEOUT = 20.0
STOP_TIMEOUT = 5.0
STATUS_TIMEOUT = 5.0
ECHO = Program("echo", ("echo.c",))
ECHO_UDP = Program("echo_udp", ("echo_udp.c",))


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers.

    Attributes:
        serving: pids of the processes that the clients talk to.
        supervising: pids of those beside them.
    """

    port: int
    serving: Sequence[int]
    supervising: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Booting:
    """A server that was started a moment ago."""

    process: subprocess.Popen[str]
    command: Sequence[str]

    def announced(self) -> Running:
        """Return what a peer says that prints "port N"."""
        return Running(int(wait_line(self.process).split()[1]), family(self.process.pid))


@dataclass(frozen=True, slots=True)
class Server(ABC):
    """How to start one server.

    Attributes:
        name: as the tables show it.
    """

    name: str

    @abstractmethod
    def command(self, shop: Workshop) -> list[str]:
        """Return the command, or raise Unavailable."""

    def wait_ready(self, booting: Booting) -> Running:
        """Wait until it serves, or raise Failure."""
        return booting.announced()

    @contextlib.contextmanager
    def serve(self, shop: Workshop) -> Iterator[Running]:
        """Give the running server, and stop it.

        Raises:
            Unavailable: it cannot run on this machine.
            Failure: it did not start.
        """
        command = self.command(shop)
        log = shop.file(".stderr")
        with log.open("wb") as errors, shop.start_server(command, errors) as process:
            try:
                yield self._boot(Booting(process, command), log)
            finally:
                has_left = stop(process)
        if not has_left:
            raise Failure(f"had to be killed: it did not leave within {STOP_TIMEOUT:.0f} s of SIGTERM")

    def _boot(self, booting: Booting, log: Path) -> Running:
        try:
            return self.wait_ready(booting)
        except Failure as failure:
            raise Failure(f"did not start, {failure}: {last_line(log.read_text(errors='replace'))}") from failure


@dataclass(frozen=True, slots=True)
class Script(Server):
    """A peer in Python.

    Attributes:
        has_tls: whether it is given a certificate, as its last two arguments.
    """

    script: str
    arguments: tuple[str, ...] = ()
    package: str | None = None
    has_tls: bool = False

    def command(self, shop: Workshop) -> list[str]:
        shop.require(self.package)
        command = python(str(HERE / "peers" / self.script), *self.arguments)
        if not self.has_tls:
            return command
        files = self_signed(shop)
        return [*command, str(files.cert), str(files.key)]


@dataclass(frozen=True, slots=True)
class Floor(Server):
    """The echo server in C."""

    processes: int = 1

    def command(self, shop: Workshop) -> list[str]:
        return [str(shop.compiled(ECHO)), str(self.processes)]


@dataclass(frozen=True, slots=True)
class DatagramFloor(Server):
    """The echo server in C for datagrams.

    Attributes:
        kind: `single` or `segmented`, see echo_udp.c.
    """

    kind: str

    def command(self, shop: Workshop) -> list[str]:
        return [str(shop.compiled(ECHO_UDP)), self.kind]


@dataclass(frozen=True, slots=True)
class Prefork(Server):
    """This project's server, by its command line."""

    app: str
    framing: str | None = None
    workers: int = 1
    transport: str = "tcp"

    def command(self, shop: Workshop) -> list[str]:
        conf = shop.file(".yaml")
        certificate = self_signed(shop) if self.transport == "tls" else None
        conf.write_text(prefork_conf(self, conf.with_suffix(".sock"), certificate))
        return python("-m", "prefork", "run", str(conf))

    def wait_ready(self, booting: Booting) -> Running:
        process, control = booting.process, Path(booting.command[-1]).with_suffix(".sock")
        statuses: list[dict[str, Any]] = []

        def is_ready() -> bool:
            if process.poll() is not None:
                raise Failure(f"exit code {process.returncode}")
            status = ask_status(control)
            if status is not None and len(ready_pids(status)) == self.workers:
                statuses.append(status)
            return bool(statuses)

        if not wait_until(is_ready, BOOT_TIMEOUT, interval=0.1):
            raise Failure(f"not {self.workers} ready workers in {BOOT_TIMEOUT:.0f} s")
        return found(statuses[-1], family(process.pid))


def prefork_conf(server: Prefork, control: Path, certificate: Certificate | None = None) -> str:
    """Return the configuration file for a measurement; a JSON string is a YAML string."""
    listener = [f"bind: {server.transport}://127.0.0.1:0", f"app: {server.app}"]
    if server.framing is not None:
        listener.append(f"framing: {server.framing}")
    if certificate is not None:
        cert, key = json.dumps(str(certificate.cert)), json.dumps(str(certificate.key))
        listener.append(f"tls: {{cert: {cert}, key: {key}}}")
    return "\n".join(
        [
            f"workers: {server.workers}",
            "listeners:",
            "  - name: bench",
            *(f"    {line}" for line in listener),
            f"control: {json.dumps(str(control))}",
            "log: {level: warning}",
            "",
        ]
    )


def ask_status(control: Path) -> dict[str, Any] | None:
    """Return prefork's status document, None while there is no answer."""
    if not control.exists():
        return None
    command = python("-m", "prefork", "status", "--control", str(control), "--json")
    try:
        answer = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=STATUS_TIMEOUT,
            env=environment(),
            cwd=control.parent,
            check=True,
        )
        status: dict[str, Any] = json.loads(answer.stdout)
    except (subprocess.SubprocessError, json.JSONDecodeError):
        return None
    return status


def ready_pids(status: dict[str, Any]) -> list[int]:
    """Return the pids of the workers that serve."""
    return [worker["pid"] for worker in status["workers"] if worker["state"] == "ready"]


def found(status: dict[str, Any], pids: Sequence[int]) -> Running:
    """Return what a status document says of the processes of a prefork tree."""
    serving = ready_pids(status)
    port = int(status["listeners"][0]["bind"].rpartition(":")[2])
    return Running(port, serving, [pid for pid in pids if pid not in serving])


def stop(process: subprocess.Popen[str]) -> bool:
    """Ask a server to leave, kill what stays of its own processes, and return whether none did."""
    started = {pid: start_time(pid) for pid in family(process.pid)} if process.poll() is None else {}
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT)
    deadline = time.monotonic() + STOP_TIMEOUT
    while remaining := [pid for pid, tick in started.items() if tick and start_time(pid) == tick]:
        if process.poll() is None or time.monotonic() > deadline:
            kill(remaining)
            process.wait(STOP_TIMEOUT)
            return False
        time.sleep(0.02)
    return True


def kill(pids: Sequence[int]) -> None:
    """Kill processes that may be gone already."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
