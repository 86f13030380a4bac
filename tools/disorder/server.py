"""A real prefork server in a temporary directory: started, asked, signalled, and in the end looked after.

Knows: `python -m prefork`, the config's text, which files and processes may be left behind.
Does not know: clients, goals.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tools.disorder import apps, certificate, tree
from tools.disorder.control import Control, ControlError, Status
from tools.disorder.load import ROOT

TRACEBACK_LINES = 24
_OURS = frozenset(
    {
        "chaos.yaml",
        f"{apps.MODULE}.py",
        "__pycache__",
        "server.log",
        "output.txt",
        "run",
        "tmp",
        *certificate.FILES,
    }
)


class ServerError(Exception):
    """The server did not do what every scenario needs."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a scenario asks of the config.

    `handlers` maps names of listeners to names in the app's module; all listeners have one scheme, and `options`
    are keys of each of them.
    """

    workers: int = 4
    handlers: Mapping[str, str] = field(default_factory=lambda: {"echo": "echo"})
    ports: Mapping[str, int] = field(default_factory=dict)
    scheme: str = "tcp"
    options: Mapping[str, Any] = field(default_factory=dict)
    module: str = apps.ECHO
    beat: str = "2s"
    drain: str = "10s"
    extra: Mapping[str, Any] = field(default_factory=dict)

    def config(self, directory: Path) -> dict[str, Any]:
        listeners = [
            {
                "name": name,
                "bind": f"{self.scheme}://127.0.0.1:{self.ports.get(name, 0)}",
                "app": f"{apps.MODULE}:{app}",
                **self.options,
            }
            for name, app in self.handlers.items()
        ]
        return {
            "workers": self.workers,
            "control": str(directory / "chaos.sock"),
            "pidfile": str(directory / "chaos.pid"),
            "listeners": listeners,
            "timeouts": {"boot": "20s", "beat": self.beat, "drain": self.drain},
            "log": {"level": "debug", "format": "text", "file": str(directory / "server.log")},
            **self.extra,
        }


class Server:
    """A started server; `release` ends whatever is left of it."""

    def __init__(self, directory: Path, settings: Settings) -> None:
        self.directory = directory.resolve()
        self.settings = settings
        self._seen: dict[int, tree.Process] = {}
        for name in ("run", "tmp"):
            (directory / name).mkdir(exist_ok=True)
        self.write_app(settings.module)
        self.write_config(settings)
        self._process = self._start()

    def write_app(self, text: str) -> None:
        (self.directory / f"{apps.MODULE}.py").write_text(text)

    def write_config(self, settings: Settings) -> None:
        """Replace the config file in one step, as an editor does."""
        fresh = self.directory / "tmp" / "chaos.yaml"
        fresh.write_text(yaml.safe_dump(settings.config(self.directory), sort_keys=False))
        fresh.rename(self.config_path)

    @property
    def config_path(self) -> Path:
        return self.directory / "chaos.yaml"

    @property
    def pid(self) -> int:
        return self._process.pid

    def control(self, timeout: float = 5.0) -> Control:
        return Control(self.directory / "chaos.sock", timeout)

    def status(self) -> Status:
        with self.control() as control:
            return control.status()

    def port(self, listener: str = "echo") -> int:
        return self.status().ports[listener]

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait_for(self, condition: Callable[[Status], bool], within: float) -> float | None:
        """Poll `status` until the condition holds; return the seconds that it took, or None."""
        begun = time.monotonic()
        while time.monotonic() - begun < within:
            if self._process.poll() is not None:
                raise ServerError(f"the server ended with status {self._process.returncode}")
            try:
                if condition(self.status()):
                    return time.monotonic() - begun
            except ControlError:
                pass  # the control socket is not open yet, or its server is just going
            time.sleep(0.01)
        return None

    def wait_settled(self, within: float = 20.0) -> float:
        """Wait until all wanted workers, and no others, are ready; return the seconds that it took."""
        seconds = self.wait_for(lambda status: status.is_settled, within)
        if seconds is None:
            raise ServerError(f"not settled within {within:g} s: {self._describe()}")
        return seconds

    def descendants(self) -> list[tree.Process]:
        """Return the processes below the master, and remember them for the end."""
        found = tree.descendants(self.pid)
        self._seen.update((process.pid, process) for process in found)
        return found

    def kill(self, pid: int) -> bool:
        """Send SIGKILL to a process that is below the master at this moment; False if it is not, or gone."""
        if pid not in {process.pid for process in self.descendants()}:
            return False
        return _send(pid, signal.SIGKILL)

    def fds(self) -> dict[int, str]:
        """Return the master's descriptors, after it has had time to close those of the last question."""
        time.sleep(0.1)
        return tree.open_fds(self.pid)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `prefork COMMAND --control PATH`."""
        line = [*self.command_line(*arguments)]
        return subprocess.run(
            line, cwd=self.directory, env=self.environment(), capture_output=True, text=True, timeout=60
        )

    def command_line(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "prefork", *arguments, "--control", str(self.directory / "chaos.sock")]

    def terminate(self) -> None:
        """Send SIGTERM, having looked at the tree."""
        self.descendants()
        self.signal(signal.SIGTERM)

    def wait_exit(self, within: float) -> int | None:
        """Return the exit status of the master, or None if it is still there."""
        try:
            return self._process.wait(within)
        except subprocess.TimeoutExpired:
            return None

    def survivors(self, within: float) -> list[tree.Process]:
        """Wait until all processes that were seen below the master are gone; return those that are not."""
        deadline = time.monotonic() + within
        while True:
            self._seen.update((process.pid, process) for process in tree.living_in(self.directory))
            left = [process for process in self._seen.values() if tree.is_same(process)]
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.02)

    def files_left(self) -> list[str]:
        """Return the files that the server should have removed."""
        names = {path.name for path in self.directory.iterdir()} - _OURS
        nested = [path for folder in ("run", "tmp") for path in (self.directory / folder).rglob("*")]
        shared = list(Path("/dev/shm").glob("*prefork*"))
        return sorted([*names, *(str(path) for path in [*nested, *shared])])

    def log(self) -> str:
        paths = [self.directory / name for name in ("output.txt", "server.log")]
        return "".join(path.read_text(errors="replace") for path in paths if path.exists())

    def traceback(self) -> str:
        """Return the first traceback of the log, with the line before it; empty if there is none."""
        lines = self.log().splitlines()
        starts = [i for i, line in enumerate(lines) if "Traceback" in line]
        return "\n".join(lines[max(0, starts[0] - 1) : starts[0] + TRACEBACK_LINES]) if starts else ""

    def log_tail(self, lines: int = 15) -> str:
        return "\n".join(self.log().splitlines()[-lines:])

    def restart(self) -> None:
        """Start the same config again, after the master is gone."""
        self._process = self._start()

    def release(self) -> None:
        """Kill whatever is left of the server."""
        if self._process.poll() is None:
            self.descendants()
            self._process.kill()
            self._process.wait()
        for process in self.survivors(within=0.0):
            _send(process.pid, signal.SIGKILL)

    def _start(self) -> subprocess.Popen[bytes]:
        with open(self.directory / "output.txt", "ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "prefork", "run", str(self.config_path)],
                cwd=self.directory,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFORK_")}
        # An installed package has its byte code beside it; without any, each command would compile for 20 ms.
        kept.pop("PYTHONDONTWRITEBYTECODE", None)
        kept["PYTHONPYCACHEPREFIX"] = str(self.directory / "__pycache__")
        kept["PYTHONPATH"] = str(ROOT)
        kept["XDG_RUNTIME_DIR"] = str(self.directory / "run")
        kept["TMPDIR"] = str(self.directory / "tmp")
        return kept

    def _describe(self) -> str:
        try:
            status = self.status()
        except ControlError as error:
            return str(error)
        workers = ", ".join(
            f"slot {w.slot} g{w.generation} {w.state} {w.connections} connections" for w in status.workers
        )
        return f"target {status.target}, generation {status.generation}: {workers}"


def _send(pid: int, number: signal.Signals) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
