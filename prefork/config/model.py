"""The configuration as frozen dataclasses: the one source of keys, defaults, checks and schema.

Durations are kept in seconds (float), sizes in bytes (int), percentages as fractions.

Knows: what can be configured. Does not know: YAML, files, environment, sockets.
"""

# ruff: noqa: RUF009 - setting() and its siblings only call dataclasses.field(), once per class
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prefork.config.key import MAX_INTEGER, Kind, optional_section, required, section, sections, setting
from prefork.config.limits import Limits

MAX_WORKERS = 512
MAX_KEEPALIVE = 32_767.0  # MAX_TCP_KEEPIDLE of the kernel's include/net/tcp.h
MAX_USER_TIMEOUT = 2_147_483.0  # tcp(7): milliseconds in a C int
LARGEST = "largest frame; default: the listener's limits.frame"
OVER = "a larger frame: close the connection, skip the frame, or skip it and answer with an error"
POLICIES = ("close", "skip", "error")


@dataclass(frozen=True, slots=True)
class LineOptions:
    max: int | None = setting(None, Kind.SIZE, LARGEST, minimum=1)
    over: str = setting("close", Kind.STRING, OVER, choices=POLICIES)
    delimiter: str = setting("\n", Kind.DELIMITER, "what ends a line")
    strip: bool = setting(False, Kind.BOOLEAN, "remove white space at both ends, such as the CR of CRLF")


@dataclass(frozen=True, slots=True)
class LengthOptions:
    max: int | None = setting(None, Kind.SIZE, LARGEST, minimum=1)
    over: str = setting("close", Kind.STRING, OVER, choices=POLICIES)
    bytes: int = setting(4, Kind.INTEGER, "size of the length in bytes", choices=(1, 2, 4, 8))
    endian: str = setting("big", Kind.STRING, "order of its bytes", choices=("big", "little"))
    counts_itself: bool = setting(False, Kind.BOOLEAN, "the length includes its own bytes")


@dataclass(frozen=True, slots=True)
class VarintOptions:
    max: int | None = setting(None, Kind.SIZE, LARGEST, minimum=1)
    over: str = setting("close", Kind.STRING, OVER, choices=POLICIES)


@dataclass(frozen=True, slots=True)
class NetstringOptions:
    max: int | None = setting(None, Kind.SIZE, LARGEST, minimum=1)
    over: str = setting("close", Kind.STRING, OVER, choices=POLICIES)


@dataclass(frozen=True, slots=True)
class FixedOptions:
    size: int = required(Kind.SIZE, "of each frame, such as 64", minimum=1)


@dataclass(frozen=True, slots=True)
class JsonLineOptions:
    max: int | None = setting(None, Kind.SIZE, LARGEST, minimum=1)
    over: str = setting("close", Kind.STRING, OVER, choices=POLICIES)
    check: str | None = setting(
        None, Kind.APP, "dataclass, msgspec.Struct, pydantic model or function that checks each message"
    )


FRAMINGS: dict[str, Any] = {
    "raw": None,
    "lines": LineOptions,
    "length": LengthOptions,
    "varint": VarintOptions,
    "netstring": NetstringOptions,
    "fixed": FixedOptions,
    "json-lines": JsonLineOptions,
}


@dataclass(frozen=True, slots=True)
class Framing:
    """How a stream is cut into frames; `options` is of the framing's class in FRAMINGS, None for raw."""

    name: str = "raw"
    options: Any = None


@dataclass(frozen=True, slots=True)
class Steer:
    """What keeps a datagram's sender at its worker: its address, or bytes `start` to `end` of the payload."""

    start: int = 0
    end: int = 0

    @property
    def is_by_source(self) -> bool:
        return not self.end


@dataclass(frozen=True, slots=True)
class NamedCertificate:
    """The certificate for a server name; `key` None: the key is in the same file."""

    name: str
    cert: str
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Tls:
    cert: str | None = setting(None, Kind.STRING, "certificate chain, PEM; its own certificate first")
    key: str | None = setting(None, Kind.STRING, "private key, PEM; null = in the file of cert")
    client_ca: str | None = setting(None, Kind.STRING, "authorities that client certificates must come from, PEM")
    client_auth: str = setting(
        "required",
        Kind.STRING,
        "with client_ca: whether a client without a certificate is refused",
        choices=("required", "optional"),
    )
    alpn: tuple[str, ...] = setting(
        (),
        Kind.STRINGS,
        "protocols offered by ALPN, best first",
        pattern=r"^[\x21-\x7e]{1,255}$",
        form="1 to 255 ASCII characters",
    )
    sni: tuple[NamedCertificate, ...] = setting(
        (), Kind.CERTIFICATES, "certificates of further server names, {name: {cert: …, key: …}}"
    )
    starttls: bool = setting(False, Kind.BOOLEAN, "begin plain; the app calls conn.start_tls()")
    keylog: str | None = setting(None, Kind.STRING, "file of session keys for Wireshark; never in production")


@dataclass(frozen=True, slots=True)
class ProxyProtocol:
    from_: tuple[str, ...] = setting(
        (), Kind.NETWORKS, "networks whose PROXY headers are required and trusted; others' are refused"
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
    receive_buffer: int = setting(
        0, Kind.SIZE, "SO_RCVBUF, up to net.core.rmem_max; 0 = the kernel's", minimum=0, maximum=MAX_INTEGER
    )
    multicast: tuple[str, ...] = setting((), Kind.STRINGS, "groups that a udp:// listener joins")
    mode: int | None = setting(None, Kind.MODE, 'permissions of a unix socket, "0660"; null = the umask\'s')
    owner: str | None = setting(
        None,
        Kind.STRING,
        "user[:group] that owns a unix socket",
        pattern=r"^[^:\s]+(:[^:\s]+)?$",
        form="user or user:group",
    )


@dataclass(frozen=True, slots=True)
class ListenerConfig:
    bind: str = required(
        Kind.BIND, "tcp://, tls:// or udp://host:port, unix:// or unixgram:///path or @name, fd://N; port 0 = any"
    )
    app: str = required(Kind.APP, "what serves it, module:attribute")
    name: str = setting(
        "",
        Kind.STRING,
        "name in logs and status; default: derived from bind",
        pattern=r"^[A-Za-z0-9._:@-]{1,100}$",
        form="letters, digits and . _ : @ -, at most 100",
    )
    framing: Framing = setting(
        Framing(), Kind.FRAMING, "raw, lines, length, varint, netstring, fixed, json-lines; {lines: {max: 64KiB}}"
    )
    tls: Tls | None = optional_section(
        Tls, "certificates; tls:// needs them, tcp:// and unix:// speak TLS with them"
    )
    limits: Limits = section(Limits, "what a stranger may use up")
    allow: tuple[str, ...] = setting(
        (), Kind.NETWORKS, "networks that may connect, or file:PATH with one a line; empty = all", files=True
    )
    deny: tuple[str, ...] = setting(
        (), Kind.NETWORKS, "networks that may not; of both lists the longest prefix wins", files=True
    )
    proxy_protocol: ProxyProtocol = section(ProxyProtocol, "load balancers that tell the real client's address")
    steer: Steer = setting(
        Steer(), Kind.STEER, 'what keeps a udp:// peer at its worker: source, or {payload: "0:4"}'
    )
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
    access: float = setting(
        0.0,
        Kind.PERCENT,
        "share of the connections that are told at their end, 100% = each",
        minimum=0,
        maximum=1,
    )
    file: str | None = setting(
        None, Kind.STRING, "file that is appended to, reopened by USR1; null = standard error"
    )
    slow_turn: float = setting(
        0.2, Kind.DURATION, "a turn of the loop that takes longer is logged with its stack; 0 = never", minimum=0
    )


@dataclass(frozen=True, slots=True)
class Admin:
    bind: str | None = setting(
        None, Kind.BIND, "address of health, metrics and dashboard over HTTP", schemes=("tcp", "unix")
    )
    dashboard: bool = setting(True, Kind.BOOLEAN, "serve the dashboard")
    token: str | None = setting(
        None, Kind.STRING, "secret that changes over HTTP need; null = there are none", secret=True
    )
    hosts: tuple[str, ...] = setting(
        (), Kind.STRINGS, "names of this server in requests, beside its addresses and its machine's name"
    )


@dataclass(frozen=True, slots=True)
class Config:
    workers: int | None = setting(
        None,
        Kind.AUTO,
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
    umask: int | None = setting(
        None, Kind.MODE, 'permissions that new files of the app never have, "0027"; null = as it was started'
    )
    chroot: str | None = setting(
        None,
        Kind.STRING,
        "folder that is / for the app before it is imported: its modules, /proc and /dev/null must be inside",
        pattern=r"^/[^\u0000-\u001f\u007f\ud800-\udfff]*$",
        form="an absolute path",
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
