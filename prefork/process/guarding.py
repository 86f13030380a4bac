"""The networks of a generation: who may connect to each listener, and who speaks for others.

Knows: the config, where its keys stand. Does not know: how networks are looked up, who serves.
"""

from __future__ import annotations

from collections.abc import Sequence

from prefork.config import Loaded
from prefork.errors import ConfigError
from prefork.firewall import Firewalls, build_firewall


def build_firewalls(loaded: Loaded, directories: Sequence[str]) -> dict[str, Firewalls]:
    """Return the networks of the listeners that have any, by their names.

    Args:
        directories: where relative paths of `file:` are looked for.

    Raises:
        ConfigError: networks or files cannot be read; all that are wrong, each with its place.
    """
    found: dict[str, Firewalls] = {}
    problems: list[str] = []
    for index, listener in enumerate(loaded.config.listeners):
        balancers = listener.proxy_protocol.from_
        if not (listener.allow or listener.deny or balancers):
            continue
        try:
            found[listener.name] = Firewalls(
                build_firewall(listener.allow, listener.deny, directories),
                build_firewall(balancers, ()) if balancers else None,
            )
        except ConfigError as error:
            where = loaded.at("listeners", index)
            problems += [f"{where}: {listener.name}: {problem}" for problem in error.problems]
    if problems:
        raise ConfigError(problems)
    return found
