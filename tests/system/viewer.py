"""`prefork top` on a pseudo-terminal: what is on its screen, keys, sizes, and what is left behind.

A shell is the leader of the session, as with people: the kernel tells of new sizes, and the modes of the terminal
can be looked at when the command has ended. Control sequences that top has no business with are an error.

Knows: pty(7), the sequences that top uses. Does not know: what a test is about.
"""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

TOKEN = re.compile(r"\x1b\[(\?1049[hl]|\?25[hl]|\?7[hl]|2J|K|[0-9]+;1H|[0-9;]*m)|([^\x1b]+)")
UNFINISHED = re.compile(r"\x1b(\[[0-9;?]*)?(?=\x1b|$)")  # another escape ends it: ECMA-48, and all terminals
SHELL = '"$@"; echo "exit $?"; read line'
JOB_SHELL = 'set -m; "$@"; echo "stopped $?"; read line; fg; echo "exit $?"; read line'


class Viewer:
    """One terminal with one command.

    Attributes:
        rows: what stands on the alternate screen, by row from 1.
        modes: the private modes that are set, of 1049, 25 and 7.
        plain: what stands on the usual screen.
        drawn: how many rows were drawn so far.
    """

    def __init__(self, *command: str, folder: Path, size: tuple[int, int] = (100, 24), shell: str = SHELL) -> None:
        self.rows: dict[int, str] = {}
        self.modes = {"?25", "?7"}
        self.plain = ""
        self.drawn = 0
        self._row = 1
        self._rest = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.master, self._slave = pty.openpty()
        self.resize(*size)
        self._found = termios.tcgetattr(self._slave)
        self.shell = subprocess.Popen(
            ["sh", "-c", shell, "sh", *command],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUTF8": "1", "NO_COLOR": ""},
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )

    def __enter__(self) -> Viewer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pid in (*self.children(), self.shell.pid):
            os.kill(pid, signal.SIGKILL)
        self.shell.wait(10)
        self.hang_up()
        os.close(self._slave)

    def hang_up(self) -> None:
        """Take the terminal away."""
        if self.master >= 0:
            os.close(self.master)
        self.master = -1

    def children(self) -> list[int]:
        path = Path(f"/proc/{self.shell.pid}/task/{self.shell.pid}/children")
        return [int(pid) for pid in path.read_text().split()] if path.exists() else []

    @property
    def pid(self) -> int:
        """The process of the command."""
        (pid,) = self.children()
        return pid

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    # --- what is seen ---

    def see(self, condition: Callable[[], object], within: float = 20.0) -> None:
        """Read what is drawn until a condition holds."""
        deadline = time.monotonic() + within
        while not condition():
            left = deadline - time.monotonic()
            assert left > 0, "\n".join([*self.lines(), "---", self.plain, repr(self._rest)])
            if select.select([self.master], [], [], left)[0]:
                self._feed(os.read(self.master, 65_536))

    def see_text(self, text: str) -> None:
        self.see(lambda: any(text in line for line in self.lines()))

    def lines(self) -> list[str]:
        return [self.rows.get(row, "") for row in range(1, max(self.rows, default=0) + 1)]

    def line(self, beginning: str) -> str:
        """Return the first line with a beginning, blanks before it apart; empty: there is none."""
        return next((line for line in self.lines() if line.lstrip().startswith(beginning)), "")

    def see_exit(self) -> int:
        """Wait for the end of the command; check that it left everything as it was; return its exit code."""
        self.see(lambda: re.search(r"^exit \d+\r?$", self.plain, re.MULTILINE))
        assert self.modes == {"?25", "?7"}, self.modes
        assert termios.tcgetattr(self._slave) == self._found
        found = re.search(r"^exit (\d+)", self.plain, re.MULTILINE)
        assert found is not None
        return int(found[1])

    def is_raw(self) -> bool:
        return not termios.tcgetattr(self._slave)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def _feed(self, data: bytes) -> None:
        text = self._rest + self._decoder.decode(data)
        place = 0
        while place < len(text):
            token = TOKEN.match(text, place) or UNFINISHED.match(text, place)
            assert token is not None, f"not for a terminal: {text[place : place + 40]!r}"
            if token.re is UNFINISHED and token.end() == len(text):
                break
            place = token.end()
            if token.re is TOKEN:
                self._obey(token)
        self._rest = text[place:]

    def _write(self, text: str) -> None:
        if "?1049" not in self.modes:
            self.plain += text
            return
        assert text.isprintable(), repr(text)
        self.rows[self._row] = self.rows.get(self._row, "") + text

    def _obey(self, token: re.Match[str]) -> None:
        if token[2]:
            self._write(token[2])
            return
        sequence = token[1]
        match sequence[-1]:
            case "h":
                self.modes.add(sequence[:-1])
            case "l":
                self.modes.discard(sequence[:-1])
            case "J":
                self.rows.clear()
            case "K":
                self.rows[self._row] = ""
                self.drawn += 1
            case "H":
                self._row = int(sequence.partition(";")[0])


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def top_command(control: Path, *arguments: str) -> list[str]:
    """Return the command of a viewer."""
    return [sys.executable, "-m", "prefork", "top", "--control", str(control), "--interval", "100ms", *arguments]
