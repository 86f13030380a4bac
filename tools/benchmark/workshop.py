"""The place where a run happens: its directory, its two CPUs, its compiler.

Knows: temporary files, CPU affinity, cc, how to start a process and to wait for one line of it.
Does not know: servers and loads.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TOOL_TIMEOUT = 60.0
LINE_TIMEOUT = 20.0


class Unavailable(Exception):
    """Something that a measurement needs is not on this machine."""


class Failure(Exception):
    """A server or a load did not do what it should."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program in C.

    Attributes:
        sources: files of this package.
        libraries: what it is linked with.
        header: one of those libraries, without which it cannot be made.
    """

    name: str
    sources: tuple[str, ...]
    libraries: tuple[str, ...] = ()
    header: str | None = None


class Workshop:
    """Owns a temporary directory; starts processes on the CPU of the server or of the load."""

    def __init__(self, key_type: str = "p256") -> None:
        """Begin with an empty directory.

        Args:
            key_type: of the certificate's key, see certificate.py.
        """
        self.key_type = key_type
        cpus = sorted(os.sched_getaffinity(0))
        self._all_cpus = cpus
        self.load_cpu = cpus[0]
        self.server_cpu = cpus[1] if len(cpus) > 1 else cpus[0]
        self.compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
        self.directory = Path(tempfile.mkdtemp(prefix="bench-"))
        self._serial = 0

    def __enter__(self) -> Workshop:
        os.sched_setaffinity(0, {self.load_cpu})
        return self

    def __exit__(self, *_: object) -> None:
        os.sched_setaffinity(0, self._all_cpus)
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def has_own_cpu(self) -> bool:
        """Whether the server has a CPU that the load does not use."""
        return self.server_cpu != self.load_cpu

    def file(self, suffix: str) -> Path:
        """Return a name in the directory that was not used before."""
        self._serial += 1
        return self.directory / f"{self._serial}{suffix}"

    def compiled(self, program: Program) -> Path:
        """Return the executable file of a program.

        Raises:
            Unavailable: there is no compiler, or not what the program needs.
            Failure: the compiler refuses it.
        """
        made = self.directory / program.name
        if made.exists():
            return made
        if self.compiler is None:
            raise Unavailable("no C compiler")
        if program.header is not None and not self.has_header(program.header):
            raise Unavailable(f"no {program.header}")
        sources = [str(HERE / source) for source in program.sources]
        libraries = [f"-l{library}" for library in program.libraries]
        built = run_tool([self.compiler, "-O2", "-o", str(made), *sources, *libraries])
        if built.returncode != 0:
            raise Failure(f"cannot compile {program.name}: {last_line(built.stderr)}")
        return made

    def has_header(self, header: str) -> bool:
        """Return whether the compiler finds a header."""
        if self.compiler is None:
            return False
        source = self.file(".c")
        source.write_text(f"#include <{header}>\n")
        return run_tool([self.compiler, "-E", "-o", os.devnull, str(source)]).returncode == 0

    def require(self, package: str | None) -> None:
        """Raise Unavailable if this interpreter has no such package."""
        if package is not None and importlib.util.find_spec(package) is None:
            raise Unavailable(f"{package} is not installed (pip install {package})")

    @contextlib.contextmanager
    def _server_affinity(self) -> Iterator[None]:
        os.sched_setaffinity(0, {self.server_cpu})
        try:
            yield
        finally:
            os.sched_setaffinity(0, {self.load_cpu})

    def start_server(self, command: Sequence[str], errors: IO[bytes]) -> subprocess.Popen[str]:
        """Start a process that inherits the CPU of the server, as all of its children will."""
        with self._server_affinity():
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment(),
                cwd=self.directory,
            )

    def start_load(self, command: Sequence[str]) -> subprocess.Popen[str]:
        """Start a process on the CPU of the load that is spoken to by its stdin and stdout."""
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
        )


def run_tool(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end: a compiler, or another that makes something."""
    return subprocess.run(command, capture_output=True, text=True, timeout=TOOL_TIMEOUT, check=False)


def environment() -> dict[str, str]:
    """Return an environment that finds this checkout's prefork and overrides none of its settings."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PREFORK_", "PYTHONASYNCIO"))
    }
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(ROOT)]))
    return kept


def python(*arguments: str) -> list[str]:
    """Return the command that runs this interpreter."""
    return [sys.executable, *arguments]


def wait_line(process: subprocess.Popen[str], within: float = LINE_TIMEOUT) -> str:
    """Return the next line of a process that writes whole lines, one at a time.

    Raises:
        Failure: the process ended or said nothing.
    """
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], within)
    line = process.stdout.readline() if readable else ""
    if not line.endswith("\n"):
        raise Failure("it ended at once" if readable else f"no word from it in {within:.0f} s")
    return line


def last_line(text: str) -> str:
    """Return the last line that is not empty."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no message")
