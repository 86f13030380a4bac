"""Targets of the log: whatever a peer has put into a message, a record is a line, and nothing in it is obeyed.

Knows: what log injection looks like. Does not know: who writes records, where they go.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from typing import Any

from prefork.config import LogConfig
from prefork.log import MAX_CHARACTERS, JsonFormatter, LineHandler, TextFormatter, build_handler
from tools.fuzzing.mutation import Mutator
from tools.fuzzing.target import Broken, Target

INJECTIONS = (
    b"GET / HTTP/1.1\n12:34:56.789 error  master (1) prefork: forged",
    b"user\r\n\r\nroot logged in\rovertyped",
    b"\x1b[2J\x1b[1;31mred\x1b]0;title\x07\x1b[8mhidden\x9b31m\x90q\x9c",
    "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x1dh\x1ei".encode(),
    "\u202egnp.exe\u2066\u2069\u200f\u061c\ufeff\u200b\u00ad".encode(),
    b"\xff\xfe\x80\xed\xa0\x80\xed\xbf\xbf\xc0\x8a\xf4\x90\x80\x80",
    "\U0010ffff\ue000\ufffe\U000e0041\U0001f468\u200d\U0001f469 a\u0300\u0300\u0300".encode(),
    b"\0\x01\x02\x07\x08\x08\x08\x7f",
    b'","level":"error","msg":"forged"}\n{"a":"',
    b"%s %d %n %(peer)s {0} {peer} ${VAR}",
    b"\\n \\x0a \\u000a \\",
    b"x" * 2000,
    b"",
)
KINDS = ("message", "argument", "detail", "exception", "field")


def build_record_targets() -> Iterator[Target]:
    """Return a target for each format."""
    make = Mutator(INJECTIONS, (b"\n", b"\r", b"\x1b[", b"\n  ", b'"', b"\\"), 65_536).make
    for name in ("text", "json"):
        handler = build_handler(LogConfig(format=name), os.memfd_create(f"fuzz-{name}", os.MFD_CLOEXEC))
        writer = Writer(handler)
        yield Target(f"log-{name}", f"log records in format {name}, LineHandler.emit()", make, writer.call)


class Writer:
    """Writes records with hostile text in every place where a peer's could be, and reads the lines."""

    def __init__(self, handler: LineHandler) -> None:
        self._handler = handler

    def __del__(self) -> None:
        os.close(self._handler.fd)

    def call(self, data: bytes) -> None:
        """Write a text as message, argument, detail, exception and field of a record."""
        for text in {data.decode("utf-8", "surrogateescape"), data.decode("utf-8", "replace"), decode_pairs(data)}:
            for kind in KINDS:
                self._check(kind, text, self._write(record_of(kind, text)))

    def _write(self, record: logging.LogRecord) -> bytes:
        fd = self._handler.fd
        os.ftruncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_SET)
        self._handler.emit(record)
        return os.pread(fd, 1 << 24, 0)

    def _check(self, kind: str, text: str, written: bytes) -> None:
        try:
            lines = written.decode("utf-8").split("\n")
        except UnicodeDecodeError:
            raise Broken(f"a {kind} is written as what is no UTF-8") from None
        if lines.pop() or not lines:
            raise Broken(f"a record with a {kind} does not end with a line")
        if not all(line.isprintable() for line in lines):
            raise Broken(f"a {kind} brings a control character into the log")
        if isinstance(self._handler.formatter, TextFormatter):
            is_long = kind in ("detail", "exception")
            if (len(lines) > 1 and not is_long) or not all(line.startswith("  ") for line in lines[1:]):
                raise Broken(f"a {kind} makes a record several lines")
        elif isinstance(self._handler.formatter, JsonFormatter):
            check_entry(kind, text, lines)


def check_entry(kind: str, text: str, lines: list[str]) -> None:
    """Hold that a record is one object, which has the text in its place."""
    if len(lines) > 1:
        raise Broken(f"a {kind} makes a record several lines")
    entry = json.loads(lines[0])
    text = json.loads(json.dumps(text))  # in which two halves of a surrogate pair are a character again
    is_cut = len(text) > MAX_CHARACTERS and entry["msg"].startswith(text[: MAX_CHARACTERS // 2])
    if kind in ("message", "argument") and entry["msg"] != text and not is_cut:
        raise Broken(f"a {kind} is another one in the log")
    if kind == "field" and entry["peer"] != text:
        raise Broken("a field is another one in the log")
    if entry["level"] != "warning" or entry["logger"] != "prefork.fuzz":
        raise Broken(f"a {kind} forges another field")


def record_of(kind: str, text: str) -> logging.LogRecord:
    """Return a record with a text in one of its places."""
    fields: dict[str, Any] = {"name": "prefork.fuzz", "levelno": logging.WARNING, "levelname": "WARNING"}
    fields |= {"msg": "a plain message", "args": (), "who": "worker 1"}
    if kind == "message":
        fields["msg"] = text
    elif kind == "argument":
        fields |= {"msg": "%s", "args": (text,)}
    elif kind == "detail":
        fields["detail"] = text
    elif kind == "exception":
        error = ValueError(text)
        fields["exc_info"] = (ValueError, error, None)
    else:
        fields |= {"peer": text, "conn": 7, "listener": text}
    return logging.makeLogRecord(fields)


def decode_pairs(data: bytes) -> str:
    """Return bytes as a text that may hold halves of surrogate pairs; latin-1, if they are none."""
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("latin-1")
