"""The config as it is in effect: each value, and where it comes from; secrets are masked.

Knows: a config that was read, where its keys stand. Does not know: who asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prefork.config.document import Mapping, Node, Sequence
from prefork.config.key import Key, keys_of
from prefork.config.model import Config
from prefork.config.notation import written
from prefork.config.reader import Loaded

MASK = "***"
DEFAULT = "default"


def describe_effective(loaded: Loaded) -> list[dict[str, Any]]:
    """Return a row for each value: `key`, `value` as it is written in the file, `origin`."""
    return list(_rows(Config, loaded.config, loaded.root, ""))


def _rows(section: type, values: Any, node: Node | None, path: str) -> Iterator[dict[str, Any]]:
    for key in keys_of(section):
        value, below = getattr(values, key.attribute), _below(node, key.name)
        if below is None and value and key.name == "dry_run" and isinstance(node, Mapping):
            below = next((_below(entry.value, "dry_run") for entry in node.entries if is_tried(entry.value)), None)
        yield from _row(key, value, below, path + key.name)


def _row(key: Key, value: Any, node: Node | None, path: str) -> Iterator[dict[str, Any]]:
    if key.items is not None:
        for index, item in enumerate(value):
            yield from _rows(key.items, item, _below(node, index), f"{path}.{item.name}.")
    elif key.section is not None and value is not None:
        yield from _rows(key.section, value, node, f"{path}.")
    else:
        shown = MASK if key.bounds.get("secret") and value is not None else written(key.kind, value)
        yield {"key": path, "value": shown, "origin": DEFAULT if node is None else str(node.place)}


def is_tried(node: Node) -> bool:
    """Whether a limit says of itself that it is only tried."""
    return isinstance(node, Mapping) and node.find("dry_run") is not None


def _below(node: Node | None, step: str | int) -> Node | None:
    if isinstance(node, Mapping) and isinstance(step, str):
        return node.find(step)
    if isinstance(node, Sequence) and isinstance(step, int) and step < len(node.items):
        return node.items[step]
    return None
