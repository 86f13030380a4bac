"""Targets that read what an operator has written: config, flags, addresses, units, networks, commands.

Knows: how these are written, and what must hold of what was taken. Does not know: what a server does with them.
"""

from __future__ import annotations

import contextlib
import io
import ipaddress
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prefork import cli
from prefork.address import SCHEMES, parse_address
from prefork.config import read_config, reference_yaml
from prefork.config import units as written
from prefork.errors import ConfigError
from prefork.firewall import build_firewall, pack_host
from tools.fuzzing.mutation import Mutator
from tools.fuzzing.target import Broken, Target

MAX_CONFIG_BYTES = 8192  # PyYAML reads some 100 KB in a second
# PyYAML looks 1,024 characters ahead for the colon of a key, once for each bracket that may begin one: a line of
# brackets costs 170 ms, however long it is. An operator's file is read once, so that this is no harm.
LOOK_AHEAD_SECONDS = 1.0
SMALLEST = b"listeners:\n  - {bind: 'tcp://127.0.0.1:0', app: 'prefork.apps.echo:echo'}\n"
CONFIGS = (
    SMALLEST,
    SMALLEST + b"workers: 4\ntimeouts: {drain: 5s, kill: 500ms}\nlimits: {frame: 64KiB}\n",
    SMALLEST + b"user: ${USER:-nobody}\nlog: {format: json, level: debug, file: '${VAR}'}\n",
    b"a: &a {workers: 1}\n<<: *a\nlisteners: [*a, *a]\n",
    b"a: &a [x]\nb: &b [*a, *a]\nc: &c [*b, *b, *b]\n",
    b"listeners:\n  - bind: tls://[::1]:9000\n    app: a:b\n    tls: {certificate: /c, key: /k, alpn: [h2]}\n"
    b"    limits: {per_ip: {value: 256, dry_run: true}, connections: 10}\n    allow: [10.0.0.0/8, 'file:x']\n",
    b"workers: !!python/object/apply:os.system ['x']\n",
    b"? [a, b]\n: c\n? {d: e}\n: f\n",
    b"[" * 40,
    b"{a: " * 40,
    b"- " * 40 + b"x\n",
    b"a: 22:22\nb: 0600\nc: on\nd: 1e400\ne: .inf\nf: 0b_\ng: 2026-13-45\nh: 1_000\ni: 190:20:30.15\n",
    b"a: |2-\n   x\n  y\nb: >+\n z\n\n",
    b"%YAML 1.1\n---\na: 1\n...\n---\nb: 2\n",
    b'a: "\\0\\x85\\u2028\\uD800\\U0001F600"\n',
)
CONFIG_WORDS = (
    *(
        b": ",
        b"- ",
        b"&a ",
        b"*a",
        b"<<: ",
        b"!!",
        b"!x ",
        b"|\n",
        b"? ",
        b"# ",
        b"{",
        b"}",
        b"[",
        b"]",
        b"${",
        b"}",
    ),
    *(
        b"${VAR:-",
        b"${${VAR}}",
        b"$$",
        b"---\n",
        b"...\n",
        b"%TAG ! x\n",
        b"null",
        b"true",
        b"~",
        b"\t",
        b'"',
        b"'",
    ),
    *(b"listeners:", b"workers: ", b"limits: ", b"dry_run: true", b"{value: 1, dry_run: true}", b"64KiB", b"10%"),
)
ENVIRONMENT = {"VAR": "a: [\n", "USER": "nobody", "EMPTY": "", "HALF": "\udcff"}
FLAGS = (
    *(
        b"workers=8",
        b"timeouts.drain=5s",
        b"listeners.0.app=a:b",
        b"listeners.echo.limits.frame=1KiB",
        b"log.level=",
    ),
    *(
        b"listeners=[{bind: x}]",
        b"limits={frame: 1}",
        b"a.b.c.d=1",
        b"=",
        b".=1",
        b"workers={",
        b"listeners.99.x=1",
    ),
    *(b"workers=${VAR}", b"listeners.-1.app=x", b'control=""', b"PREFORK_WORKERS=2", b"PREFORK_LOG__LEVEL=info"),
    *(b"PREFORK_LISTENERS__0__BIND=x", b"PREFORK_=1", b"PREFORK___=[", b"PREFORK_TIMEOUTS={drain: 1s}"),
)
ADDRESSES = (
    *(
        b"tcp://127.0.0.1:9000",
        b"tls://[::1]:9000",
        b"udp://localhost:0",
        b"unix:///run/echo.sock",
        b"unix://@name",
    ),
    *(
        b"unixgram:///run/a.sock",
        b"fd://3",
        b"fd://name",
        b"tcp://[fe80::1%eth0]:1",
        b"tcp://user:pass@host:1/a?b#c",
    ),
    *(b"tcp://[v1.x]:1", b"tcp://[::ffff:1.2.3.4]:65535", b"tcp://\xef\xbc\xa1:1", b"tcp://h:\xd9\xa1"),
)
DURATIONS = (b"500ms", b"30s", b"5m", b"2h", b"1d", b"0", b"1.5s", b"999999999999d", b"0.000000001s", b"7")
SIZES = (b"64KiB", b"1MiB", b"1GiB", b"10MB", b"0", b"999999999999999999TiB", b"12B", b"1KB")
PERCENTS = (b"10%", b"0%", b"0.5%", b"100%", b"999999.999999999%")
# Three years, beyond which a nanosecond is less than a float's bit; and the most that a key may be, 1024 TiB.
MOST: dict[type, float] = {float: 1e8, int: 1 << 50}
NETWORKS = (
    b"10.0.0.0/8\n192.0.2.1 # one\n\n# none\nfd00::/8\n::ffff:192.0.2.0/120\n",
    b"\xef\xbb\xbf0.0.0.0/0\r\n::/0\r\n",
    b"10.0.0.0/8\n10.1.0.0/16\n10.1.2.0/24\n10.1.2.3/32\n10.1.2.3\n",
    b"2001:db8::/32\n2001:db8:1::/48\n2001:db8:1:2::/64\n::1\nfe80::1%eth0\n1.2.3\n010.0.0.1\n1.2.3.4/33\n",
)
HOSTS = tuple(
    packed
    for host in ("10.1.2.3", "192.0.2.1", "0.0.0.0", "::1", "2001:db8:1:2::3")
    if (packed := pack_host(host))
)
COMMANDS = (
    *(
        b"check BROKEN",
        b"run BROKEN --set workers=8",
        b"doctor --json BROKEN",
        b"schema",
        b"reload",
        b"stop --now",
    ),
    *(b"status --json", b"scale +2", b"scale --config BROKEN 3", b"health BROKEN", b"ban 10.0.0.0/8 --for 10m"),
    *(b"unban ::/0", b"bans --json", b"--help", b"check", b"-- health", b"check MISSING --set a=b --set c", b""),
)
COMMAND_WORDS = (
    *COMMANDS,
    b" ",
    b"--control ",
    b"--control=",
    b"--config ",
    b"--set=",
    b"-",
    b"BROKEN",
    b"@BROKEN",
)
TO_A_SERVER = ("reload", "stop", "status", "scale", "health", "ban", "unban", "bans")


def build_text_targets(folder: Path) -> Iterator[Target]:
    """Return the targets; their files are in a folder of their own."""
    file = folder / "fuzzed.yaml"
    seeds = (*CONFIGS, reference_yaml().encode()[:MAX_CONFIG_BYTES])
    yield Target(
        "config",
        "YAML files, read_config()",
        Mutator(seeds, CONFIG_WORDS, MAX_CONFIG_BYTES).make,
        lambda data: read_file(file, data),
        (ConfigError,),
        LOOK_AHEAD_SECONDS,
    )
    base = folder / "base.yaml"
    base.write_bytes(SMALLEST)
    yield Target(
        "flags",
        "--set and PREFORK_… over a good file, read_config()",
        Mutator(
            tuple(b"\0".join(FLAGS[i : i + 2]) for i in range(len(FLAGS))), (b"\0", b"=", b".", *FLAGS), 2048
        ).make,
        lambda data: read_flags(base, data),
        (ConfigError,),
        LOOK_AHEAD_SECONDS,
    )
    schemes = tuple(f"{scheme}://".encode() for scheme in SCHEMES)
    words = (*schemes, b"[", b"]", b"@", b":", b"/", b"%", b"::", b"?", b"#")
    make = Mutator(ADDRESSES, words, 4096).make
    yield Target("address", "binds, parse_address()", make, read_address, (ValueError,))
    yield from _units()
    networks = folder / "networks"
    make = Mutator(NETWORKS, (b"/", b"/0", b"/32", b"/128", b"::", b"#", b"file:", b"0.0.0.0/0", b"%eth0")).make
    call = lambda data: read_networks(networks, data)  # noqa: E731
    yield Target(
        "firewall", "lists of networks in files and in the config, build_firewall()", make, call, (ConfigError,)
    )
    (folder / "run").mkdir(mode=0o700)
    (folder / "broken.yaml").write_text("workers: [\n")
    make = Mutator(COMMANDS, COMMAND_WORDS, 1024).make
    yield Target(
        "arguments", "python -m prefork …, without a server", make, lambda data: run_command(folder, data)
    )


def _units() -> Iterator[Target]:
    units: tuple[tuple[str, tuple[bytes, ...], Callable[[str], Any], Callable[[Any], str]], ...] = (
        ("duration", DURATIONS, written.parse_duration, written.format_duration),
        ("size", SIZES, written.parse_size, written.format_size),
        ("percent", PERCENTS, written.parse_percent, written.format_percent),
    )
    for name, seeds, parse, form in units:
        make = Mutator(seeds, (b"ms", b"s", b"KiB", b"TB", b"%", b".", b"-", b"e"), 4096).make
        yield Target(name, f"units, parse_{name}()", make, measured_by(parse, form), (ValueError,))


def read_file(file: Path, data: bytes) -> None:
    """Read a config; what is wrong with it is told in lines that cannot be mistaken for others."""
    file.write_bytes(data)
    try:
        read_config(str(file), ENVIRONMENT)
    except ConfigError as error:
        check_problems(error)
        raise


def read_flags(file: Path, data: bytes) -> None:
    """Read a good config under flags and an environment."""
    parts = data.decode("utf-8", "surrogateescape").split("\0")
    environ = dict(part.split("=", 1) for part in parts if part.startswith("PREFORK_") and "=" in part)
    try:
        read_config(str(file), ENVIRONMENT | environ, [part for part in parts if not part.startswith("PREFORK_")])
    except ConfigError as error:
        check_problems(error)
        raise


def check_problems(error: ConfigError) -> None:
    """Hold that there is something to tell, and nothing in it that a terminal would obey."""
    if not error.problems:
        raise Broken("a config is refused without a word")
    for problem in error.problems:
        if not problem.replace("\n", "").isprintable():
            raise Broken("a problem that is told holds a control character or half a surrogate pair")


def read_address(data: bytes) -> None:
    """Read a bind; what was taken is the same when it is written and read again."""
    address = parse_address(data.decode("utf-8", "surrogateescape"))
    if parse_address(str(address)) != address:
        raise Broken("an address is another one when it is written and read again")
    if not 0 <= address.port <= 65_535:
        raise Broken("a port is out of bounds")
    try:
        address.host.encode("idna")  # as getaddrinfo does in Python, where an OSError alone is expected
    except UnicodeError:
        raise Broken("a host is taken that no name can be looked up of") from None


def measured_by(parse: Callable[[str], Any], form: Callable[[Any], str]) -> Callable[[bytes], None]:
    """Return what reads a unit, and holds that what is written is read as the same."""

    def call(data: bytes) -> None:
        value = parse(data.decode("utf-8", "surrogateescape"))
        if value < 0:
            raise Broken("it is less than nothing")
        if value > MOST[type(value)]:
            return
        try:
            again = parse(form(value))
        except ValueError as error:
            raise Broken("what is written cannot be read") from error
        if abs(again - value) > 1e-9:
            raise Broken("what is written is read as another value")

    return call


def read_networks(file: Path, data: bytes) -> None:
    """Read lists, half from a file; what `ipaddress` makes of them is the second opinion on who is admitted."""
    half = len(data) // 2
    file.write_bytes(data[:half])
    deny = [line.strip() for line in data[half:].decode("utf-8", "surrogateescape").split("\n")[:50]]
    deny = [line for line in deny if line and not line.startswith("file:")]
    try:
        firewall = build_firewall([f"file:{file}"], deny)
    except ConfigError as error:
        check_problems(error)
        raise
    lines = [line.partition("#")[0].strip() for line in data[:half].decode("utf-8-sig", "replace").split("\n")]
    if len(lines) > 50:
        return
    networks = [(_network(line), True) for line in lines if line] + [(_network(line), False) for line in deny]
    for host in HOSTS:
        if firewall.admits(host) != _is_admitted(host, networks):
            raise Broken(f"{host.hex()} is admitted or not against the lists")


def _network(text: str) -> tuple[int, int]:
    network = ipaddress.ip_network(text)
    lead, mapped = (96, 0xFFFF << 32) if network.version == 4 else (0, 0)
    return int(network.network_address) | mapped, network.prefixlen + lead


def _is_admitted(host: bytes, networks: list[tuple[tuple[int, int], bool]]) -> bool:
    is_v4 = len(host) == 4
    address = int.from_bytes(host) | (0xFFFF << 32 if is_v4 else 0)
    found = [
        (bits, not is_allowed)
        for (first, bits), is_allowed in networks
        if address >> 128 - bits == first >> 128 - bits and (bits >= 96) >= is_v4
    ]
    return not max(found)[1] if found else False


def run_command(folder: Path, data: bytes) -> None:
    """Run a command line as `python -m prefork` does, where no server is; exit code 1 says that it has a bug."""
    text = data.replace(b"\0", b"").decode("utf-8", "surrogateescape")
    given = [word.replace("BROKEN", str(folder / "broken.yaml")) for word in text.split(" ")]
    nowhere = f"--control={folder / 'none.sock'}"
    arguments = [word for one in given for word in ((one, nowhere) if one in TO_A_SERVER else (one,))]
    out, err = (
        io.TextIOWrapper(io.BytesIO(), "utf-8", errors=errors) for errors in ("strict", "backslashreplace")
    )
    with _alone(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main(arguments)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
    if code not in (0, 2, 3, 4):
        raise Broken(f"the exit code is {code}")


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hide all servers of this machine, and keep what a command changes of the process."""
    before, handler = dict(os.environ), signal.getsignal(signal.SIGINT)
    for name in [name for name in os.environ if name.startswith(("PREFORK_", "LISTEN_"))]:
        del os.environ[name]
    os.environ |= {"XDG_RUNTIME_DIR": str(folder / "run"), "COLUMNS": "80"}
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        signal.signal(signal.SIGINT, handler)
