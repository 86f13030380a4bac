"""What a generation's processes are given by the master at the fork, and nothing more.

Knows: config, paths, shared memory, the log. Does not know: the master, other generations.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from prefork.config import Config
from prefork.firewall import Firewalls
from prefork.log import LineHandler
from prefork.process.kernel import Kernel
from prefork.scoreboard import Scoreboard
from prefork.tls import Security


@dataclass(frozen=True, slots=True)
class Plan:
    """The generation that a mold and its workers belong to.

    Attributes:
        directories: where apps are looked for before the Python path.
        firewalls: of the listeners that do not serve everybody, by their names.
        securities: of the listeners that speak TLS, by their names.
        datagrams: the names of the listeners that have datagrams.
    """

    generation: int
    config: Config
    directories: tuple[str, ...]
    scoreboard: Scoreboard
    log: LineHandler
    kernel: Kernel
    master_pid: int
    firewalls: Mapping[str, Firewalls] = field(default_factory=dict)
    securities: Mapping[str, Security] = field(default_factory=dict)
    datagrams: frozenset[str] = frozenset()


def app_directories(config_path: str) -> tuple[str, ...]:
    """Return where the apps of a config file are looked for: the working directory, then the file's own."""
    return (os.getcwd(), os.path.dirname(os.path.abspath(config_path)))
