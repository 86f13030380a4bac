"""A real server for tests: started, asked, signalled, and looked through when it is gone.

Knows: the command line, /proc. Does not know: what a test is about.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from prefork.client import ask
from prefork.errors import PreforkError
from tests.eventually import eventually

ECHO = "async def echo(conn):\n    async for data in conn:\n        await conn.send(data)\n"


class Running:
    """A server in a folder of its own, which is its working directory too."""

    def __init__(self, folder: Path, config: Mapping[str, Any], files: Mapping[str, str]) -> None:
        self.folder = folder
        self.control = folder / "test.sock"
        self.log_file = folder / "server.log"
        self.process: subprocess.Popen[str] | None = None
        self.expected_errors: list[str] = []
        for name, text in files.items():
            self.write(name, text)
        self.configure(config)

    def configure(self, config: Mapping[str, Any]) -> None:
        """Write the config file; what a test does not say is what tests like: text logs, port 0, short times."""
        listener = {"name": "echo", "bind": "tcp://127.0.0.1:0", "app": "app:echo"}
        defaults: dict[str, Any] = {
            "workers": 2,
            "control": str(self.control),
            "listeners": [listener],
            "timeouts": {"boot": "20s", "beat": "20s", "drain": "5s"},
            "log": {"format": "text", "file": str(self.log_file)},
        }
        self.write("test.yaml", yaml.safe_dump({**defaults, **config}))

    def write(self, name: str, text: str) -> None:
        """Write a file into the folder, with a new modification time for Python's cache of compiled code."""
        path = self.folder / name
        path.write_text(text)
        for cache in self.folder.glob("__pycache__/*"):
            cache.unlink()

    def start(self, *arguments: str, wait: bool = True, environ: Mapping[str, str] | None = None) -> Running:
        """Start it; wait until every slot has a worker that serves."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "prefork", "run", "test.yaml", *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **(environ or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if wait:
            eventually(self._is_ready_or_gone, within=30)
            assert self.process.poll() is None, self.output()
        return self

    def start_by(self, prepare: Callable[[], None], wait: bool = True) -> Running:
        """Start it in a process that was prepared between fork and exec: by os.setsid, by limits."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "prefork", "run", "test.yaml"],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=prepare,
        )
        if wait:
            eventually(self._is_ready_or_gone, within=30)
            assert self.process.poll() is None, self.output()
        return self

    def _is_ready_or_gone(self) -> bool:
        assert self.process is not None
        return self.process.poll() is not None or self.is_ready()

    def is_ready(self) -> bool:
        try:
            return bool(self.ask("health")["ready"])
        except PreforkError:
            return False

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def ask(self, command: str, timeout: float = 30.0, **arguments: Any) -> Any:
        """Send a command to the control socket."""
        return ask(str(self.control), command, arguments, timeout)

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.ask("status")
        return status

    def port(self, name: str = "echo") -> int:
        """Return the real port of a listener."""
        (bind,) = [row["bind"] for row in self.status()["listeners"] if row["name"] == name]
        return int(bind.rpartition(":")[2])

    def workers(self, *states: str) -> list[dict[str, Any]]:
        """Return the rows of the workers, of those in some states."""
        return [row for row in self.status()["workers"] if not states or row["state"] in states]

    def worker_pids(self, *states: str) -> set[int]:
        return {row["pid"] for row in self.workers(*(states or ("ready",)))}

    def connect(self, name: str = "echo", timeout: float = 10.0) -> socket.socket:
        """Return a client's connection."""
        return socket.create_connection(("127.0.0.1", self.port(name)), timeout=timeout)

    def send(self, number: int) -> None:
        """Send a signal to the master."""
        os.kill(self.pid, number)

    def reload(self) -> dict[str, Any]:
        """Reload; return the verdict."""
        verdict: dict[str, Any] = self.ask("reload", timeout=60.0)
        return verdict

    def run(self, *arguments: str, within: float = 30.0) -> subprocess.CompletedProcess[str]:
        """Run another command of prefork in the folder."""
        return run_prefork(*arguments, folder=self.folder, within=within)

    def log(self) -> str:
        return self.log_file.read_text() if self.log_file.exists() else ""

    def output(self) -> str:
        """Return what a server that has ended wrote to its standard output and error, and its log."""
        assert self.process is not None
        assert self.process.stdout is not None
        return (self.process.stdout.read() if not self.process.stdout.closed else "") + self.log()

    def stop(self, number: int = signal.SIGTERM, within: float = 20.0) -> int:
        """Send the master a signal; wait for its end; return its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def descendants(self) -> set[int]:
        """Return the pids of all processes below the master."""
        parents: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                parents.setdefault(_parent(entry), []).append(int(entry.name))
        found: set[int] = set()
        waiting = [self.pid]
        while waiting:
            children = parents.get(waiting.pop(), [])
            found.update(children)
            waiting += children
        return found

    def open_fds(self) -> dict[str, str]:
        """Return the master's descriptors and what they stand for."""
        found = {}
        for entry in Path(f"/proc/{self.pid}/fd").iterdir():
            try:
                found[entry.name] = os.readlink(entry)
            except FileNotFoundError:  # closed meanwhile
                pass
        return found

    def finish(self) -> None:
        """End it, if the test has not, and check that it left well: status, log, processes, files."""
        if self.process is None:
            return
        below = self.descendants() if self.process.poll() is None else set()
        status = self.stop() if self.process.poll() is None else self.process.returncode
        output = self.output()
        if self.process.stdout is not None:
            self.process.stdout.close()
        left = [pid for pid in below if _is_prefork(pid)]
        assert not left, f"processes were left behind: {left}"
        assert status == 0 or "exit" in self.expected_errors, (status, output)
        assert not self.control.exists(), "the control socket was left behind"
        bad = [line for line in output.splitlines() if _is_bad(line)]
        unexpected = [line for line in bad if not any(text in line for text in self.expected_errors)]
        assert not unexpected, "\n".join(unexpected)


def _is_bad(line: str) -> bool:
    return " error " in line or " critical " in line or "Traceback" in line or "Warning" in line


def _parent(entry: Path) -> int:
    try:
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):  # gone meanwhile
        return 0


def _is_prefork(pid: int) -> bool:
    """Whether a process lives and is one of ours, not another with its number; a dying one has a moment."""
    path = Path(f"/proc/{pid}/cmdline")
    try:
        eventually(lambda: not path.exists() or not path.read_bytes().startswith(b"prefork:"), within=3)
    except AssertionError:
        return True
    except OSError:
        return False
    return False


def run_prefork(
    *arguments: str, folder: Path, within: float = 30.0, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command of prefork to its end."""
    return subprocess.run(
        [sys.executable, "-m", "prefork", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **(environ or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=within,
        check=False,
    )


def exchange(sock: socket.socket, data: bytes) -> bytes:
    """Send bytes and return as many; fewer, if the connection ended."""
    sock.sendall(data)
    return receive(sock, len(data))


def receive(sock: socket.socket, count: int) -> bytes:
    """Return so many bytes; fewer, if the connection ended."""
    received = b""
    while len(received) < count and (data := sock.recv(65_536)):
        received += data
    return received


def listeners(*rows: Sequence[str]) -> list[dict[str, str]]:
    """Return the config of listeners from (name, bind, app)."""
    return [dict(zip(("name", "bind", "app"), row, strict=True)) for row in rows]


def parse_json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]
