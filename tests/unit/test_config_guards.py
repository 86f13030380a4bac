"""Keys that keep strangers out: networks, limits, trials of limits; each mistake is named with its cure."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from prefork.config import read_config
from prefork.config.key import keys_of
from prefork.config.limits import TRIALS, Limits
from prefork.config.model import ListenerConfig
from prefork.errors import ConfigError

Read = Callable[..., ListenerConfig]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def _read(text: str, bind: str = "tcp://h:1") -> ListenerConfig:
        path = tmp_path / "f.yaml"
        path.write_text(f"listeners:\n  - {text}\n    bind: {bind}\n    app: a:b\n", "utf-8")
        return read_config(str(path), {}).config.listeners[0]

    return _read


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("allow: [10.0.0.1/8]", "allow.0: '10.0.0.1/8' has bits set beyond its prefix; write 10.0.0.0/8"),
        ("deny: [all]", "deny.0: 'all' is not a network; write 10.0.0.0/8 or fd00::/8"),
        ("deny: ['file:']", "deny.0: 'file:' is not a network"),
        ("proxy_protocol: {from: ['file:lb.txt']}", "proxy_protocol.from.0: 'file:lb.txt' is not a network"),
        ("limits: {per_ip: some}", "limits.per_ip: 'some' is not a whole number; write one such as 8, or auto"),
        ("limits: {per_ip: {dry_run: true}}", "limits.per_ip: value is missing; write {value: …, dry_run: true}"),
        ("limits: {idle: {value: 5s, dry: true}}", "limits.idle: unknown key 'dry'; did you mean dry_run?"),
        ("limits: {idle: {value: 5s, dry_run: 5}}", "limits.idle.dry_run: it is a single value; write true or"),
        ("limits: {idle: {value: soon, dry_run: true}}", "limits.idle: 'soon' is not a duration"),
        ("limits: {frame: {value: 5}}", "limits.frame: it is a mapping; write a single value"),
        (
            "limits: {dry_run: [frame]}",
            "limits.dry_run.0: 'frame' cannot be used; write one of connections, per_ip,",
        ),
        ("limits: {when_full: queue}", "limits.when_full: 'queue' is unknown; known are wait, refuse, oldest"),
        ("limits: {rate: 1000000}", "limits.rate: 1000000 is too large; at most 500000"),
        ("limits: {prefix_v4: 33}", "limits.prefix_v4: 33 is too large; at most 32"),
    ],
)
def test_a_mistake_is_named_with_its_cure(read: Read, line: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(line)
    (problem,) = caught.value.problems
    assert ":2:" in problem
    assert f"listeners.0.{message}" in problem


@pytest.mark.parametrize(
    ("line", "bind", "message"),
    [
        ("allow: [10.0.0.0/8]", "unix:///run/a.sock", "a unix:// listener's peers have no address; remove it"),
        ("deny: [10.0.0.0/8]", "unixgram://@a", "a unixgram:// listener's peers have no address; remove it"),
        ("limits: {per_ip: 5}", "unix://@a", "per_ip is for sources with addresses; remove it"),
        (
            "limits: {rate: 5}",
            "udp://h:1",
            "rate is for a source's connections, and a datagram is none; remove it",
        ),
        (
            "limits: {life: 5s}",
            "udp://h:1",
            "life is for a source's connections, and a datagram is none; remove it",
        ),
        (
            "proxy_protocol: {from: [10.0.0.0/8]}",
            "udp://h:1",
            "PROXY headers are for tcp:// and tls:// listeners; remove it",
        ),
    ],
)
def test_what_has_no_meaning_for_a_bind_is_refused(read: Read, line: str, bind: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        read(line, bind)


def test_a_limit_is_tried_by_its_own_mapping_or_by_a_list(read: Read) -> None:
    limits = read(
        "limits: {per_ip: {value: 3, dry_run: true}, idle: {value: 3s, dry_run: false}, rate: {value: 9},"
        " dry_run: [min_rate]}"
    ).limits
    assert (limits.per_ip, limits.idle, limits.rate, limits.dry_run) == (3, 3.0, 9, ("min_rate", "per_ip"))


def test_the_limits_that_can_be_tried_are_those_that_are_listed() -> None:
    assert tuple(key.name for key in keys_of(Limits) if key.has_trial) == TRIALS


def test_the_defaults_are_for_the_open_internet(read: Read) -> None:
    limits = read("name: x").limits
    assert (limits.per_ip, limits.handshake, limits.message, limits.min_rate) == (None, 10.0, 60.0, 240)
    assert (limits.buffer, limits.amplification, limits.prefix_v4, limits.prefix_v6) == (1 << 20, 3, 32, 64)
    assert limits.dry_run == ()
