"""The configuration as frozen dataclasses: the one source of keys, defaults, checks and schema.

Each field carries in its metadata what a checker and a reader need: the kind of value, its bounds and one
line of meaning. Durations are kept in seconds (float), sizes in bytes (int), percentages as fractions.

Knows: what can be configured. Does not know: YAML, files, environment, sockets.
"""

# ruff: noqa: RUF009 - setting() and its siblings only call dataclasses.field(), once per class
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from enum import Enum
from typing import Any

MAX_WORKERS = 512
MAX_INTEGER = 2**31 - 1  # a C int, which is what the kernel takes
MAX_DURATION = 366 * 86_400.0
MAX_SIZE_BYTES = 1 << 50
MAX_KEEPALIVE = 32_767.0  # MAX_TCP_KEEPIDLE of the kernel's include/net/tcp.h
MAX_USER_TIMEOUT = 2_147_483.0  # tcp(7): milliseconds in a C int
FRAMINGS = ("raw", "lines")
FRAMINGS_LATER = ("length", "netstring", "varint", "json-lines")


class Kind(Enum):
    """How a value is written in the file; `model` is the Python value that it becomes."""

    INTEGER = "integer"
    BOOLEAN = "boolean"
    STRING = "string"
    DURATION = "duration"  # 30s -> 30.0
    SIZE = "size"  # 64KiB -> 65536
    PERCENT = "percent"  # 10% -> 0.1
    WORKERS = "workers"  # a number or auto -> int | None
    BIND = "bind"  # tcp://host:port -> str, checked by prefork.address
    APP = "app"  # module:attribute -> str
    FRAMING = "framing"  # raw | {lines: {max: 64KiB}} -> Framing
    STRINGS = "strings"  # a list of strings -> tuple[str, ...]
    NETWORKS = "networks"  # a list of CIDR networks -> tuple[str, ...]
    STRING_MAP = "string map"  # a mapping of strings -> tuple[tuple[str, str], ...]


def setting(default: Any, kind: Kind, meaning: str, **bounds: Any) -> Any:
    """Declare a key of the file.

    Args:
        default: the model's value when the key is absent; None means the key may be null.
        bounds: `minimum`, `maximum` (of the model's value), `choices` (tuple of str), `pattern` with `form`
            (a regular expression of a string, and how to write one), `secret` (True: never shown),
            `later` (True: the key is reserved, and any value but the default is refused).
    """
    return field(default=default, metadata={"kind": kind, "meaning": meaning, **bounds})


def required(kind: Kind, meaning: str) -> Any:
    """Declare a key that has no default."""
    return field(metadata={"kind": kind, "meaning": meaning})


def section(factory: Any, meaning: str) -> Any:
    """Declare a mapping of keys that is there with its defaults when the file is silent."""
    return field(default_factory=factory, metadata={"section": factory, "meaning": meaning})


def optional_section(factory: Any, meaning: str, **bounds: Any) -> Any:
    """Declare a mapping of keys that is None when the file is silent; `bounds` may hold `later`."""
    return field(default=None, metadata={"section": factory, "meaning": meaning, **bounds})


def sections(item: Any, meaning: str) -> Any:
    """Declare a list of mappings."""
    return field(default=(), metadata={"items": item, "meaning": meaning})


_MAXIMA: dict[Kind | None, float] = {
    Kind.INTEGER: MAX_INTEGER,
    Kind.DURATION: MAX_DURATION,
    Kind.SIZE: MAX_SIZE_BYTES,
}


@dataclass(frozen=True, slots=True)
class Key:
    """A key of the file as its dataclass declares it; exactly one of `kind`, `section`, `items` is set."""

    name: str  # in the file
    attribute: str  # in the dataclass
    meaning: str
    default: Any
    is_required: bool
    kind: Kind | None
    section: Any
    items: Any
    bounds: Mapping[str, Any]

    @property
    def is_nullable(self) -> bool:
        """Whether null is a value; of `workers` it is not, its None is written `auto`."""
        return not self.is_required and self.default is None and self.kind is not Kind.WORKERS

    @property
    def is_later(self) -> bool:
        return bool(self.bounds.get("later"))

    @property
    def minimum(self) -> Any:
        return self.bounds.get("minimum")

    @property
    def maximum(self) -> Any:
        return self.bounds.get("maximum", _MAXIMA.get(self.kind))


def keys_of(section: Any) -> tuple[Key, ...]:
    """List the keys of a dataclass of this module, in their order in the file."""
    keys = []
    for declared in fields(section):
        bounds = dict(declared.metadata)
        factory = declared.default_factory
        default = declared.default if factory is MISSING else factory()
        keys.append(
            Key(
                name=declared.name.rstrip("_"),
                attribute=declared.name,
                meaning=bounds.pop("meaning"),
                default=default,
                is_required=default is MISSING,
                kind=bounds.pop("kind", None),
                section=bounds.pop("section", None),
                items=bounds.pop("items", None),
                bounds=bounds,
            )
        )
    return tuple(keys)


@dataclass(frozen=True, slots=True)
class Framing:
    """How a stream is cut into frames; `max_bytes` None means the listener's `limits.frame`."""

    name: str = "raw"
    max_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class FramingOptions:
    max: int | None = setting(None, Kind.SIZE, "largest frame; default: the listener's limits.frame", minimum=1)


@dataclass(frozen=True, slots=True)
class Tls:
    cert: str | None = setting(None, Kind.STRING, "certificate chain, PEM", later=True)
    key: str | None = setting(None, Kind.STRING, "private key, PEM", later=True)
    client_ca: str | None = setting(
        None, Kind.STRING, "authorities that client certificates must come from", later=True
    )
    alpn: tuple[str, ...] = setting((), Kind.STRINGS, "protocols offered by ALPN, best first", later=True)
    sni: tuple[tuple[str, str], ...] = setting((), Kind.STRING_MAP, "server name to certificate", later=True)
    keylog: str | None = setting(None, Kind.STRING, "file of session keys for Wireshark", later=True)


@dataclass(frozen=True, slots=True)
class Limits:
    connections: int = setting(
        10_000,
        Kind.INTEGER,
        "open connections of this listener per worker; more wait in the kernel",
        minimum=1,
    )
    per_ip: int = setting(0, Kind.INTEGER, "open connections per source; 0 = no limit", minimum=0, later=True)
    rate: int = setting(0, Kind.INTEGER, "new connections per second; 0 = no limit", minimum=0, later=True)
    handshake: float = setting(10.0, Kind.DURATION, "time for the TLS and PROXY handshake", minimum=0, later=True)
    idle: float = setting(
        300.0, Kind.DURATION, "a connection without a byte for this long is closed; 0 = never", minimum=0
    )
    message: float = setting(
        60.0, Kind.DURATION, "time from the first byte of a frame to its last; 0 = no limit", minimum=0
    )
    min_rate: int = setting(
        0, Kind.INTEGER, "bytes per second that a peer must send or read; 0 = no limit", minimum=0, later=True
    )
    frame: int = setting(65_536, Kind.SIZE, "largest frame", minimum=1)
    buffer: int = setting(
        1_048_576,
        Kind.SIZE,
        "most bytes that wait for a slow reader; beyond, the connection is cut",
        minimum=65_536,
    )


@dataclass(frozen=True, slots=True)
class ProxyProtocol:
    from_: tuple[str, ...] = setting(
        (), Kind.NETWORKS, "networks whose PROXY headers are required and trusted", later=True
    )


@dataclass(frozen=True, slots=True)
class Socket:
    backlog: int = setting(4096, Kind.INTEGER, "accept queue of each worker's socket", minimum=1, maximum=65_535)
    nodelay: bool = setting(True, Kind.BOOLEAN, "TCP_NODELAY")
    keepalive: float = setting(
        60.0,
        Kind.DURATION,
        "idle time before TCP keepalive probes; 0 = none",
        minimum=0,
        maximum=MAX_KEEPALIVE,
    )
    user_timeout: float = setting(
        0.0, Kind.DURATION, "TCP_USER_TIMEOUT; 0 = the kernel's", minimum=0, maximum=MAX_USER_TIMEOUT
    )


@dataclass(frozen=True, slots=True)
class ListenerConfig:
    bind: str = required(Kind.BIND, "tcp://host:port or unix:///path; port 0 = any free port")
    app: str = required(Kind.APP, "what serves it, module:attribute")
    name: str = setting(
        "",
        Kind.STRING,
        "name in logs and status; default: derived from bind",
        pattern=r"^[A-Za-z0-9._:@-]{1,100}$",
        form="letters, digits and . _ : @ -, at most 100",
    )
    framing: Framing = setting(Framing(), Kind.FRAMING, "raw, lines, or {lines: {max: 64KiB}}")
    tls: Tls | None = optional_section(Tls, "TLS for tcp://; required by tls://", later=True)
    limits: Limits = section(Limits, "what a stranger may use up")
    allow: tuple[str, ...] = setting((), Kind.NETWORKS, "networks that may connect; empty = all", later=True)
    deny: tuple[str, ...] = setting((), Kind.NETWORKS, "networks that may not connect", later=True)
    proxy_protocol: ProxyProtocol = section(ProxyProtocol, "load balancers that tell the real client's address")
    socket: Socket = section(Socket, "options of the listening socket, inherited by its connections")


@dataclass(frozen=True, slots=True)
class Timeouts:
    boot: float = setting(30.0, Kind.DURATION, "import of the app, and start of a worker", minimum=0.1)
    beat: float = setting(
        30.0, Kind.DURATION, "a worker whose loop stands still for this long is killed", minimum=0.1
    )
    drain: float = setting(30.0, Kind.DURATION, "time for open exchanges to finish on stop and reload", minimum=0)
    delay: float = setting(
        0.0, Kind.DURATION, "on stop: still accept for this long while health says not ready", minimum=0
    )


@dataclass(frozen=True, slots=True)
class ReloadConfig:
    surge: int = setting(1, Kind.INTEGER, "new workers started at a time", minimum=1)
    soak: float = setting(
        0.0, Kind.DURATION, "all new workers must live this long before the old ones go", minimum=0
    )


@dataclass(frozen=True, slots=True)
class Recycle:
    connections: int = setting(
        0, Kind.INTEGER, "replace a worker after this many connections; 0 = never", minimum=0
    )
    age: float = setting(0.0, Kind.DURATION, "replace a worker of this age; 0 = never", minimum=0)
    rss: int = setting(0, Kind.SIZE, "replace a worker of this resident size; 0 = never", minimum=0)
    jitter: float = setting(0.1, Kind.PERCENT, "spread of the three limits", minimum=0, maximum=1)


@dataclass(frozen=True, slots=True)
class LogConfig:
    level: str = setting(
        "info",
        Kind.STRING,
        "least severe record that is written",
        choices=("debug", "info", "warning", "error"),
    )
    format: str = setting(
        "auto",
        Kind.STRING,
        "auto = text on a terminal, JSON lines otherwise",
        choices=("auto", "text", "json"),
    )
    file: str | None = setting(
        None, Kind.STRING, "file that is appended to, reopened by USR1; null = standard error"
    )


@dataclass(frozen=True, slots=True)
class Admin:
    bind: str | None = setting(None, Kind.BIND, "address of health, metrics and dashboard over HTTP", later=True)
    dashboard: bool = setting(True, Kind.BOOLEAN, "serve the dashboard", later=True)
    token: str | None = setting(None, Kind.STRING, "secret that changes over HTTP need", secret=True, later=True)


@dataclass(frozen=True, slots=True)
class Config:
    workers: int | None = setting(
        None,
        Kind.WORKERS,
        "number of workers, or auto = min(CPU affinity, cgroup quota)",
        minimum=1,
        maximum=MAX_WORKERS,
    )
    preload: bool = setting(
        True, Kind.BOOLEAN, "import the app once per generation, before the workers are forked"
    )
    user: str | None = setting(
        None,
        Kind.STRING,
        "user[:group] to become after binding",
        pattern=r"^[^:\s]+(:[^:\s]+)?$",
        form="user or user:group",
    )
    pidfile: str | None = setting(None, Kind.STRING, "file that holds the master's pid, locked while it lives")
    control: str | None = setting(
        None, Kind.STRING, "path of the control socket; default: NAME.sock in the run directory"
    )
    listeners: tuple[ListenerConfig, ...] = sections(ListenerConfig, "what is served; at least one")
    timeouts: Timeouts = section(Timeouts, "deadlines of a process's life")
    reload: ReloadConfig = section(ReloadConfig, "how SIGHUP replaces the workers")
    recycle: Recycle = section(Recycle, "when a worker is replaced for its age")
    log: LogConfig = section(LogConfig, "what is logged, and where")
    admin: Admin = section(Admin, "the admin process")
    lifespan: str | None = setting(
        None, Kind.APP, "async context manager entered in each worker, module:attribute"
    )
