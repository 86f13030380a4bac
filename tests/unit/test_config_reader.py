"""Config files as their users write them, with the environment and flags over them.

Knows: `prefork.config.read_config`. Does not know: the schema.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from prefork.config import Config, Framing, Loaded, read_config
from prefork.config.model import LineOptions
from prefork.errors import ConfigError
from tests.examples import EXAMPLES

ECHO = "listeners:\n  - name: echo\n    bind: tcp://127.0.0.1:9000\n    app: chat:echo\n"

Read = Callable[..., Loaded]
Refuse = Callable[..., list[str]]


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    """Read a text as the file `f.yaml` of the working directory."""
    monkeypatch.chdir(tmp_path)

    def read_text(text: str, environ: Mapping[str, str] | None = None, sets: Sequence[str] = ()) -> Loaded:
        (tmp_path / "f.yaml").write_text(text, "utf-8")
        return read_config("f.yaml", environ or {}, sets)

    return read_text


@pytest.fixture
def refuse(read: Read) -> Refuse:
    """Read a text that is refused, and return the first line of each problem."""

    def refuse_text(text: str, environ: Mapping[str, str] | None = None, sets: Sequence[str] = ()) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            read(text, environ, sets)
        return [problem.splitlines()[0] for problem in caught.value.problems]

    return refuse_text


def test_a_file_that_is_silent_has_the_defaults(read: Read) -> None:
    config = read("listeners: [{bind: 'tcp://[::1]:0', app: a.b:c.d}]").config
    assert config == Config(listeners=config.listeners)
    (listener,) = config.listeners
    assert (listener.bind, listener.app, listener.name) == ("tcp://[::1]:0", "a.b:c.d", "tcp-::1-0")
    assert (listener.framing, listener.limits.frame) == (Framing("raw", None), 65536)


def test_every_kind_of_value_is_read(read: Read) -> None:
    loaded = read(
        "workers: 4\npreload: no\nuser: www-data:www-data\npidfile: run/echo.pid\nlifespan: chat:pools\n"
        "log: {level: debug, format: json, file: 'on'}\nrecycle: {rss: 1GiB, age: 1d, jitter: 12.5%}\n"
        "timeouts: {drain: 500ms, beat: 5, boot: 1.5}\nlisteners:\n"
        "  - {bind: 'unix:///run/a b.sock', app: a:b, framing: {lines: {max: 1MiB}}, limits: {frame: 100}}\n"
        "  - {bind: 'tcp://localhost:80', app: a:b, framing: {lines: {}}, socket: {nodelay: off}}\n"
    )
    config = loaded.config
    assert loaded.path == "f.yaml"
    assert (config.workers, config.preload, config.user) == (4, False, "www-data:www-data")
    assert (config.pidfile, config.lifespan) == ("run/echo.pid", "chat:pools")
    assert (config.log.level, config.log.format, config.log.file) == ("debug", "json", "on")
    assert (config.recycle.rss, config.recycle.age, config.recycle.jitter) == (1 << 30, 86400.0, 0.125)
    assert (config.timeouts.drain, config.timeouts.beat, config.timeouts.boot) == (0.5, 5.0, 1.5)
    assert [listener.framing for listener in config.listeners] == [
        Framing("lines", LineOptions(1 << 20)),
        Framing("lines", LineOptions()),
    ]
    assert config.listeners[0].limits.frame == 100
    assert not config.listeners[1].socket.nodelay


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_file_in_conf_is_good(path: Path) -> None:
    assert read_config(str(path), {}).warnings == ()


def test_all_mistakes_are_reported_at_once_in_the_order_of_the_file(refuse: Refuse) -> None:
    text = "workers: many\nlimts: {}\n" + ECHO + "    app: x\n    limits: {idle: soon, idel: 5}\nlog: 3\n"
    assert refuse(text, {"PREFORK_PRELOAD": "2"}, ["timeouts.drain=x"]) == [
        "f.yaml:1:10: workers: 'many' is not a whole number; write one such as 8, or auto",
        "f.yaml:2:1: unknown key 'limts'; did you mean limits? It belongs in listeners",
        "f.yaml:7:5: duplicate key 'app', first in line 6; remove one of them",
        "f.yaml:8:20: listeners.0.limits.idle: 'soon' is not a duration; write 500ms, 30s, 5m, 2h or 1d",
        "f.yaml:8:26: listeners.0.limits: unknown key 'idel'; did you mean idle?",
        "f.yaml:9:6: log: it is a single value; write a mapping of keys",
        "environment PREFORK_PRELOAD:1:1: preload: '2' is neither true nor false; write one of these",
        "--set timeouts.drain=x: timeouts.drain: 'x' is not a duration; write 500ms, 30s, 5m, 2h or 1d",
    ]


def test_a_problem_shows_its_line(read: Read) -> None:
    with pytest.raises(ConfigError) as caught:
        read("workers: 0\n" + ECHO)
    assert (
        str(caught.value)
        == "f.yaml:1:10: workers: 0 is too small; at least 1, or auto\n    workers: 0\n             ^"
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("wrokers: 2", "unknown key 'wrokers'; did you mean workers?"),
        ("xyz: 2", "unknown key 'xyz'; known are workers, preload, user, umask, chroot, pidfile, control,"),
        ("idle: 5m", "unknown key 'idle'; did you mean idle? It belongs in listeners.limits"),
        ("workers:", "workers: it is null; give it a value, or remove the key"),
        ("workers: 513", "workers: 513 is too large; at most 512"),
        ("workers: -1", "workers: -1 is too small; at least 1"),
        ("workers: 1.5", "workers: '1.5' is not a whole number; write one such as 8, or auto"),
        ("workers: '2'", "workers: '2' is a string; write a whole number, without quotes, or auto"),
        ("workers: [2]", "workers: it is a list; write a single value"),
        (
            "workers: 0600",
            "workers: YAML reads 0600 as the number 384 (octal); write a whole number in decimal",
        ),
        ("workers: 0o600", "workers: YAML reads 0o600 as a string; write the number in decimal, 384"),
        ("workers: 1_0", "workers: YAML reads 1_0 as the number 10; write a whole number in decimal"),
        ("umask: 022", 'umask: YAML reads 022 as the number 18 (octal); write it in quotes, "022"'),
        ("umask: '028'", "umask: '028' is no mode; write it in quotes, \"0660\""),
        ("chroot: jail", "chroot: 'jail' cannot be used; write an absolute path"),
        ("workers: on", "workers: YAML reads on as true; write a whole number"),
        ("preload: 1", "preload: '1' is neither true nor false"),
        ("preload: 'true'", "preload: 'true' is a string; write true or false, without quotes"),
        ("preload: null", "preload: it is null"),
        ("user: on", 'user: YAML reads on as true; write it in quotes, "on"'),
        ("user: 22:22", 'user: YAML reads 22:22 as the number 1342 (base 60); write it in quotes, "22:22"'),
        ("user: 0600", 'user: YAML reads 0600 as the number 384 (octal); write it in quotes, "0600"'),
        ("user: 1000", 'user: YAML reads 1000 as a number; write it in quotes, "1000"'),
        ("user: 2026-01-02", 'user: YAML reads 2026-01-02 as a date; write it in quotes, "2026-01-02"'),
        ("user: 'a:b:c'", "user: 'a:b:c' cannot be used; write user or user:group"),
        ("pidfile: ''", "pidfile: it is empty; write null"),
        ('pidfile: "a\\0b"', "pidfile: 'a\\x00b' holds a control character; remove it"),
        ('pidfile: "\\ud800"', "pidfile: '\\ud800' holds a control character; remove it"),
        ("lifespan: chat", "lifespan: 'chat' does not name an object; write package.module:attribute"),
        ("lifespan: 'chat:'", "lifespan: 'chat:' does not name an object"),
        ("log: {level: INFOO}", "log.level: 'INFOO' is unknown; did you mean info?"),
        ("log: {level: loud}", "log.level: 'loud' is unknown; known are debug, info, warning, error"),
        (
            "timeouts: {drain: 1:30}",
            "timeouts.drain: YAML reads 1:30 as the number 90 (base 60); write a dur",
        ),
        ("timeouts: {drain: -1}", "timeouts.drain: -1 is too small; at least 0s"),
        ("timeouts: {boot: 50ms}", "timeouts.boot: 50ms is too small; at least 100ms"),
        ("timeouts: {drain: 999d}", "timeouts.drain: 999d is too large; at most 366d"),
        ("timeouts: {drain: on}", "timeouts.drain: YAML reads on as true; write a duration"),
        ("timeouts:", "timeouts: it is null; give it a value, or remove the key"),
        ("timeouts: []", "timeouts: it is a list; write a mapping of keys"),
        ("recycle: {rss: -5}", "recycle.rss: -5 is too small; at least 0"),
        ("recycle: {rss: 64kb}", "recycle.rss: '64kb' is not a size; write 64KiB"),
        (
            "recycle: {jitter: 10}",
            "recycle.jitter: '10' is not a percentage; write a number and a percent sign",
        ),
        ("recycle: {jitter: 101%}", "recycle.jitter: 101.00% is too large; at most 100.00%"),
        ("admin: {bind: 'udp://h:1'}", "admin.bind: 'udp://h:1' cannot be used; write tcp:// or unix://"),
        ("admin: {dashboard: yess}", "admin.dashboard: 'yess' is neither true nor false; write one of these"),
        ("? [a]\n: b", "a key is a word; write it plain"),
    ],
)
def test_a_bad_value_is_named_with_its_cure(refuse: Refuse, line: str, message: str) -> None:
    (problem,) = refuse(f"{ECHO}{line}\n")
    assert problem.startswith("f.yaml:5:")
    assert message in problem


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("bind: 22:22", "bind: YAML reads 22:22 as the number 1342 (base 60); write tcp://host:port, tls"),
        (
            "bind: 127.0.0.1:80",
            "bind: a bind is written tcp://host:port, tls://host:port, udp://host:port, unix:///path",
        ),
        ("bind: tls://h:1", "a tls:// listener needs a certificate; write tls: {cert: FILE, key: FILE}"),
        ("bind: tcp://h", "bind: 'tcp://h' has no port"),
        ("bind: tcp://h:99999", "bind: 'tcp://h:99999' has no valid host and port"),
        ('bind: "tcp://h:1\\n"', "bind: 'tcp://h:1\\n' is not a bind"),
        ("bind: tcp://a,b:1", "bind: 'tcp://a,b:1' has no valid host"),
        ("bind: unix://run/x", "bind: a unix bind has an absolute path"),
        ("bind:", "bind: it is null"),
        ("bind: []", "bind: it is a list"),
        ("app: a.b", "app: 'a.b' does not name an object; write package.module:attribute"),
        ("app: a-b:c", "app: 'a-b:c' does not name an object"),
        ("name: a b", "name: 'a b' cannot be used; write letters, digits"),
        ("name: ''", "name: '' cannot be used"),
        ("framing: line", "framing: unknown framing 'line'; did you mean lines?"),
        ("framing: netstrings", "framing: unknown framing 'netstrings'; did you mean netstring?"),
        ("framing: fixed", "framing: fixed needs size; write {fixed: {size: …}}"),
        ("framing: {length: {bytes: 3}}", "framing.length.bytes: 3 cannot be used; known are 1, 2, 4, 8"),
        ("framing: {lines: {over: drop}}", "framing.lines.over: 'drop' is unknown; known are close, skip, error"),
        ("framing: {lines: {delimiter: ''}}", "framing.lines.delimiter: '' cannot end a line"),
        ("steer: ip", "steer: it is neither source nor payload"),
        ("steer: {payload: '4:2'}", "steer: '4:2' are no bytes of a payload"),
        ("steer: {payload: '0:4'}", "only udp:// listeners are steered by their peers; remove steer"),
        (
            "socket: {mode: 0660}",
            'socket.mode: YAML reads 0660 as the number 432 (octal); write it in quotes, "0660"',
        ),
        ("socket: {mode: '0660'}", "socket: mode is for unix:// and unixgram:// listeners with a path"),
        ("socket: {multicast: [239.1.1.1]}", "socket: multicast is for udp:// listeners; remove it"),
        ("tls: {cert: a, client_auth: optional}", "tls: client_auth needs client_ca; write both or none"),
        ("framing: {lines: {max: 0}}", "framing.lines.max: 0 is too small; at least 1"),
        ("framing: {lines: {mix: 5}}", "framing.lines: unknown key 'mix'; did you mean max?"),
        ("framing: {lines: 64KiB}", "framing.lines: it is a single value; write a mapping of keys"),
        ("framing: {raw: {}}", "framing: raw has no options; write framing: raw"),
        ("framing: {}", "framing: it is not one framing; write raw, lines, or {lines: {max: 64KiB}}"),
        ("framing: [lines]", "framing: it is not one framing"),
        ("framing: null", "framing: it is null"),
        ("tls: {}", "tls: cert is missing; write tls: {cert: FILE, key: FILE}"),
        ("socket: {backlog: 0}", "socket.backlog: 0 is too small; at least 1"),
        ("socket: {keepalive: 10h}", "socket.keepalive: 10h is too large; at most 32767s"),
        ("proxy_protocol: {from_: []}", "proxy_protocol: unknown key 'from_'; did you mean from?"),
    ],
)
def test_a_bad_listener_is_named_with_its_cure(refuse: Refuse, line: str, message: str) -> None:
    rest = [key for key in ("bind: tcp://h:1", "app: a:b") if key.split(":")[0] != line.split(":")[0]]
    (problem,) = refuse("listeners:\n  - " + "\n    ".join([line, *rest]))
    assert problem.startswith("f.yaml:2:")
    assert f"listeners.0.{message}" in problem or f"listeners.0: {message}" in problem


def test_reserved_keys_may_hold_their_defaults(read: Read) -> None:
    keys = "    tls: null\n    allow: []\n    proxy_protocol: {from: []}\n    limits: {handshake: 10s}\n"
    assert read(ECHO + keys + "admin: {bind: null, dashboard: true, token: ~}\n").config == read(ECHO).config


@pytest.mark.parametrize("text", ["workers: 2", "listeners:", "listeners: []", "listeners: null"])
def test_a_server_needs_a_listener(refuse: Refuse, text: str) -> None:
    (problem,) = refuse(text)
    assert "no listeners; write" in problem


def test_missing_keys_are_named_at_their_mapping(refuse: Refuse) -> None:
    assert [problem.partition(";")[0] for problem in refuse("listeners:\n  - name: echo\n  - 5\n")] == [
        "f.yaml:2:5: listeners.0: bind is missing",
        "f.yaml:2:5: listeners.0: app is missing",
        "f.yaml:3:5: listeners.1: it is a single value",
    ]


def listeners(*pairs: tuple[str, str]) -> str:
    return "listeners:\n" + "".join(
        f"  - {{app: 'a:b', bind: '{bind}'" + (f", name: {name}}}\n" if name else "}\n") for name, bind in pairs
    )


def test_two_listeners_cannot_share_a_name_or_a_bind(refuse: Refuse) -> None:
    text = listeners(("x", "tcp://[::1]:1"), ("x", "tcp://[0:0::1]:1"), ("y", "unix:///a/b"), ("", "unix:///a//b"))
    assert refuse(text) == [
        "f.yaml:3:24: listeners.1: tcp://[0:0::1]:1 is bound at f.yaml:2:24; change or remove one of them",
        "f.yaml:3:50: listeners.1: the name 'x' is taken at f.yaml:2:47; names are unique",
        "f.yaml:5:24: listeners.3: unix:///a//b is bound at f.yaml:4:24; change or remove one of them",
    ]


def test_listeners_without_a_name_get_one_of_their_own(read: Read) -> None:
    free = "tcp://127.0.0.1:0"
    text = listeners(("", free), ("", free), ("tcp-127.0.0.1-0-2", free), ("", "unix:///a/b"), ("", "unix:///a-b"))
    assert [listener.name for listener in read(text).config.listeners] == [
        "tcp-127.0.0.1-0",
        "tcp-127.0.0.1-0-3",
        "tcp-127.0.0.1-0-2",
        "unix-a-b",
        "unix-a-b-2",
    ]


def test_flags_win_over_the_environment_over_the_file_over_defaults(read: Read) -> None:
    text = "workers: 2\ntimeouts: {drain: 1s, boot: 1s}\n" + ECHO
    environ = {"PREFORK_WORKERS": "3", "PREFORK_TIMEOUTS__DRAIN": "3s", "PREFORK_LOG__LEVEL": "debug"}
    config = read(text, environ, ["workers=4", "workers=5"]).config
    assert (config.workers, config.log.level) == (5, "debug")
    assert (config.timeouts.drain, config.timeouts.boot, config.timeouts.beat) == (3.0, 1.0, 30.0)


@pytest.mark.parametrize("element", ["echo", "0"])
def test_a_flag_names_a_listener_by_name_or_by_index(read: Read, element: str) -> None:
    config = read(ECHO, {}, [f"listeners.{element}.limits.idle=60s"]).config
    assert config.listeners[0].limits.idle == 60.0


def test_a_listener_without_a_name_is_named_by_its_bind(read: Read) -> None:
    text = listeners(("", "tcp://127.0.0.1:9000"))
    environ = {"PREFORK_LISTENERS__TCP_127_0_0_1_9000__FRAMING": "{lines: {max: 1KiB}}"}
    (listener,) = read(text, environ, ["listeners.tcp-127.0.0.1-9000.app=c:d"]).config.listeners
    assert (listener.app, listener.framing) == ("c:d", Framing("lines", LineOptions(1024)))


def test_lists_and_mappings_of_flags_are_written_in_yaml(read: Read) -> None:
    flag = "listeners=[{bind: tcp://h:1, app: a:b}, {bind: tcp://h:2, app: a:b, allow: []}]"
    assert [listener.bind for listener in read("workers: 2", {}, [flag]).config.listeners] == [
        "tcp://h:1",
        "tcp://h:2",
    ]


def test_a_single_value_of_a_flag_is_taken_as_it_is(read: Read) -> None:
    config = read(ECHO, {"PREFORK_USER": "on"}, ["pidfile=a: [b #", "log.file=null"]).config
    assert (config.user, config.pidfile, config.log.file) == ("on", "a: [b #", None)


def test_a_flag_cures_the_file(read: Read) -> None:
    assert read("workers: many\n" + ECHO, {}, ["workers=2"]).config.workers == 2


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("workers", "it has no value; write --set KEY=VALUE"),
        ("wrokers=1", "unknown key 'wrokers'; did you mean workers?"),
        ("workers=x", "workers: 'x' is not a whole number; write one such as 8, or auto"),
        ("workers.x=1", "workers has no keys of its own; remove 'x'"),
        ("listeners.ech.app=a:b", "there is no listener 'ech'; did you mean echo?"),
        ("listeners.7.app=a:b", "there is no listener '7'; known are echo"),
        ("listeners.echo=1", "it names a whole listener; name one of its keys, such as bind"),
        ("listeners.echo.allow=[", "not YAML, expected the node content"),
        ("listeners.echo.limits=1", "listeners.0.limits: it is a single value; write a mapping of keys"),
        ("timeouts.drain=", "timeouts.drain: it is null; give it a value, or remove the key"),
    ],
)
def test_a_bad_flag_is_named_by_itself(refuse: Refuse, flag: str, message: str) -> None:
    (problem,) = refuse(ECHO, {}, [flag])
    assert problem.startswith(f"--set {flag}: {message}")


def test_a_secret_of_a_flag_or_of_the_environment_is_not_shown(read: Read) -> None:
    with pytest.raises(ConfigError) as caught:
        read(ECHO, {"PREFORK_ADMIN__TOKEN": "s3cret\a"})
    assert "s3cret" not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        read(ECHO, {}, ["admin.token=s3cret\a"])
    assert "s3cret" not in str(caught.value)
    assert "--set admin.token=…" in str(caught.value)


def test_an_unknown_variable_is_a_warning_for_the_environment_is_shared(read: Read) -> None:
    loaded = read(ECHO, {"PREFORK_WORKER": "5", "PREFORK_LISTENERS__CHAT__APP": "a:b", "HOME": "/"})
    assert loaded.warnings == (
        "environment PREFORK_LISTENERS__CHAT__APP: ignored, there is no listener 'CHAT'; known are echo",
        "environment PREFORK_WORKER: ignored, unknown key 'WORKER'; did you mean workers?",
    )


def test_variables_are_put_into_values_and_checked_there(read: Read, refuse: Refuse) -> None:
    text = 'workers: ${N:-3}\nuser: ${WHO}\nlog: {file: "${FILE:-}"}\n' + ECHO
    config = read(text, {"WHO": "on"}).config
    assert (config.workers, config.user, config.log.file) == (3, "on", None)
    assert refuse(text, {"N": "many"}) == [
        "f.yaml:1:10: workers: 'many' is not a whole number; write one such as 8, or auto",
        "f.yaml:2:7: the variable WHO is not set; set it, or write ${WHO:-default}",
    ]


def test_a_variable_cannot_inject_structure(refuse: Refuse) -> None:
    (problem,) = refuse("log: ${X}\n" + ECHO, {"X": "{level: debug}"})
    assert "log: it is a single value" in problem


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n", "---\n"])
def test_an_empty_file_says_what_to_write(refuse: Refuse, text: str) -> None:
    (problem,) = refuse(text)
    assert problem.partition(": ")[2] == "the file holds no keys; write listeners: with a bind and an app"


@pytest.mark.parametrize("text", ["5", "- workers", "workers"])
def test_a_file_that_is_no_mapping_is_refused(refuse: Refuse, text: str) -> None:
    (problem,) = refuse(text)
    assert problem.startswith("f.yaml:1:1: the document is a")


def test_a_file_that_cannot_be_read_is_named_with_the_cause(tmp_path: Path) -> None:
    for path, cause in ((tmp_path / "none.yaml", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError) as caught:
            read_config(str(path), {})
        expected = f"{path}: cannot read the file: {cause}; check its path and its permissions"
        assert caught.value.problems == [expected]


def test_a_file_that_is_not_utf_8_is_refused_at_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes("workers: 2\nuser: caf\xe9\n".encode("latin-1"))
    with pytest.raises(ConfigError) as caught:
        read_config(str(path), {})
    assert caught.value.problems[0].startswith(f"{path}:2:10: not UTF-8; save the file in this encoding")


def test_a_byte_order_mark_is_skipped(read: Read) -> None:
    assert read("\ufeffworkers: 2\n" + ECHO).config.workers == 2


def test_a_file_that_is_too_large_is_refused(refuse: Refuse) -> None:
    (problem,) = refuse("# " + "x" * (1 << 20))
    assert "larger than 1 MiB" in problem
