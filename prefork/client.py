"""Talks to a running server over its control socket; needs neither an event loop nor YAML.

Knows: the language, where control sockets lie. Does not know: what commands do.
"""

from __future__ import annotations

import os
import re
import socket
import stat
from collections.abc import Mapping

from prefork.errors import PreforkError, RemoteProtocolError
from prefork.wire import ANSWER_BYTES, default_control, is_usable, pack, run_directories, unpack

TYPE_CHECKING = False  # as `typing` has it, whose import would be a fifth of a probe's CPU
if TYPE_CHECKING:
    from typing import Any

CONTROL_KEY = re.compile(r"^control:(?P<value>.*?)(?:[ \t]#.*)?$", re.MULTILINE)
PLAIN_PATH = re.compile(r"^(?P<quote>[\"']?)(?P<path>/[^\"'${}]*|[^\"'${}/&*!|>%@`~][^\"'${}]*)(?P=quote)$")


class NoServerError(PreforkError):
    """No server answers."""


class UsageError(PreforkError):
    """A command is written wrongly, or it is not clear which server is meant."""


class RefusedError(PreforkError):
    """The server will not do it."""


def ask(
    path: str, command: str, arguments: Mapping[str, Any], timeout: float | None, fd: int | None = None
) -> Any:
    """Send one command to a server and return its result.

    Args:
        path: of the control socket.
        timeout: seconds for each step; None: as long as it takes.
        fd: a descriptor that goes with it.

    Raises:
        NoServerError: nobody answers there.
        RefusedError: the server says no, and why.
        UsageError: the command is written wrongly.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout)
        try:
            sock.connect(path)
            request = pack({"id": 1, "command": command, "arguments": dict(arguments)})
            if fd is not None:
                request = request[socket.send_fds(sock, [request], [fd]) :]
            sock.sendall(request)
            answer = _receive(sock)
        except (OSError, RemoteProtocolError) as error:
            raise NoServerError(f"no server answers at {path}: {error}") from error
    if not answer.get("ok"):
        raise (UsageError if answer.get("is_usage") else RefusedError)(str(answer.get("error")))
    return answer.get("result")


def _receive(sock: socket.socket) -> dict[str, Any]:
    buffer = bytearray()
    while data := sock.recv(65_536):
        buffer += data
        for message in unpack(buffer, ANSWER_BYTES):
            if message.get("id") in (1, None):  # one without is for whoever asks: nobody is listened to
                return message
    raise RemoteProtocolError("it hung up without an answer")


def wait_gone(path: str, timeout: float | None) -> bool:
    """Wait until the server that answers at a path has ended; return False if it takes longer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout)
        try:
            sock.connect(path)
            while sock.recv(65_536):
                pass
        except TimeoutError:
            return False
        except OSError:  # refused, reset, no such file: it has ended already
            pass
    return True


def locate(config: str | None, control: str | None, environ: Mapping[str, str]) -> str:
    """Return the control socket of the server that a command means.

    Args:
        config: the path of its config file.
        control: the path itself; goes before PREFORK_CONTROL of the environment, and that before the file.

    Raises:
        NoServerError: there is none.
        UsageError: there are several, and neither argument says which.
    """
    control = control or environ.get("PREFORK_CONTROL")
    if control:
        return control
    if config:
        path = _read_control(config) or default_control(config, environ)
        if path is None:
            raise NoServerError("no server answers: there is no run directory; use --control PATH")
        return path
    living = [path for path in _sockets(environ) if _is_alive(path)]
    if not living:
        raise NoServerError("no server answers in the run directory; name its config file, or use --control")
    if len(living) > 1:
        raise UsageError("several servers answer; use --control with one of: " + ", ".join(living))
    return living[0]


def _read_control(config: str) -> str | None:
    """Return the `control:` of a config file, read without YAML if it is a plain path."""
    try:
        with open(config, encoding="utf-8") as file:
            found = CONTROL_KEY.search(file.read())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {config}: {error}") from error
    value = "" if found is None else found["value"].strip()
    if value in ("", "null", "~"):
        return None
    plain = PLAIN_PATH.match(value)
    if plain:
        return plain["path"]
    from prefork.config import read_config  # a variable or another YAML spelling: the long way

    return read_config(config, os.environ).config.control


def _sockets(environ: Mapping[str, str]) -> list[str]:
    for directory in run_directories(environ):
        if is_usable(directory):
            names = sorted(name for name in os.listdir(directory) if name.endswith(".sock"))
            paths = [os.path.join(directory, name) for name in names]
            return [path for path in paths if stat.S_ISSOCK(os.lstat(path).st_mode)]
    return []


def _is_alive(path: str) -> bool:
    try:
        ask(path, "health", {}, timeout=1.0)
    except PreforkError:
        return False
    return True
