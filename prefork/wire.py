"""The control socket's language: JSON objects, each behind its length in four bytes, big-endian.

Requests are `{"id", "command", "arguments"}`, answers `{"id", "ok", "result"}` or `{"id", "ok", "error"}`.

Knows: bytes, JSON, where control sockets lie. Does not know: commands, what is on the other side.
"""

from __future__ import annotations

import json
import os
import stat
import struct
from collections.abc import Iterator, Mapping

from prefork.errors import RemoteProtocolError

TYPE_CHECKING = False  # as `typing` has it, whose import would be a fifth of a probe's CPU
if TYPE_CHECKING:
    from typing import Any

HEADER = struct.Struct(">I")
REQUEST_BYTES = 65_536
ANSWER_BYTES = 64 * 1024 * 1024


def pack(message: Mapping[str, Any]) -> bytes:
    """Return a message as it goes over the wire."""
    body = json.dumps(message).encode()
    return HEADER.pack(len(body)) + body


def unpack(buffer: bytearray, max_bytes: int) -> Iterator[dict[str, Any]]:
    """Take whole messages from the front of a buffer.

    Raises:
        RemoteProtocolError: one is over the limit, or no JSON object.
    """
    while len(buffer) >= HEADER.size:
        (size,) = HEADER.unpack_from(buffer)
        if size > max_bytes:
            raise RemoteProtocolError(f"cannot take a message of {size} bytes: the limit is {max_bytes}")
        if len(buffer) < HEADER.size + size:
            return
        body = bytes(buffer[HEADER.size : HEADER.size + size])
        del buffer[: HEADER.size + size]
        try:
            message = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise RemoteProtocolError(f"cannot read a message: {error}") from error
        if not isinstance(message, dict):
            raise RemoteProtocolError("cannot read a message: it is not a JSON object")
        yield message


def run_directories(environ: Mapping[str, str]) -> list[str]:
    """Return the folders in which control sockets lie by default, best first."""
    temporary = os.path.join(environ.get("TMPDIR") or "/tmp", f"prefork-{os.getuid()}")
    given = environ.get("XDG_RUNTIME_DIR")
    return [*([given] if given else []), "/run/prefork", temporary]


def is_usable(directory: str, create: bool = False) -> bool:
    """Whether a folder is ours and nobody else can write to it.

    Args:
        create: make it, mode 0700, if it is not there.
    """
    if create:
        try:
            os.mkdir(directory, 0o700)
        except OSError:  # it is there, or it cannot be: the next lines tell
            pass
    try:
        found = os.lstat(directory)
    except OSError:
        return False
    is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    return is_ours and not found.st_mode & 0o022 and os.access(directory, os.W_OK | os.X_OK)


def default_control(config_path: str, environ: Mapping[str, str], create: bool = False) -> str | None:
    """Return where the server of a config file has its control socket; None: no folder can be used."""
    name = os.path.splitext(os.path.basename(config_path))[0] + ".sock"
    for directory in run_directories(environ):
        if is_usable(directory, create):
            return os.path.join(directory, name)
    return None
