"""The reference file: every key with its default and its meaning, as YAML that runs.

Knows: how the file is laid out. Does not know: who writes it to `conf/reference.yaml`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from prefork.config.key import Key, keys_of
from prefork.config.model import Config
from prefork.config.notation import written

COMMENT_COLUMN = 36
EXAMPLE = {"name": "echo", "bind": "tcp://127.0.0.1:9000", "app": "prefork.apps.echo:echo"}
HEADER = """\
# Every key of prefork's configuration with its default; only the listener's name, bind and app are examples.
# Durations: 500ms 30s 5m 2h 1d. Sizes: 64KiB 1MiB 1GiB. In any value: ${VAR} and ${VAR:-default}.
# PREFORK_TIMEOUTS__DRAIN=5s in the environment and --set timeouts.drain=5s win over the file.
# Keys in comments are those of a section that is null by default.
# A key that is marked (later) is reserved: this version takes nothing but its default.

"""


def reference_yaml() -> str:
    """Render the reference file."""
    return HEADER + "\n".join(_section(Config, "")) + "\n"


def _section(section: type, indent: str) -> Iterator[str]:
    for key in keys_of(section):
        yield from _key(key, indent)


def _key(key: Key, indent: str) -> Iterator[str]:
    if key.items is not None:
        yield _line(f"{indent}{key.name}:", key.meaning)
        yield from _listener(key.items, f"{indent}  ")
    elif key.section is not None and not key.is_nullable:
        yield _line(f"{indent}{key.name}:", key.meaning)
        yield from _section(key.section, f"{indent}  ")
    else:
        yield _line(f"{indent}{key.name}: {_text(written(key.kind, key.default))}", _meaning(key))
        if key.section is not None:
            yield from (f"{indent}# {line.removeprefix(indent)}" for line in _section(key.section, f"{indent}  "))


def _listener(item: type, indent: str) -> Iterator[str]:
    keys = {key.name: key for key in keys_of(item)}
    for position, (name, value) in enumerate(EXAMPLE.items()):
        dash = "- " if position == 0 else "  "
        yield _line(f"{indent}{dash}{name}: {value}", keys[name].meaning)
    for key in keys.values():
        if key.name not in EXAMPLE:
            yield from _key(key, f"{indent}  ")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _meaning(key: Key) -> str:
    return f"{key.meaning} (later)" if key.is_later else key.meaning


def _line(text: str, comment: str) -> str:
    return f"{text:<{COMMENT_COLUMN}}# {comment}"
