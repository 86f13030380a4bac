"""`prefork capture`: has the workers write down what is said, and makes a file for Wireshark of it.

Knows: the file, its limits, the spool, the control socket. Does not know: headers of packets, connections.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import struct
import sys
import threading
import time
from collections.abc import Mapping
from tempfile import TemporaryFile
from typing import Any

from prefork import __version__
from prefork.client import NoServerError, RefusedError, UsageError, ask
from prefork.config.units import parse_duration, parse_size
from prefork.errors import RemoteProtocolError
from prefork.pcapng import Close, Stream, header
from prefork.spool import Event, read_batches

PROBE_SECONDS = 5.0
LOOK_SECONDS = 0.2
ENDED = "somebody has ended it"
EXPECTED = ("its limit is reached", "its time is over", ENDED)
FAULTS = {"broken": Close.RESET_BY_PEER}


def run_capture(path: str, output: str, limit: str, duration: str, wanted: Mapping[str, Any]) -> int:
    """Capture until the time is over, the limit is reached, or Ctrl-C; return the exit code.

    Args:
        path: of the control socket.
        output: the file, which must not be there yet.

    Raises:
        UsageError: limit or time cannot be read.
        RefusedError: the file cannot be made, or the server will not do it.
    """
    try:
        most, seconds = parse_size(limit), parse_duration(duration)
    except ValueError as error:
        raise UsageError(f"cannot capture: {error}") from error
    names = [listener["name"] for listener in ask(path, "status", {}, PROBE_SECONDS)["listeners"]]
    try:
        fd = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise RefusedError(f"cannot write {output}: {error.strerror}; name a new file") from error
    given = {name: value for name, value in wanted.items() if value is not None}
    is_begun = False
    try:
        with TemporaryFile(dir=os.path.dirname(output) or ".") as spool:
            fcntl.fcntl(spool, fcntl.F_SETFL, os.O_APPEND)
            scribe = Scribe(fd, most, spool.fileno())
            scribe.write(header(__version__, names))
            arguments = {**given, "listeners": names, "limit": most, "seconds": seconds}
            ask(path, "capture", arguments, PROBE_SECONDS, spool.fileno())
            is_begun = True
            reason = _watch(path, scribe, seconds)
        print(f"{output}: {scribe.size} bytes")
    finally:
        os.close(fd)
        if not is_begun:
            os.unlink(output)
    if reason:
        print(f"prefork: the capture ended early: {reason}", file=sys.stderr)
    return 3 if reason else 0


class Scribe:
    """Makes packets of what the workers have written down.

    Attributes:
        size: bytes of the file.
        is_full: the next block would be over the limit.
    """

    def __init__(self, fd: int, limit: int, spool: int) -> None:
        self._fd = fd
        self._limit = limit
        self._spool = spool
        self._offset = 0
        self._streams: dict[tuple[int, int], Stream] = {}  # by worker and number
        self.size = 0
        self.is_full = False

    def write(self, data: bytes) -> None:
        """Append whole blocks to the file, or nothing.

        Raises:
            RefusedError: it cannot be done.
        """
        begin = self.size
        try:
            while data:
                written = os.write(self._fd, data)
                self.size += written
                data = data[written:]
        except OSError as error:
            os.ftruncate(self._fd, begin)  # a block that is cut makes the file unreadable
            raise RefusedError(f"cannot write more of the capture: {error.strerror}") from error

    def go_on(self) -> None:
        """Write what has come since the last time.

        Raises:
            RefusedError: it cannot be written.
            RemoteProtocolError: what has come cannot be read.
        """
        for offset, who, events in read_batches(self._spool, self._offset):
            self._offset = offset
            for told in events:
                try:
                    blocks = self._pack(who, *told)
                except (LookupError, TypeError, ValueError, RecursionError, struct.error) as error:
                    raise RemoteProtocolError(f"cannot read what was captured: {error!r}") from error
                self.is_full = self.size + len(blocks) > self._limit
                if self.is_full:
                    return
                self.write(blocks)

    def _pack(self, who: int, event: Event, number: int, at_ns: int, told: bytes) -> bytes:
        if event is Event.OPENED:
            stream = self._streams[who, number] = open_stream(json.loads(told), who << 32 | number)
            return stream.opened(at_ns)
        stream = self._streams[who, number]
        if event is Event.RECEIVED:
            return stream.received(at_ns, told)
        if event is Event.SENT:
            return stream.sent(at_ns, told)
        if event is Event.INPUT_ENDED:
            return stream.input_ended(at_ns)
        reason = told.decode()
        del self._streams[who, number]
        return stream.closed(at_ns, reason, FAULTS.get(reason, Close.FINISHED))


def open_stream(told: Mapping[str, Any], serial: int) -> Stream:
    """Return the packets of a connection, as a worker has told of it."""
    peer, local = (tuple(end) if isinstance(end, list) else end for end in (told["peer"], told["local"]))
    return Stream(told["place"], peer, local, told["comment"], serial)


def _watch(path: str, scribe: Scribe, seconds: float) -> str:
    """Write until the end: of the time, of the file's limit, by Ctrl-C; return why it came before, if it did."""
    end, asked, reason = time.monotonic() + seconds, threading.Event(), ""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked.set())
    try:
        while not (reason or scribe.is_full or asked.is_set() or time.monotonic() >= end):
            time.sleep(min(LOOK_SECONDS, max(0.0, end - time.monotonic())))
            scribe.go_on()
            state = ask(path, "captures", {}, PROBE_SECONDS)
            reason = "; ".join(state["reasons"]) or ("" if state["is_running"] else ENDED)
    except NoServerError as error:
        reason = str(error)
    finally:
        with contextlib.suppress(NoServerError):  # it has ended meanwhile, and the capture with it
            ask(path, "capture", {}, PROBE_SECONDS)
    if not scribe.is_full:
        scribe.go_on()
    return "" if reason in EXPECTED and (scribe.is_full or time.monotonic() >= end - LOOK_SECONDS) else reason
