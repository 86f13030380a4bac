"""Addresses as they are written in the config: `tcp://host:port`, `unix:///path`.

Knows: the syntax of a bind. Does not know: sockets, name resolution, what is served there.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

SCHEMES = ("tcp", "tls", "udp", "unix")
SERVED = ("tcp", "unix")  # the others are named in the contract, and refused by name until they are served
MAX_UNIX_PATH_BYTES = 107  # sun_path less its NUL, unix(7)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a listener is bound; `host` and `port` for inet schemes, `path` for unix."""

    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def is_unix(self) -> bool:
        return self.scheme == "unix"

    def __str__(self) -> str:
        if self.is_unix:
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def default_name(self) -> str:
        """A name for logs and status, such as `tcp-127.0.0.1-9000`."""
        where = self.path.strip("/").replace("/", "-") if self.is_unix else f"{self.host.strip('[]')}-{self.port}"
        return f"{self.scheme}-{where}"


def parse_address(text: str) -> Address:
    """Parse a bind.

    Args:
        text: `tcp://127.0.0.1:9000`, `tcp://[::1]:9000`, `tcp://localhost:0` or `unix:///run/echo.sock`.

    Raises:
        ValueError: it is not one; the message says what is wrong and how it is written.
    """
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in SCHEMES:
        raise ValueError(f"a bind is written tcp://host:port or unix:///path, not {text!r}")
    if scheme not in SERVED:
        raise ValueError(f"{scheme}:// is not served by this version; use tcp:// or unix://")
    return _parse_unix(rest, text) if scheme == "unix" else _parse_inet(scheme, text)


def _parse_unix(path: str, text: str) -> Address:
    if not path.startswith("/") or path.endswith("/"):
        raise ValueError(f"a unix bind has an absolute path, unix:///run/name.sock, not {text!r}")
    if len(path.encode()) > MAX_UNIX_PATH_BYTES:
        raise ValueError(f"the path of a unix socket has at most {MAX_UNIX_PATH_BYTES} bytes")
    return Address("unix", path=path)


def _parse_inet(scheme: str, text: str) -> Address:
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{text!r} has no valid host and port: {error}") from error
    if port is None:
        raise ValueError(f"{text!r} has no port; write {scheme}://host:port, port 0 = any free port")
    if not host or parts.path or parts.query or parts.fragment or parts.username is not None:
        raise ValueError(f"a bind is written {scheme}://host:port, not {text!r}")
    if ":" in host:
        try:
            ipaddress.IPv6Address(host)
        except ValueError as error:
            raise ValueError(f"{text!r} has no valid IPv6 address: {error}") from error
    return Address(scheme, host=host, port=port)
