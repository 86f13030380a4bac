"""What changed between two configs, in words for the verdict line of a reload.

Knows: the model and its units. Does not know: which changes need new sockets or new workers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from prefork.config.key import Key, keys_of
from prefork.config.model import Config
from prefork.config.notation import written


def describe_changes(old: Config, new: Config) -> list[str]:
    """Describe each key that differs, in the order of the model; listeners are told apart by their names.

    Returns:
        Such as `workers 4→8`, `listeners.echo.limits.idle 60s→30s`, `listeners.metrics added`.
    """
    return list(_changes(Config, old, new, ""))


def _changes(section: type, old: Any, new: Any, path: str) -> Iterator[str]:
    for key in keys_of(section):
        before, after = getattr(old, key.attribute), getattr(new, key.attribute)
        if before != after:
            yield from _change(key, before, after, path + key.name)


def _change(key: Key, before: Any, after: Any, path: str) -> Iterator[str]:
    if key.items is not None:
        yield from _listener_changes(key.items, before, after, path)
    elif key.section is None:
        yield (
            f"{path} changed" if key.bounds.get("secret") else f"{path} {_shown(key, before)}→{_shown(key, after)}"
        )
    elif before is None or after is None:
        yield f"{path} {'removed' if after is None else 'added'}"
    else:
        yield from _changes(key.section, before, after, f"{path}.")


def _listener_changes(item: type, before: Sequence[Any], after: Sequence[Any], path: str) -> Iterator[str]:
    old, new = ({listener.name: listener for listener in listeners} for listeners in (before, after))
    for name, listener in new.items():
        if name in old:
            yield from _changes(item, old[name], listener, f"{path}.{name}.")
        else:
            yield f"{path}.{name} added"
    yield from (f"{path}.{name} removed" for name in old if name not in new)


def _shown(key: Key, value: Any) -> str:
    plain = written(key.kind, value)
    text = plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)
    return text.replace('"', "") if isinstance(plain, (list, dict)) else text
