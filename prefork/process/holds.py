"""Slots and listeners that an operator has taken out of service for a while: they accept nobody new.

Knows: which ones. Does not know: sockets, workers, how they are passed by.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from prefork.errors import CommandError, LocalProtocolError

log = logging.getLogger("prefork")


@dataclass(slots=True)
class Holds:
    """What accepts nobody new; its clients stay."""

    slots: set[int] = field(default_factory=set)
    listeners: set[str] = field(default_factory=set)

    def change(self, wanted: dict[str, Any], known: list[str], count: int, is_held: bool) -> None:
        """Take a slot or a listener out of service, or back.

        Args:
            wanted: `slot`, a number, or `listener`, a name.
            known: the names of all listeners.
            count: of slots.

        Raises:
            CommandError: there is no such thing.
            LocalProtocolError: nobody would be left to accept anything.
        """
        slot, name = wanted.get("slot"), wanted.get("listener")
        if (slot is None) == (name is None):
            raise CommandError("name one: --slot N or --listener NAME")
        if name is not None and name not in known:
            raise CommandError(f"there is no listener {name!r}; there are {', '.join(known)}")
        if slot is not None and not isinstance(slot, int):
            raise CommandError(f"{slot!r} is no slot; write a number")
        if slot is not None and is_held and slot not in range(count):
            raise CommandError(f"there is no slot {slot}; there are 0 to {count - 1}")
        if slot is not None and is_held and not set(range(count)) - self.slots - {slot}:
            raise LocalProtocolError(f"slot {slot} is the last that accepts; drain the listeners, or stop")
        group: set[Any] = self.slots if name is None else self.listeners
        (group.add if is_held else group.discard)(slot if name is None else name)
        what = f"slot {slot}" if name is None else f"listener {name}"
        log.info("%s %s", what, "accepts nobody new, until it is resumed" if is_held else "accepts again")

    def describe(self) -> dict[str, Any]:
        return {"slots": sorted(self.slots), "listeners": sorted(self.listeners)}
