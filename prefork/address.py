"""Addresses as they are written in the config: `tcp://host:port`, `unix:///path`, `fd://3`.

Knows: the syntax of a bind. Does not know: sockets, name resolution, what is served there.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

INET = ("tcp", "tls", "udp")
UNIX = ("unix", "unixgram")
SCHEMES = (*INET, *UNIX, "fd")
LABEL = r"[A-Za-z0-9_-]{1,63}"  # of a host's name, RFC 1035, 2.3.4
ZONE = r"(?!.*\.\.)[A-Za-z0-9._-]{1,15}"  # a name of an interface, IFNAMSIZ of net/if.h, as IDNA takes it
MAX_UNIX_PATH_BYTES = 107  # sun_path less its NUL, unix(7)
FORMS = "tcp://host:port, tls://host:port, udp://host:port, unix:///path, unixgram:///path or fd://N"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a listener is bound.

    Attributes:
        host: of inet schemes, as is `port`.
        path: of unix schemes, `@name` for an abstract one; of fd, the number or the name that systemd gave.
    """

    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def is_unix(self) -> bool:
        return self.scheme in UNIX

    @property
    def is_inherited(self) -> bool:
        """Whether the socket was opened by who started the server."""
        return self.scheme == "fd"

    @property
    def is_datagram(self) -> bool:
        return self.scheme in ("udp", "unixgram")

    @property
    def is_abstract(self) -> bool:
        """Whether a unix address is a name without a file, unix(7)."""
        return self.is_unix and self.path.startswith("@")

    @property
    def plain(self) -> Address:
        """The address of the socket itself, whatever is spoken on it."""
        return replace(self, scheme="tcp") if self.scheme == "tls" else self

    def __str__(self) -> str:
        if self.scheme not in INET:
            return f"{self.scheme}://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def default_name(self) -> str:
        """A name for logs and status, such as `tcp-127.0.0.1-9000`."""
        is_path = self.scheme not in INET
        where = self.path.strip("/").replace("/", "-") if is_path else f"{self.host.strip('[]')}-{self.port}"
        return f"{self.scheme}-{where}"


def parse_address(text: str) -> Address:
    """Parse a bind.

    Args:
        text: `tcp://127.0.0.1:9000`, `tls://[::1]:9000`, `udp://localhost:0`, `unix:///run/echo.sock`,
            `unixgram://@name` or `fd://3`.

    Raises:
        ValueError: it is not one; the message says what is wrong and how it is written.
    """
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in SCHEMES:
        raise ValueError(f"a bind is written {FORMS}, not {text!r}")
    if scheme in UNIX:
        return _parse_unix(scheme, rest, text)
    return _parse_inet(scheme, text) if scheme in INET else _parse_inherited(rest, text)


def _parse_unix(scheme: str, path: str, text: str) -> Address:
    is_named = path.startswith("@") and len(path) > 1
    if not is_named and (not path.startswith("/") or path.endswith("/")):
        raise ValueError(
            f"a unix bind has an absolute path or a name, {scheme}:///run/name.sock or {scheme}://@name,"
            f" not {text!r}"
        )
    if len(path.encode()) > MAX_UNIX_PATH_BYTES:
        raise ValueError(f"the path of a unix socket has at most {MAX_UNIX_PATH_BYTES} bytes")
    return Address(scheme, path=path)


def _parse_inherited(which: str, text: str) -> Address:
    if not which or "/" in which:
        raise ValueError(f"an inherited socket is written fd://3 or fd://NAME (of LISTEN_FDNAMES), not {text!r}")
    return Address("fd", path=which)


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
    if ":" not in host and not re.fullmatch(rf"{LABEL}(\.{LABEL})*\.?", host):
        raise ValueError(f"{text!r} has no valid host: its parts have 1 to 63 letters, digits, - or _")
    if ":" in host:
        try:
            ipaddress.IPv6Address(host)
            if "%" in host and not re.fullmatch(ZONE, host.partition("%")[2]):
                raise ValueError("its zone is no name of an interface")
        except ValueError as error:
            raise ValueError(f"{text!r} has no valid IPv6 address: {error}") from error
    return Address(scheme, host=host, port=port)
