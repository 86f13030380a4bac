"""What `prefork doctor` looks at, and what it says: a machine with a config, and findings.

Knows: levels, a config's listeners. Does not know: any check.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from prefork.address import Address, parse_address
from prefork.config import Config, ListenerConfig
from prefork.process.machine import Machine


class Level(enum.Enum):
    """How a finding is to be taken; the values are what is shown."""

    OK = "ok"
    WARN = "warn"  # it serves, and not as its owner may think
    BAD = "bad"  # it will not start, or a stranger can do harm


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was found, and unless that is good, how to mend it."""

    level: Level
    what: str
    cure: str = ""

    def __str__(self) -> str:
        return f"{self.level.value:<4}  {self.what}" + (f"; {self.cure}" if self.cure else "")


def good(what: str) -> Finding:
    return Finding(Level.OK, what)


def warn(what: str, cure: str) -> Finding:
    return Finding(Level.WARN, what, cure)


def bad(what: str, cure: str) -> Finding:
    return Finding(Level.BAD, what, cure)


@dataclass(frozen=True, slots=True)
class Case:
    """A machine, and the config that it is to serve.

    Attributes:
        config: with no listeners when no file was named; its defaults are what a small file would have.
        path: of the config file, absolute; empty: none was named.
        directories: where apps and relative paths are looked for, absolute, the best first.
    """

    machine: Machine
    config: Config = field(default_factory=Config)
    path: str = ""
    directories: tuple[str, ...] = ()

    def listeners(self) -> list[tuple[ListenerConfig, Address]]:
        return [(listener, parse_address(listener.bind)) for listener in self.config.listeners]

    def streams(self) -> list[tuple[ListenerConfig, Address]]:
        """Return the listeners that have connections; one that is like the defaults, when no file was named."""
        if not self.path:
            listener = ListenerConfig("tcp://127.0.0.1:0", "app:app", "default")
            return [(listener, parse_address(listener.bind))]
        return [(listener, address) for listener, address in self.listeners() if not address.is_datagram]

    def workers(self) -> int:
        return self.machine.count_workers(self.config.workers)
