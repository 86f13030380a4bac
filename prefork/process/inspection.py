"""What `prefork check` finds out beyond the syntax: apps are imported, certificates loaded, nothing is bound.

Knows: a config that was read. Does not know: sockets, processes, how it is shown.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from prefork.address import parse_address
from prefork.app import AppKind, import_app, recognise
from prefork.config import ListenerConfig, Loaded
from prefork.errors import ConfigError
from prefork.process.guarding import build_firewalls
from prefork.process.loading import import_listener
from prefork.process.plan import app_directories
from prefork.process.securing import describe_warnings, secure


@dataclass(slots=True)
class Findings:
    """What is wrong, what should be mended, and what each listener serves, one line each."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


def find_kind(listener: ListenerConfig, directories: tuple[str, ...]) -> AppKind:
    """Return the kind of a listener's app; whether an inherited socket has datagrams is not known yet.

    Raises:
        ConfigError: it cannot be served.
    """
    address = parse_address(listener.bind)
    try:
        app = import_listener(listener, directories, address.is_datagram)[listener.app]
        return recognise(app, listener.app, address.is_datagram)
    except ConfigError:
        if not address.is_inherited:
            raise
        app = import_listener(listener, directories, is_datagram=True)[listener.app]
        return recognise(app, listener.app, is_datagram=True)


def inspect_config(loaded: Loaded) -> Findings:
    """Look at all that a config names, as a server would that starts with it."""
    found = Findings()
    directories = app_directories(loaded.path)
    for index, listener in enumerate(loaded.config.listeners):
        try:
            kind = find_kind(listener, directories)
            found.lines.append(f"{listener.name}: {listener.bind} -> {listener.app}, {kind.value}")
        except ConfigError as error:
            where = loaded.at("listeners", index, "app")
            found.problems += [f"{where}: listener {listener.name}: {text}" for text in error.problems]
    if loaded.config.lifespan:
        try:
            import_app(loaded.config.lifespan, directories)
        except ConfigError as error:
            found.problems += [f"{loaded.at('lifespan')}: {text}" for text in error.problems]
    try:
        build_firewalls(loaded, directories)
    except ConfigError as error:
        found.problems += error.problems
    try:
        found.warnings += describe_warnings(secure(loaded, directories).values())
    except ConfigError as error:
        found.problems += error.problems
    return found
