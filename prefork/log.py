"""Logging of all processes: one record, one line, one write(2), so that lines never interleave.

A file is opened for appending, which makes a write of any length atomic against other processes (open(2));
USR1 reopens it. Text for terminals; JSON lines for everything else.

Knows: formats, one descriptor. Does not know: what is worth logging.
"""

from __future__ import annotations

import json
import logging
import os
import re
import select
import time
from itertools import groupby
from typing import Any

from prefork.config.model import LogConfig

FIELDS = (  # of a record, written when they are there
    *("slot", "generation", "conn", "peer", "listener"),
    *("start", "duration", "received", "sent", "frames", "tls", "reason"),
)
MAX_CHARACTERS = 8192  # of a message, and of each line of a traceback
MAX_LINES = 200  # of a detail, such as a traceback; an exception may tell what a peer has said
MAX_DETAIL = 65_536  # characters
UNPRINTABLE = re.compile(r"[^ -~]+")
WRITE_SECONDS = 1.0  # a reader of our pipe who takes nothing for so long loses a line; the server goes on


class LineHandler(logging.Handler):
    """Writes each record as one line to a descriptor that can be exchanged; tells how many it could not write."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self.fd = fd
        self._lost = 0
        self._is_torn = False  # the last thing written is a part of a line

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record).encode("utf-8", "backslashreplace") + b"\n"
        except Exception:  # noqa: BLE001  # logging's own way to say that a call to it has wrong arguments
            self.handleError(record)
            return
        if self._lost:
            told = (f"{self._lost} records before this one could not be written", ())
            notice = logging.LogRecord("prefork", logging.WARNING, __file__, 0, *told, None)
            self.filter(notice)
            start = b"\n" if self._is_torn else b""
            if self._write(start + self.format(notice).encode("utf-8", "backslashreplace") + b"\n"):
                self._lost = 0
        if self._lost or not self._write(line):
            self._lost += 1

    def _write(self, line: bytes) -> bool:
        """Write a line; return whether all of it was."""
        while line:
            try:
                written = os.write(self.fd, line)
            except BlockingIOError:
                if not select.select([], [self.fd], [], WRITE_SECONDS)[1]:
                    return False
            except OSError:  # the disk is full, the reader of the pipe is gone: it is told later
                return False
            else:
                line = line[written:]
                self._is_torn = bool(line)
        return True

    def redirect(self, fd: int) -> None:
        """Write to another descriptor from now on, under the number of the old one."""
        if fd != self.fd:
            os.dup2(fd, self.fd, inheritable=self.fd <= 2)
            os.close(fd)


class Fields(logging.Filter):
    """Adds what is the same for all records of a process."""

    def __init__(self, **fields: Any) -> None:
        super().__init__()
        self._fields = fields

    def filter(self, record: logging.LogRecord) -> bool:
        for name, value in self._fields.items():
            if not hasattr(record, name):
                setattr(record, name, value)
        return True


class TextFormatter(logging.Formatter):
    """`12:34:56.789 info  worker 1 g3 (4711) prefork.echo: message`, for people."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        who = getattr(record, "who", "")
        level = record.levelname.lower()
        message = _escape(record.getMessage())
        text = f"{clock}.{int(record.msecs):03d} {level:<7} {who} ({record.process}) {record.name}: {message}"
        return "\n  ".join([text, *map(_escape, _bound_lines(_detail(self, record).splitlines()))])


class JsonFormatter(logging.Formatter):
    """One JSON object per line, for machines."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "ts": format_time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": _bound(record.getMessage()),
            "pid": record.process,
        }
        entry |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        detail = _detail(self, record)
        if detail:
            entry["detail"] = detail
        return json.dumps(entry, default=str)


def format_time(seconds: float) -> str:
    """Return a time since the epoch as RFC 3339 has it, in UTC, to a microsecond."""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{int(seconds % 1 * 1e6):06d}Z"


def _bound(message: str) -> str:
    """Cut what is too long for a line."""
    if len(message) <= MAX_CHARACTERS:
        return message
    return f"{message[:MAX_CHARACTERS]}… ({len(message) - MAX_CHARACTERS} more characters)"


def _bound_lines(lines: list[str]) -> list[str]:
    """Leave out the middle of a detail that is too long: what raised is at its end, who called at its begin."""
    if len(lines) <= MAX_LINES:
        return lines
    half = MAX_LINES // 2
    return [*lines[:half], f"… ({len(lines) - 2 * half} more lines)", *lines[-half:]]


def _escape(message: str) -> str:
    """Keep a message on its line, whatever a peer has put into it, and bounded."""
    message = _bound(message)
    return message if message.isprintable() else UNPRINTABLE.sub(_escape_some, message)


def _escape_some(found: re.Match[str]) -> str:
    runs = ((is_fine, "".join(run)) for is_fine, run in groupby(found[0], str.isprintable))
    return "".join(run if is_fine else run.encode("unicode_escape").decode() for is_fine, run in runs)


def _detail(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    detail: str = getattr(record, "detail", "")
    if record.exc_info and record.exc_info[0] is not None:
        detail = formatter.formatException(record.exc_info)
    if len(detail) > MAX_DETAIL:
        half = MAX_DETAIL // 2
        detail = f"{detail[:half]}\n… ({len(detail) - 2 * half} more characters)\n{detail[-half:]}"
    return detail


def open_log(chosen: LogConfig) -> int:
    """Return a descriptor to write to.

    Raises:
        OSError: the file cannot be opened.
    """
    if chosen.file is None:
        return os.dup(2)
    return os.open(chosen.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)


def build_handler(chosen: LogConfig, fd: int) -> LineHandler:
    """Return what writes records to a descriptor in the format that the config wants."""
    handler = LineHandler(fd)
    is_text = chosen.format == "text" or (chosen.format == "auto" and os.isatty(fd))
    handler.setFormatter(TextFormatter() if is_text else JsonFormatter())
    return handler


def install(handler: LineHandler, chosen: LogConfig, **fields: Any) -> None:
    """Send all records of this process to a handler.

    Args:
        fields: what every record of this process carries; `who` is its name in text.
    """
    for old in handler.filters[:]:
        handler.removeFilter(old)
    handler.addFilter(Fields(**fields))
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(chosen.level.upper())
    logging.captureWarnings(True)
