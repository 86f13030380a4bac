"""Values from the environment and from flags, put over the tree of the file.

`PREFORK_TIMEOUTS__DRAIN=5s` and `timeouts.drain=5s` name the same key; an element of a list is named by the
listener's name or by its index. A single value is taken as it is, a list or a mapping is written in YAML.

Knows: how keys are named outside the file, and which source wins. Does not know: what a value means.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Mapping as Variables
from dataclasses import dataclass, replace

from prefork.config.checker import default_name
from prefork.config.document import (
    Entry,
    Mapping,
    Node,
    Place,
    Problem,
    Scalar,
    Source,
    Style,
    escape,
    open_source,
    parse_document,
    scalar_of,
)
from prefork.config.document import Sequence as Elements
from prefork.config.key import Key, Kind, keys_of
from prefork.config.model import Config
from prefork.config.trail import cure_for

ENVIRONMENT_PREFIX = "PREFORK_"
ENVIRONMENT_RANK = 1
FLAG_RANK = 2
_WRITTEN_IN_YAML = (None, Kind.FRAMING, Kind.STRINGS, Kind.NETWORKS, Kind.STEER, Kind.CERTIFICATES)

Steps = tuple[str | int, ...]


def _fold_variable(name: str) -> str:
    return re.sub("[^A-Za-z0-9]", "_", name).upper()


@dataclass(frozen=True, slots=True)
class _Dialect:
    """How a path is written: what stands between its levels, and how a name looks there."""

    separator: str
    fold: Callable[[str], str]


_VARIABLE = _Dialect("__", _fold_variable)
_FLAG = _Dialect(".", str)


def apply_environment(
    root: Mapping, environ: Variables[str, str], problems: list[Problem]
) -> tuple[Mapping, list[str]]:
    """Put the `PREFORK_` variables over a tree.

    Args:
        root: the tree of the file; it is left as it is.
        environ: all variables; the others are not looked at.
        problems: gets the values that are no YAML where a list or a mapping is asked for.

    Returns:
        The new tree, and one warning for each variable that names no key: the environment is shared.
    """
    warnings = []
    for name in sorted(environ):
        if not name.startswith(ENVIRONMENT_PREFIX):
            continue
        try:
            steps, key = _find(root, name.removeprefix(ENVIRONMENT_PREFIX), _VARIABLE)
        except LookupError as error:
            warnings.append(f"environment {name}: ignored, {error.args[0]}")
            continue
        shown = "" if key.bounds.get("secret") else environ[name]
        source = open_source(f"environment {name}", shown, ENVIRONMENT_RANK)
        root = _put(root, steps, _value(environ[name], key, source, problems))
    return root, warnings


def apply_flags(root: Mapping, sets: Sequence[str], problems: list[Problem]) -> Mapping:
    """Put `KEY=VALUE` flags over a tree; the last one of a key wins.

    Args:
        root: the tree; it is left as it is.
        sets: flags, such as `listeners.echo.limits.idle=60s`.
        problems: gets the flags that name no key, and those whose value is no YAML where it has to be.
    """
    for text in sets:
        path, equals, value = text.partition("=")
        try:
            if not equals:
                raise LookupError("it has no value; write --set KEY=VALUE")
            steps, key = _find(root, path, _FLAG)
        except LookupError as error:
            problems.append(Problem(Place(Source(f"--set {escape(text)}", rank=FLAG_RANK)), error.args[0]))
            continue
        source = Source(f"--set {path}=…" if key.bounds.get("secret") else f"--set {escape(text)}", rank=FLAG_RANK)
        root = _put(root, steps, _value(value, key, source, problems))
    return root


def _value(text: str, key: Key, source: Source, problems: list[Problem]) -> Node:
    place = Place(source)
    if key.kind not in _WRITTEN_IN_YAML:
        return scalar_of(text, place, Style.GIVEN)
    found = len(problems)
    node = parse_document(text, source, problems)
    style = Style.UNSET if len(problems) > found else Style.GIVEN
    return scalar_of("", place, style) if node is None else node


def _find(root: Mapping, path: str, dialect: _Dialect) -> tuple[Steps, Key]:
    section: type = Config
    node: Node | None = root
    steps: Steps = ()
    segments = path.split(dialect.separator)
    while True:
        key = _match_key(section, segments[0], dialect)
        steps, node, segments = (*steps, key.name), _child(node, key.name), segments[1:]
        if not segments:
            return steps, key
        if key.items is not None:
            index, used = _match_element(node, segments, dialect)
            steps, node, segments = (*steps, index), _child(node, index), segments[used:]
        section = key.items or key.section
        if section is None:
            raise LookupError(f"{key.name} has no keys of its own; remove {dialect.separator.join(segments)!r}")
        if not segments:
            raise LookupError(f"it names a whole listener; name one of its keys, such as {dialect.fold('bind')}")


def _match_key(section: type, word: str, dialect: _Dialect) -> Key:
    keys = {dialect.fold(key.name): key for key in keys_of(section)}
    if word in keys:
        return keys[word]
    raise LookupError(f"unknown key {word!r}; {cure_for(word, (key.name for key in keys.values()))}")


def _match_element(node: Node | None, segments: list[str], dialect: _Dialect) -> tuple[int, int]:
    """Return the index of the listener that the first segments name, and how many they are."""
    items = node.items if isinstance(node, Elements) else ()
    names = [_name_of(item) for item in items]
    folded = [dialect.fold(name) for name in names]
    for used in range(len(segments), 0, -1):
        word = dialect.separator.join(segments[:used])
        if word in folded:
            return folded.index(word), used
    if segments[0].isdecimal() and int(segments[0]) < len(items):
        return int(segments[0]), 1
    raise LookupError(f"there is no listener {segments[0]!r}; {cure_for(segments[0], names)}")


def _name_of(listener: Node) -> str:
    if not isinstance(listener, Mapping):
        return ""
    name, bind = listener.find("name"), listener.find("bind")
    if isinstance(name, Scalar):
        return name.text
    return default_name(bind.text) if isinstance(bind, Scalar) else ""


def _child(node: Node | None, step: str | int) -> Node | None:
    if isinstance(node, Mapping) and isinstance(step, str):
        return node.find(step)
    return node.items[step] if isinstance(node, Elements) and isinstance(step, int) else None


def _put(root: Mapping, steps: Steps, value: Node) -> Mapping:
    placed = _placed(root, steps, value)
    return placed if isinstance(placed, Mapping) else root


def _placed(node: Node | None, steps: Steps, value: Node) -> Node:
    if not steps:
        return value
    step, rest = steps[0], steps[1:]
    below = _placed(_child(node, step), rest, value)
    if isinstance(step, int):
        assert isinstance(node, Elements)
        return replace(node, items=(*node.items[:step], below, *node.items[step + 1 :]))
    if node is None or (isinstance(node, Scalar) and node.is_null):
        node = Mapping(value.place)
    if not isinstance(node, Mapping):
        return node
    return replace(node, entries=tuple(_entries_with(node, Entry(_key(step, value), below))))


def _key(name: str, value: Node) -> Scalar:
    return Scalar(value.place, name, Style.PLAIN, "str")


def _entries_with(node: Mapping, new: Entry) -> Iterator[Entry]:
    known = False
    for entry in node.entries:
        if entry.key.text == new.key.text:
            known = True
            yield replace(entry, value=new.value)
        else:
            yield entry
    if not known:
        yield new
