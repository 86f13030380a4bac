"""Slots and listeners that an operator has taken out of service for a while: they accept nobody new.

Knows: which ones. Does not know: sockets, workers, how they are passed by.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from prefork.errors import LocalProtocolError

log = logging.getLogger("prefork")


@dataclass(slots=True)
class Holds:
    """What accepts nobody new; its clients stay."""

    slots: set[int] = field(default_factory=set)
    listeners: set[str] = field(default_factory=set)

    def change(self, wanted: dict[str, Any], known: list[str], is_held: bool) -> None:
        """Take a slot or a listener out of service, or back.

        Args:
            wanted: `slot`, a number, or `listener`, a name.
            known: the names of all listeners.

        Raises:
            LocalProtocolError: there is no such thing.
        """
        slot, name = wanted.get("slot"), wanted.get("listener")
        if (slot is None) == (name is None):
            raise LocalProtocolError("name one: a slot or a listener")
        if name is not None and name not in known:
            raise LocalProtocolError(f"there is no listener {name!r}; there are {', '.join(known)}")
        if slot is not None and not isinstance(slot, int):
            raise LocalProtocolError(f"{slot!r} is no slot; write a number")
        group: set[Any] = self.slots if name is None else self.listeners
        (group.add if is_held else group.discard)(slot if name is None else name)
        what = f"slot {slot}" if name is None else f"listener {name}"
        log.info("%s %s", what, "accepts nobody new, until it is resumed" if is_held else "accepts again")

    def describe(self) -> dict[str, Any]:
        return {"slots": sorted(self.slots), "listeners": sorted(self.listeners)}
