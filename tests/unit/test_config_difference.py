"""What a reload says has changed.

Knows: `prefork.config.difference`. Does not know: files.
"""

from __future__ import annotations

from dataclasses import replace

from prefork.config import (
    Admin,
    Config,
    Framing,
    Limits,
    ListenerConfig,
    LogConfig,
    Recycle,
    Timeouts,
    Tls,
    describe_changes,
)
from prefork.config.model import LineOptions

ECHO = ListenerConfig("tcp://127.0.0.1:9000", "a:b", name="echo", limits=Limits(idle=60.0))
CHAT = ListenerConfig("tcp://127.0.0.1:9001", "a:b", name="chat")
OLD = Config(workers=4, listeners=(ECHO, CHAT))


def test_equal_configs_have_no_changes() -> None:
    assert describe_changes(OLD, Config(workers=4, listeners=(ECHO, CHAT))) == []


def test_the_order_of_listeners_is_no_change() -> None:
    assert describe_changes(OLD, replace(OLD, listeners=(CHAT, ECHO))) == []


def test_values_are_written_in_their_units() -> None:
    listener = replace(ECHO, limits=Limits(idle=30.0, frame=1 << 20), framing=Framing("lines", LineOptions(1024)))
    new = replace(
        OLD,
        workers=None,
        preload=False,
        listeners=(listener, CHAT),
        timeouts=Timeouts(drain=300.0),
        recycle=Recycle(jitter=0.2),
        log=LogConfig(file="/var/log/echo.log"),
    )
    assert describe_changes(OLD, new) == [
        "workers 4→auto",
        "preload true→false",
        "listeners.echo.framing raw→{lines: {max: 1KiB}}",
        "listeners.echo.limits.idle 60s→30s",
        "listeners.echo.limits.frame 64KiB→1MiB",
        "timeouts.drain 30s→5m",
        "recycle.jitter 10%→20%",
        "log.file null→/var/log/echo.log",
    ]


def test_listeners_are_told_apart_by_name() -> None:
    metrics = replace(CHAT, name="metrics")
    assert describe_changes(OLD, replace(OLD, listeners=(metrics, ECHO))) == [
        "listeners.metrics added",
        "listeners.chat removed",
    ]


def test_a_section_that_comes_or_goes_is_named_whole() -> None:
    secured = replace(OLD, listeners=(replace(ECHO, tls=Tls(cert="c.pem")), CHAT))
    assert describe_changes(OLD, secured) == ["listeners.echo.tls added"]
    assert describe_changes(secured, OLD) == ["listeners.echo.tls removed"]


def test_lists_and_key_names_are_written_as_in_the_file() -> None:
    trusting = replace(ECHO, proxy_protocol=replace(ECHO.proxy_protocol, from_=("10.0.0.0/8", "fd00::/8")))
    assert describe_changes(OLD, replace(OLD, listeners=(trusting, CHAT))) == [
        "listeners.echo.proxy_protocol.from []→[10.0.0.0/8, fd00::/8]"
    ]


def test_a_secret_is_not_shown() -> None:
    assert describe_changes(OLD, replace(OLD, admin=Admin(token="s3cret"))) == ["admin.token changed"]
