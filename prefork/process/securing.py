"""The TLS of a generation: contexts of all listeners that have certificates, and what their owner is to know.

Knows: the config, where its keys stand. Does not know: the ssl module, who serves.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prefork.config import Loaded
from prefork.errors import ConfigError
from prefork.tls import Security, open_security


def secure(loaded: Loaded, directories: Sequence[str], kept: Iterable[Security] = ()) -> dict[str, Security]:
    """Return the contexts of the listeners that speak TLS, by their names.

    Args:
        directories: where relative paths are looked for.
        kept: of the running generation: what has not changed is taken from there.

    Raises:
        ConfigError: certificates cannot be loaded; all that are wrong, each with its place.
    """
    found: dict[str, Security] = {}
    problems: list[str] = []
    known = tuple(kept)
    for index, listener in enumerate(loaded.config.listeners):
        if listener.tls is None:
            continue
        try:
            found[listener.name] = open_security(listener.tls, directories, (*known, *found.values()))
            check_keylog(listener.tls.keylog)
        except ConfigError as error:
            where = loaded.at("listeners", index, "tls")
            problems += [f"{where}: {listener.name}: {problem}" for problem in error.problems]
    if problems:
        raise ConfigError(problems)
    return found


def describe_warnings(securities: Iterable[Security]) -> list[str]:
    """Return what should be mended: certificates that end, keys that others can read, secrets that are written."""
    warnings: dict[str, None] = {}
    for security in securities:
        for warning in security.warnings:
            warnings[warning] = None
        for certificate in security.certificates:
            warnings[certificate.describe_end(time.time())] = None
        if security.keylog is not None:
            warnings[f"tls.keylog: the keys of every connection are written to {security.keylog}"] = None
    return [warning for warning in warnings if warning]


def check_keylog(path: str | None) -> None:
    """Check that a file of session keys can be one, without making it.

    Raises:
        ConfigError: it cannot.
    """
    if path is None:
        return
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
        raise ConfigError([f"cannot write tls.keylog {path}: it is no file; name one"])
    if not os.access(folder, os.W_OK):
        raise ConfigError([f"cannot write tls.keylog {path}: the folder {folder} cannot be written; name another"])


def open_keylog(path: str, owner: tuple[int, int] | None) -> None:
    """Make the file of session keys, for its owner alone: OpenSSL would make it readable for all.

    Args:
        owner: user and group that the workers become; None: they stay who they are.

    Raises:
        ConfigError: it cannot be written, or is no file.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    fd = -1
    try:
        fd = os.open(path, flags, 0o600)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ConfigError([f"cannot write tls.keylog {path}: it is no file; name one"])
        os.fchmod(fd, 0o600)
        if owner is not None:
            os.fchown(fd, *owner)
    except OSError as error:
        raise ConfigError([f"cannot write tls.keylog {path}: {error.strerror}; name another file"]) from error
    finally:
        if fd >= 0:
            os.close(fd)


def describe_certificates(securities: Mapping[str, Security]) -> list[dict[str, Any]]:
    """Return a row for each certificate of each listener: whose it is, and when it ends."""
    return [
        {
            "listener": name,
            "subject": ", ".join(certificate.names) or certificate.path,
            "ends_at": certificate.ends_at,
        }
        for name, security in securities.items()
        for certificate in security.certificates
    ]
