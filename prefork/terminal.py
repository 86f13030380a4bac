"""A terminal taken over for a while: raw keys, the alternate screen, and both given back whatever happens.

Control sequences are those of ECMA-48, and the private modes 7, 25 and 1049 of xterm, which all terminals follow.

Knows: termios, control sequences, signals of terminals. Does not know: what is drawn, what keys mean.
"""

from __future__ import annotations

import os
import re
import select
import signal
import termios
import tty
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

from prefork.screen import Line, Look

BEGIN = b"\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"  # alternate screen, no cursor, no wrapping, cleared
END = b"\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
ESCAPE_SEQUENCE = re.compile(rb"\x1b(\[[0-?]*[ -/]*[@-~]|O.|.)?", re.DOTALL)  # ECMA-48 5.4; SS3; Alt with a key
INTERRUPT, SUSPEND = "\x03", "\x1a"  # what Ctrl-C and Ctrl-Z send to a raw terminal
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
NOTED = (signal.SIGWINCH, signal.SIGCONT)
USUAL_SIZE = (80, 24)
READ_BYTES = 4096


class Terminal:
    """The terminal of this process.

    Attributes:
        input: the descriptor on which keys arrive.
        inbox: a descriptor that becomes readable when there is a signal to look at.
    """

    def __init__(self, input: int, output: int, environ: Mapping[str, str]) -> None:
        self.input = input
        self._output = output
        self._saved = termios.tcgetattr(input)
        self._shown: list[Line] = []
        self._size = (0, 0)
        self._looks = {
            Look.PLAIN: b"",
            Look.STRONG: b"\x1b[1m",
            Look.TITLE: b"\x1b[7m",
            Look.BAD: b"\x1b[1m" if environ.get("NO_COLOR") else b"\x1b[1;31m",  # no-color.org
        }
        self._is_writing = False
        self._handlers: dict[int, Any] = {}
        self.inbox, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def open(self) -> None:
        """Take the terminal over; `close` must follow, though this raises."""
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        for number in (*NOTED, *ENDING):
            self._handlers[number] = signal.signal(number, self._on_signal)
        self._begin()

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        """Leave a write, which a terminal that takes nothing holds for ever; else the inbox has the signal."""
        if self._is_writing and number in ENDING:
            raise SystemExit(128 + number)  # as shells have it

    def close(self) -> None:
        """Give the terminal back, in the modes in which it was found."""
        self._end()
        signal.set_wakeup_fd(-1)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        os.close(self.inbox)
        os.close(self._waker)

    def _begin(self) -> None:
        tty.setraw(self.input, termios.TCSANOW)
        self._write(BEGIN)
        self._size = (0, 0)

    def _end(self) -> None:
        try:
            termios.tcflush(self._output, termios.TCOFLUSH)  # a terminal that takes nothing must not hold us
            os.write(self._output, END)
        except (OSError, termios.error):  # it is gone
            pass
        try:
            termios.tcsetattr(self.input, termios.TCSANOW, self._saved)
        except termios.error:  # it is gone
            pass

    def suspend(self) -> None:
        """Give the terminal back until the shell continues this process."""
        self._end()
        signal.raise_signal(signal.SIGTSTP)
        self._begin()

    def read_inbox(self) -> None:
        """Look at the signals; who was stopped finds the terminal as the shell has left it.

        Raises:
            SystemExit: one of them ends the program.
        """
        numbers = os.read(self.inbox, READ_BYTES)
        for number in ENDING:
            if number in numbers:
                raise SystemExit(128 + number)
        if signal.SIGCONT in numbers:
            self._begin()

    def size(self) -> tuple[int, int]:
        """Return columns and rows."""
        try:
            columns, rows = os.get_terminal_size(self._output)
        except OSError:
            return USUAL_SIZE
        return (columns, rows) if columns and rows else USUAL_SIZE  # serial lines know of none: 0, 0

    def read_keys(self) -> str:
        """Return the keys that were pressed; those that send a sequence, such as arrows, are left out.

        A sequence that comes in two parts is not recognized: terminals write each at once.
        """
        try:
            data = os.read(self.input, READ_BYTES)
        except OSError:  # EIO: the terminal has hung up
            data = b""
        if not data:
            raise SystemExit(128 + signal.SIGHUP)
        return ESCAPE_SEQUENCE.sub(b"", data).decode(errors="ignore")

    def draw(self, lines: Sequence[Line], size: tuple[int, int]) -> None:
        """Show a frame that was made for a size; what is on the screen already is not sent again."""
        out = bytearray()
        if size != self._size:
            self._size, self._shown = size, []
            out += b"\x1b[2J"
        rows = max(len(lines), len(self._shown))
        blank = Line("")
        old = [*self._shown, *[blank] * (rows - len(self._shown))]
        new = [*lines, *[blank] * (rows - len(lines))]
        for row, line in enumerate(new):
            if line != old[row]:
                # erased first: behind a full line the cursor still stands on its last column
                out += b"\x1b[%d;1H\x1b[0m\x1b[K%b" % (row + 1, self._looks[line.look])
                out += line.text.encode(errors="replace") + b"\x1b[0m"
        self._shown = new
        self._write(bytes(out))

    def _write(self, data: bytes) -> None:
        self._is_writing = True
        try:
            while data:
                select.select([], [self._output], [])  # somebody else may have made it non-blocking
                data = data[os.write(self._output, data) :]
        except OSError as error:
            raise SystemExit(128 + signal.SIGHUP) from error
        finally:
            self._is_writing = False
