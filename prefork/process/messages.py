"""Every word between the master and its children, in one place.

Children tell facts, the master gives orders. A message is a frozen dataclass; on the wire it is one packet of
JSON, with the descriptors that belong to it beside it.

Knows: the vocabulary. Does not know: sockets, processes, who acts on a word.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from enum import Enum
from typing import Any

from prefork.errors import ChannelError
from prefork.watch import Watch


@dataclass(frozen=True, slots=True)
class Fact:
    """What a child tells the master."""


@dataclass(frozen=True, slots=True)
class Order:
    """What the master tells a child."""


@dataclass(frozen=True, slots=True)
class Spawned(Fact):
    """The worker's first word: it runs, and this is its pid."""

    pid: int


@dataclass(frozen=True, slots=True)
class Ready(Fact):
    """A mold has imported the app; a worker can serve.

    Args:
        metrics: of the app's own, as `prefork.metrics` declares them.
    """

    metrics: list[Any] = dataclasses.field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Failed(Fact):
    """It cannot boot; it exits next. `reason` is one line, `detail` a traceback or empty."""

    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Tired(Fact):
    """A worker was asked by a signal to go: it serves until it is replaced."""

    reason: str


@dataclass(frozen=True, slots=True)
class Left(Fact):
    """A worker has carried out its oldest order to leave sockets: an `Uncover`, or a `Drain`."""


@dataclass(frozen=True, slots=True)
class Spawn(Order):
    """To a mold: fork a worker. Descriptors: its channel, the pipe for its stack."""

    slot: int
    seat: int


@dataclass(frozen=True, slots=True)
class Cover(Order):
    """To a worker: watch a slot's socket of a listener. Descriptors: the socket.

    Args:
        partner: the seat of the other worker that watches it.
    """

    listener: str
    slot: int
    watch: Watch
    partner: int | None = None


@dataclass(frozen=True, slots=True)
class Uncover(Order):
    """To a worker: leave that socket to others."""

    listener: str
    slot: int


@dataclass(frozen=True, slots=True)
class Drain(Order):
    """To a worker: finish what is open, then leave.

    Args:
        seconds: after these what is still open is cut.
        leave_from: each connection gets a random time between this one and `leave_until`, in seconds; from then
            on it may end between two exchanges.
        is_last: nobody comes after it: accept for a moment more what is on its way.
    """

    seconds: float
    leave_from: float
    leave_until: float
    is_last: bool


@dataclass(frozen=True, slots=True)
class ReopenLogs(Order):
    """To any child: write to this file from now on. Descriptors: the file, or none for standard error."""


@dataclass(frozen=True, slots=True)
class SetLevel(Order):
    """To a worker: log from this level on."""

    level: str


@dataclass(frozen=True, slots=True)
class Survey(Order):
    """To a worker: answer a question of the operator's by `Found`. Descriptors: the file of a capture."""

    number: int
    command: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Found(Fact):
    """A part of the answer to a question."""

    number: int
    rows: list[Any]
    is_last: bool


KINDS: dict[str, type[Fact | Order]] = {
    kind.__name__: kind
    for kind in (
        *(Spawned, Ready, Failed, Tired, Left, Spawn, Cover, Uncover, Drain, ReopenLogs),
        *(SetLevel, Survey, Found),
    )
}


def encode(message: Fact | Order) -> bytes:
    """Return a message as one packet."""
    fields = {
        field.name: value.value if isinstance(value := getattr(message, field.name), Enum) else value
        for field in dataclasses.fields(message)
    }
    return json.dumps([type(message).__name__, fields], ensure_ascii=False).encode("utf-8", "surrogatepass")


def decode(packet: bytes) -> Fact | Order:
    """Return the message of a packet.

    Raises:
        ChannelError: it is none.
    """
    try:
        name, fields = json.loads(packet)
        if "watch" in fields:
            fields["watch"] = Watch(fields["watch"])
        kind: Any = KINDS[name]
        message: Fact | Order = kind(**fields)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ChannelError(f"cannot understand a message of {len(packet)} bytes: {error}") from error
    return message
