"""`prefork top`: a running server on a terminal, and keys that command it.

Knows: the control socket with several questions under way, waiting for whatever comes first. Does not know:
what is asked, what keys mean, how a frame looks.
"""

from __future__ import annotations

import dataclasses
import os
import re
import select
import socket
import sys
import time
from itertools import count
from typing import Any

from prefork.client import NoServerError, RefusedError, UsageError, ask, wait_gone
from prefork.errors import RemoteProtocolError
from prefork.overview import Overview, Stage
from prefork.screen import layout
from prefork.terminal import INTERRUPT, SUSPEND, Terminal
from prefork.wire import ANSWER_BYTES, pack, unpack

EXIT_GOOD = 0
ANSWER_SECONDS = 5.0
INTERVAL = re.compile(r"(?P<number>[0-9]{1,6}(\.[0-9]{1,3})?)(?P<unit>ms|s|m)?")
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0}
LEAST_INTERVAL, MOST_INTERVAL = 0.1, 3600.0
PLAIN_WIDTH = 120  # of a frame that goes to a file


def parse_interval(text: str) -> float:
    """Return seconds.

    Raises:
        UsageError: it is no interval, or out of bounds.
    """
    match = INTERVAL.fullmatch(text)
    seconds = float(match["number"]) * UNITS[match["unit"] or "s"] if match else 0.0
    if not LEAST_INTERVAL <= seconds <= MOST_INTERVAL:
        raise UsageError(f"cannot look every {text!r}; write a time from 100ms to 60m, such as 500ms or 2s")
    return seconds


def need_terminal() -> None:
    """Check that keys and frames have a terminal.

    Raises:
        UsageError: they have none.
    """
    if not (os.isatty(0) and os.isatty(1)):
        raise UsageError("cannot run top: this is no terminal; use `prefork status`, or `prefork top --once`")


def run_top(path: str, interval: float) -> int:
    """Show the server of a control socket on this terminal until the reader leaves; return the exit code.

    Raises:
        NoServerError: nobody answers there, or no longer.
    """
    session = Session(path)
    try:
        terminal = Terminal(0, 1, os.environ)
        try:
            terminal.open()
            last_words = Top(session, terminal, interval).run()
        finally:
            terminal.close()
    finally:
        session.close()
    if last_words:
        print(last_words)
    return EXIT_GOOD


def show_once(path: str, interval: float) -> int:
    """Print one frame, with the rates of one interval; return the exit code.

    Raises:
        NoServerError: nobody answers there.
    """
    overview = Overview()
    for is_again in (False, True):
        if is_again and wait_gone(path, interval):
            raise NoServerError(f"no server answers at {path}: it has ended")
        overview.tick(time.monotonic())
        for question in overview.take_questions():
            try:
                result = ask(path, question.command, question.arguments, ANSWER_SECONDS)
                overview.take(question.command, result, time.monotonic())
            except RefusedError as error:
                overview.refuse(question.command, str(error))
    width = os.get_terminal_size(1).columns if os.isatty(1) else PLAIN_WIDTH
    picture = dataclasses.replace(overview.picture(time.monotonic()), foot=())  # nobody presses keys
    lines = layout(picture, width or PLAIN_WIDTH)
    text = "".join(line.text.rstrip() + "\n" for line in lines)
    encoding = sys.stdout.encoding
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    return EXIT_GOOD


class Top:
    """The loop: it waits for a key, an answer, a signal or the next interval."""

    def __init__(self, session: Session, terminal: Terminal, interval: float) -> None:
        self._session = session
        self._terminal = terminal
        self._interval = interval
        self._overview = Overview()

    def run(self) -> str:
        """Run until the reader leaves, or the server has stopped as they wished; return what is left to say.

        Raises:
            NoServerError: the server is gone.
        """
        due = time.monotonic()
        try:
            while self._overview.stage is not Stage.LEFT:
                now = time.monotonic()
                if now >= due:
                    due = now + self._interval
                    self._overview.tick(now)
                self._step(due)
        except NoServerError:
            if self._overview.stage is not Stage.STOPPING:
                raise
            return "the server has stopped"
        return ""

    def _step(self, due: float) -> None:
        for question in self._overview.take_questions():
            self._session.ask(question.command, question.arguments)
        size = self._terminal.size()
        self._terminal.draw(layout(self._overview.picture(time.monotonic()), *size), size)
        sources = [self._terminal.input, self._terminal.inbox, self._session.fileno()]
        found, _, _ = select.select(sources, [], [], max(0.0, due - time.monotonic()))
        if self._terminal.inbox in found:
            self._terminal.read_inbox()
        if self._terminal.input in found:
            self._read_keys()
        if self._session.fileno() in found:
            self._hear()

    def _read_keys(self) -> None:
        for key in self._terminal.read_keys():
            if key == INTERRUPT:
                raise KeyboardInterrupt
            if key == SUSPEND:
                self._terminal.suspend()
            self._overview.press(key, time.monotonic())

    def _hear(self) -> None:
        now = time.monotonic()
        try:
            for command, answer in self._session.receive():
                if answer.get("ok"):
                    self._overview.take(command, answer.get("result"), now)
                else:
                    self._overview.refuse(command, str(answer.get("error")))
        except NoServerError:
            if not self._session.was_answered:
                raise
            self._session.renew()  # a server drops who is told more than they read; it may live
            self._overview.lose()


class Session:
    """A connection to the control socket on which nothing is waited for.

    Attributes:
        path: of the socket.
        was_answered: whether a server has spoken on this connection.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.was_answered = False
        self._asked: dict[int, str] = {}
        self._numbers = count(1)
        self._input = bytearray()
        self._socket = _connect(path)

    def renew(self) -> None:
        """Connect again; what was asked before is not answered any more.

        Raises:
            NoServerError: nobody answers there.
        """
        self._socket.close()
        self._socket = _connect(self.path)
        self.was_answered = False
        self._asked.clear()
        self._input.clear()

    def fileno(self) -> int:
        return self._socket.fileno()

    def ask(self, command: str, arguments: Any) -> None:
        """Send a question.

        There is one of each command at a time, of some hundred bytes: they fit into any socket's buffer.
        """
        number = next(self._numbers)
        self._asked[number] = command
        try:
            self._socket.send(pack({"id": number, "command": command, "arguments": dict(arguments)}))
        except OSError:  # it has hung up: reading tells, and gives what it said before
            pass

    def receive(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the answers that are there, each with the command that was asked.

        Raises:
            NoServerError: the server has hung up.
        """
        try:
            data = self._socket.recv(65_536)
            self._input += data
            answers = list(unpack(self._input, ANSWER_BYTES))
        except (OSError, RemoteProtocolError) as error:
            raise NoServerError(f"no server answers at {self.path}: {error}") from error
        if not data:
            raise NoServerError(f"no server answers at {self.path}: it has ended")
        self.was_answered = self.was_answered or bool(answers)
        known = [(self._asked.pop(number, None), a) for a in answers if isinstance(number := a.get("id"), int)]
        return [(command, answer) for command, answer in known if command is not None]

    def close(self) -> None:
        self._socket.close()


def _connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(ANSWER_SECONDS)
        sock.connect(path)
    except OSError as error:
        sock.close()
        raise NoServerError(f"no server answers at {path}: {error}") from error
    sock.setblocking(False)
    return sock
