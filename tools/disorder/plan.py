"""What one crowd of clients shall do, as a value that travels to its process as JSON.

Knows: the kinds of clients and the fields that describe them.
Does not know: sockets, the server, or what is done to it meanwhile.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum


class Kind(StrEnum):
    """The kinds of clients."""

    PACED = "paced"  # a new connection per request, begun at a steady rate
    CYCLE = "cycle"  # so many clients, each with a new connection per request
    LONG = "long"  # so many clients, each asks again and again over one connection
    BURST = "burst"  # so many connections in all, one request each
    IDLE = "idle"  # so many connections that never ask
    FLOW = "flow"  # so many addresses, each asks again and again by datagrams


@dataclass(frozen=True, slots=True)
class Plan:
    """A crowd of clients of one kind.

    `rate` is in connections per second (PACED). `spread` is the time over which BURST and IDLE connect,
    and over which LONG, CYCLE and FLOW begin. `think` is the pause of these three between two requests; that of
    FLOW varies by a half.
    `look`: a LONG client looks for EOF before it sends its next request.
    `limit` bounds the life of the process, `timeout` that of one request.
    `authority`: the file of the certificate to trust; with it, connections speak TLS, and `resume` is the share
    of them that offer the session of an earlier one. `window`: a FLOW has 1 to so many datagrams open at a time.
    `framing`: of what a connection says, `raw`, `lines` or `length`.
    """

    port: int
    kind: Kind
    clients: int = 1
    rate: float = 0.0
    think: float = 0.0
    spread: float = 0.0
    look: bool = True
    timeout: float = 5.0
    limit: float = 120.0
    max_bytes: int = 4096
    authority: str = ""
    resume: float = 0.5
    window: int = 2
    framing: str = "raw"
    seed: int = 1

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        fields = json.loads(text)
        return cls(**{**fields, "kind": Kind(fields["kind"])})
