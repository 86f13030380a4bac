"""`prefork capture`: makes the file, has the workers write to it, and waits.

Knows: the file, its limits, the control socket. Does not know: what is in the packets, who writes them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from prefork import __version__
from prefork.client import NoServerError, RefusedError, UsageError, ask
from prefork.config.units import parse_duration, parse_size
from prefork.pcapng import header

PROBE_SECONDS = 5.0
LOOK_SECONDS = 0.5


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
    is_begun = False
    given = {name: value for name, value in wanted.items() if value is not None}
    try:
        os.write(fd, header(__version__, names))
        arguments = {**given, "listeners": names, "limit": most, "seconds": seconds}
        ask(path, "capture", arguments, PROBE_SECONDS, fd)
        is_begun = True
        _wait(path, seconds)
    finally:
        size = os.fstat(fd).st_size
        os.close(fd)
        if not is_begun:
            os.unlink(output)
    print(f"{output}: {size} bytes")
    return 0


def _wait(path: str, seconds: float) -> None:
    """Wait for the end: of the time, of a worker's capture, by Ctrl-C."""
    end = time.monotonic() + seconds
    try:
        first = ask(path, "captures", {}, PROBE_SECONDS)
        while time.monotonic() < end and ask(path, "captures", {}, PROBE_SECONDS) == first:
            time.sleep(min(LOOK_SECONDS, max(0.0, end - time.monotonic())))
    except (KeyboardInterrupt, NoServerError):  # either is an end
        pass
    try:
        ask(path, "capture", {}, PROBE_SECONDS)
    except NoServerError:  # it has ended meanwhile, and the capture with it
        pass
