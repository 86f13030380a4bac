"""A YAML text as a tree of nodes that know where they stand and what they look like.

A scalar is kept as its text; what it means is decided by the key that it belongs to, so that `22:22`, `0600`
and `on` are not misread in silence. Aliases, tags, duplicate keys and second documents are refused.

Knows: YAML's syntax and how PyYAML reads a plain scalar. Does not know: keys, files, environment.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

import yaml
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

MAX_DOCUMENT_BYTES = 1 << 20
MAX_DEPTH = 32
SHOWN_CHARACTERS = 120
LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")  # those that PyYAML's marks count
TAG_PREFIX = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True)
class Source:
    """A text that was read; one without `lines` is named whole, as a flag is."""

    name: str
    lines: tuple[str, ...] = ()
    rank: int = 0


def open_source(name: str, text: str, rank: int = 0) -> Source:
    """Make the source of a text; `rank` orders the problems of several sources."""
    return Source(name, tuple(LINE_BREAK.split(text)), rank)


@dataclass(frozen=True, slots=True)
class Place:
    """A point in a source; `line` and `column` count from 1."""

    source: Source
    line: int = 1
    column: int = 1

    @property
    def order(self) -> tuple[int, str, int, int]:
        """Where problems at this place are sorted to."""
        return (self.source.rank, self.source.name, self.line, self.column)

    def __str__(self) -> str:
        return f"{self.source.name}:{self.line}:{self.column}" if self.source.lines else self.source.name

    @property
    def excerpt(self) -> str:
        """The line with a caret under the column, indented; empty for a source without lines."""
        if self.line > len(self.source.lines):
            return ""
        start = max(0, self.column - SHOWN_CHARACTERS + 20)
        shown = self.source.lines[self.line - 1][start : start + SHOWN_CHARACTERS]
        if not shown.strip():
            return ""
        safe = "".join(c if c.isprintable() else " " for c in shown)
        return f"\n    {safe}\n    {' ' * (self.column - 1 - start)}^"


@dataclass(frozen=True, slots=True)
class Problem:
    """A mistake and its cure, at its place."""

    place: Place
    message: str

    def __str__(self) -> str:
        return escape(f"{self.place}: {self.message}") + self.place.excerpt


def escape(text: str) -> str:
    """Return what an operator has written as it can stand on a terminal, in one line."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class Style(Enum):
    """How a scalar came to be."""

    PLAIN = "plain"
    QUOTED = "quoted"
    GIVEN = "given"  # by a variable or a flag: its text was not seen by YAML
    UNSET = "unset"  # it names a variable that is not there, and was reported


@dataclass(frozen=True, slots=True)
class Scalar:
    """A scalar as its text; `tag` is YAML's opinion of it: str, int, float, bool, null, timestamp."""

    place: Place
    text: str
    style: Style
    tag: str

    @property
    def is_null(self) -> bool:
        return self.tag == "null"


@dataclass(frozen=True, slots=True)
class Sequence:
    place: Place
    items: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """A key of a mapping with its value."""

    key: Scalar
    value: Node


@dataclass(frozen=True, slots=True)
class Mapping:
    place: Place
    entries: tuple[Entry, ...] = ()

    def find(self, key: str) -> Node | None:
        """Find the value of a key."""
        return next((entry.value for entry in self.entries if entry.key.text == key), None)


Node: TypeAlias = Scalar | Sequence | Mapping


def scalar_of(text: str, place: Place, style: Style) -> Scalar:
    """Make a scalar, with the tag that YAML resolves for its text when it is not quoted."""
    if style is Style.QUOTED:
        return Scalar(place, text, style, "str")
    tag = Resolver().resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    return Scalar(place, text, style, str(tag).removeprefix(TAG_PREFIX))


def plain_value(node: Node) -> Any:
    """Return what YAML makes of a node: None, bool, int, float, str, list or dict; dates stay text."""
    if isinstance(node, Sequence):
        return [plain_value(item) for item in node.items]
    if isinstance(node, Mapping):
        return {entry.key.text: plain_value(entry.value) for entry in node.entries}
    if node.tag not in ("null", "bool", "int", "float"):
        return node.text
    try:
        return SafeConstructor().construct_object(yaml.ScalarNode(TAG_PREFIX + node.tag, node.text))
    except ValueError:  # the resolver's patterns are wider than the constructors: `0b_`
        return node.text


class _Refused(Exception):
    """Reading cannot go on."""

    def __init__(self, place: Place, message: str) -> None:
        super().__init__(message)
        self.problem = Problem(place, message)


def parse_document(text: str, source: Source, problems: list[Problem]) -> Node | None:
    """Parse one YAML document.

    Args:
        text: the document, at most MAX_DOCUMENT_BYTES characters, nested at most MAX_DEPTH deep.
        source: where problems are said to be.
        problems: gets what is wrong; duplicate keys do not end the reading.

    Returns:
        The root, or None when there is no document or it cannot be read; the latter leaves a problem.
    """
    if len(text) > MAX_DOCUMENT_BYTES:
        message = f"the document is larger than {MAX_DOCUMENT_BYTES >> 20} MiB; a config is a few kilobytes"
        problems.append(Problem(Place(source), message))
        return None
    tree = _Tree(source, problems)
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            tree.add(event)
    except _Refused as refused:
        problems.append(refused.problem)
        return None
    except yaml.YAMLError as error:
        problems.append(_syntax_problem(error, text, source))
        return None
    except (ValueError, OverflowError):  # an escape beyond Unicode, a version of 5,000 digits: PyYAML's own bugs
        message = "not YAML: a number or an escape in it is too large; check its escapes, such as \\U0001F600"
        problems.append(Problem(Place(source), message))
        return None
    return tree.root


@dataclass(slots=True)
class _Open:
    """A collection whose end was not seen yet."""

    place: Place
    is_mapping: bool
    children: list[Node]


def _place_of(mark: Any, source: Source) -> Place:
    return Place(source) if mark is None else Place(source, mark.line + 1, mark.column + 1)


class _Tree:
    """The tree as it grows, event by event; no recursion, so that depth costs no stack."""

    def __init__(self, source: Source, problems: list[Problem]) -> None:
        self.root: Node | None = None
        self._source = source
        self._problems = problems
        self._open: list[_Open] = []
        self._documents = 0

    def add(self, event: yaml.Event) -> None:
        """Take the next event of the parser."""
        place = _place_of(event.start_mark, self._source)
        if isinstance(event, yaml.AliasEvent):
            raise _Refused(place, f"the alias *{event.anchor} is not followed; write the value out")
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise _Refused(place, "a second document starts here; a config is one document")
        if getattr(event, "tag", None) is not None:
            raise _Refused(place, "tags are not read; remove it, quotes make a string")
        if isinstance(event, yaml.ScalarEvent):
            style = Style.PLAIN if event.style is None else Style.QUOTED
            self._close(scalar_of(event.value, place, style))
        elif isinstance(event, yaml.CollectionStartEvent):
            if len(self._open) >= MAX_DEPTH:
                raise _Refused(place, f"it is nested deeper than {MAX_DEPTH} levels; a config is flat")
            self._open.append(_Open(place, isinstance(event, yaml.MappingStartEvent), []))
        elif isinstance(event, yaml.CollectionEndEvent):
            self._close(self._collect(self._open.pop()))

    def _close(self, node: Node) -> None:
        if self._open:
            self._open[-1].children.append(node)
        else:
            self.root = node

    def _collect(self, ended: _Open) -> Node:
        if not ended.is_mapping:
            return Sequence(ended.place, tuple(ended.children))
        pairs = zip(ended.children[::2], ended.children[1::2], strict=True)
        return Mapping(ended.place, tuple(self._entries(pairs)))

    def _entries(self, pairs: Iterator[tuple[Node, Node]]) -> Iterator[Entry]:
        seen: dict[str, int] = {}
        for key, value in pairs:
            if not isinstance(key, Scalar):
                self._problems.append(Problem(key.place, "a key is a word; write it plain"))
            elif key.text in seen:
                message = f"duplicate key {key.text!r}, first in line {seen[key.text]}; remove one of them"
                self._problems.append(Problem(key.place, message))
            else:
                seen[key.text] = key.place.line
                yield Entry(key, value)


CURES = (
    ("cannot start any token", "write it in quotes"),
    ("mapping values are not allowed", "check the indentation; a value that holds ': ' needs quotes"),
    ("could not find expected ':'", "a key needs a colon and a space, key: value"),
    ("expected ',' or", "close the bracket; ${VAR} within brackets needs quotes"),
    ("end of stream", "close the quote or the bracket"),
    ("expected <block end>", "check the indentation; keys of one mapping stand in one column"),
)


def _syntax_problem(error: yaml.YAMLError, text: str, source: Source) -> Problem:
    if isinstance(error, yaml.reader.ReaderError):
        before = LINE_BREAK.split(text[: error.position])
        place = Place(source, len(before), len(before[-1]) + 1)
        return Problem(place, f"the character U+{ord(text[error.position]):04X} is not allowed; remove it")
    cause = getattr(error, "problem", None) or str(error)
    place = _place_of(getattr(error, "problem_mark", None), source)
    if "'\\t'" in cause:
        return Problem(place, "a tab cannot indent YAML; use spaces")
    cure = next((cure for sign, cure in CURES if sign in cause), "check quotes, colons and indentation")
    opened = getattr(error, "context_mark", None)
    if opened is not None and opened.line + 1 != place.line:
        cause = f"{cause} ({getattr(error, 'context', None)} from line {opened.line + 1})"
    return Problem(place, f"not YAML, {cause}; {cure}")
