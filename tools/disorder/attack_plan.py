"""What one crowd of attackers shall do, and what they report, as values that travel as JSON.

Knows: the manners of attackers and the fields that describe them.
Does not know: sockets, the server, what is good or bad for it.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from enum import StrEnum

READY, GO = b"ready\n", b"go\n"  # what attackers say when they can begin, and are told


class Manner(StrEnum):
    """What attackers do."""

    HOLD = "hold"  # connect, send what they have, now and then a byte of it, and stay
    SIP = "sip"  # ask, then take a few bytes of the answer each second
    STORM = "storm"  # connect and reset, as fast as the machine can
    DATAGRAM = "datagram"  # datagrams of random bytes


@dataclass(frozen=True, slots=True)
class Raid:
    """A crowd of attackers of one manner.

    `number` of connections or of datagrams; `rate` is in new connections per second (0: at once), from so many
    `sources`: addresses 127.`net`.x.y. `texts` are what they send, in hex: one for each attacker, in turn.
    `begin`: so many bytes of it at once, then one byte `every` so many seconds; 0: all at once.
    `sip_bytes`: what SIP takes each second, and `receive_buffer` its SO_RCVBUF; 0: the kernel's.
    `limit` bounds the life of the process.
    """

    port: int
    manner: Manner
    number: int = 1
    rate: float = 0.0
    sources: int = 1
    net: int = 1
    texts: tuple[str, ...] = ("",)
    begin: int = 0
    every: float = 0.0
    sip_bytes: int = 10
    receive_buffer: int = 0
    seed: int = 1
    limit: float = 120.0

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Raid:
        fields = json.loads(text)
        return cls(**{**fields, "manner": Manner(fields["manner"]), "texts": tuple(fields["texts"])})

    def source(self, index: int) -> str:
        """Return the address that attacker `index` comes from."""
        place = index % self.sources
        return f"127.{self.net}.{place // 250}.{1 + place % 250}"


@dataclass(slots=True)
class Report:
    """What attackers have met.

    Attributes:
        counts: connected, open, ended (by the server), refused, local (no port, descriptor or buffer), sent,
            received (bytes), and of datagrams answered, unasked (an answer that is no question's echo), errors.
        lives: how long the server kept each that it ended, in ms.
    """

    counts: Counter[str] = field(default_factory=Counter)
    lives: list[float] = field(default_factory=list)

    def to_json(self) -> str:
        return json.dumps({"counts": self.counts, "lives": self.lives})

    @classmethod
    def from_json(cls, text: str) -> Report:
        fields = json.loads(text)
        return cls(Counter(fields["counts"]), fields["lives"])
