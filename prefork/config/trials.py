"""Limits that are only tried: `per_ip: {value: 256, dry_run: true}` counts what it would refuse.

Knows: how a trial is written. Does not know: which limits there are, what is done with them.
"""

from __future__ import annotations

from typing import Any

from prefork.config.document import Mapping, Node, Scalar
from prefork.config.trail import Trail, cure_for, shape_of

FORM = "write {value: …, dry_run: true}"
WORDS = ("value", "dry_run")


def unwrap(node: Node, trail: Trail) -> tuple[Node | None, bool]:
    """Return the value of a limit that may be written as a trial, and whether it is one.

    Returns:
        None in place of the value: there is none, which was noted.
    """
    if not isinstance(node, Mapping):
        return node, False
    for entry in node.entries:
        if entry.key.text not in WORDS:
            cure = cure_for(entry.key.text, WORDS)
            trail.refuse(entry.key.place, f"unknown key {entry.key.text!r}; {cure}")
    value, is_dry = node.find("value"), node.find("dry_run")
    if value is None:
        trail.refuse(node.place, f"value is missing; {FORM}")
    if is_dry is not None and not (isinstance(is_dry, Scalar) and is_dry.tag == "bool"):
        trail.below("dry_run").refuse(is_dry.place, f"it is {shape_of(is_dry)}; write true or false")
        return value, False
    return value, isinstance(is_dry, Scalar) and is_dry.text.lower() in ("true", "yes", "on")


def gather(values: dict[str, Any], dry: set[str]) -> None:
    """Put the names of all limits that are tried into the section's `dry_run`."""
    values["dry_run"] = tuple(sorted({*(values.get("dry_run") or ()), *dry}))
