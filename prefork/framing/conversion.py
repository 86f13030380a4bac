"""Values of JSON made into dataclasses, by their annotations.

Knows: the types that JSON has, unions, lists and dicts of them, dataclasses. Does not know: other types: msgspec
and pydantic do.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any

Convert = Callable[[Any], Any]

WORDS = {
    dict: "object",
    list: "list",
    str: "string",
    bool: "boolean",
    type(None): "null",
    int: "whole number",
    float: "number",
}
KINDS = frozenset(WORDS)
SHOWN_KEY = 40


class Unknown(Exception):
    """A type that JSON does not have, or a union in which a value does not say what it is."""


@dataclass(frozen=True, slots=True)
class Option:
    """What converts values of some of JSON's types."""

    kinds: frozenset[type]
    convert: Convert
    word: str

    def __call__(self, value: Any) -> Any:
        """Convert a value, or raise ValueError or TypeError."""
        if type(value) not in self.kinds:  # True is an int, and no number
            raise TypeError(f"is a {WORDS[type(value)]}, not a {self.word}")
        return self.convert(value)


class Conversion:
    """Converters of types, each made once, so that a dataclass may speak of itself."""

    def __init__(self) -> None:
        self._objects: dict[Any, Convert] = {}

    def of(self, hint: Any) -> Option:
        """Return what converts a value to an annotated type.

        Raises:
            Unknown: no value of JSON can be of this type, or it cannot be told which of several.
        """
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if hint in (Any, object):
            return Option(KINDS, _same, "value")
        if is_dataclass(hint) and isinstance(hint, type):
            return Option(frozenset({dict}), self._of_dataclass(hint), hint.__name__)
        if hint in (None, type(None), str, bool, int, float):
            return _of_plain(type(None) if hint is None else hint)
        if origin in (typing.Union, types.UnionType):
            return _one_of([self.of(option) for option in arguments])
        if origin is typing.Literal:
            return _of_choice(arguments)
        if origin is typing.Annotated:
            return self.of(arguments[0])
        if origin in (list, dict) or hint in (list, dict):
            return self._of_container(origin or hint, arguments)
        raise Unknown(f"{hint} is a type that JSON does not have")

    def _of_container(self, kind: Any, arguments: tuple[Any, ...]) -> Option:
        if not arguments:
            return _of_plain(kind)
        if kind is dict and arguments[0] is not str:
            raise Unknown(f"a dict of {arguments[0]} is a type that JSON does not have")
        item = self.of(arguments[-1])
        if kind is list:
            return Option(frozenset({list}), lambda value: [item(one) for one in value], "list")
        return Option(frozenset({dict}), lambda value: {name: item(one) for name, one in value.items()}, "object")

    def _of_dataclass(self, target: Any) -> Convert:
        if target not in self._objects:
            self._objects[target] = _same  # until it is made: a dataclass may speak of itself
            self._objects[target] = self._made_of(target)
        return lambda value: self._objects[target](value)

    def _made_of(self, target: Any) -> Convert:
        try:
            hints = typing.get_type_hints(target)
        except NameError as error:
            raise Unknown(f"{target.__name__} has an annotation that is not there at run time: {error}") from error
        known = [field for field in fields(target) if field.init]
        options = {field.name: self.of(hints[field.name]) for field in known}
        needed = [field.name for field in known if field.default is field.default_factory is MISSING]

        def convert(given: Any) -> Any:
            for name in given:
                if name not in options:
                    raise ValueError(f"unknown key {name[:SHOWN_KEY]!r}; known are {', '.join(options)}")
            missing = [name for name in needed if name not in given]
            if missing:
                raise ValueError(f"missing: {', '.join(missing)}")
            return target(**{name: _within(name, options[name], item) for name, item in given.items()})

        return convert


def _same(value: Any) -> Any:
    return value


def _within(name: str, option: Option, value: Any) -> Any:
    try:
        return option(value)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: {error}") from error


def _of_plain(kind: Any) -> Option:
    kinds = frozenset({int, float}) if kind is float else frozenset({kind})
    return Option(kinds, _same, WORDS[kind])


def _of_choice(choices: tuple[Any, ...]) -> Option:
    word = " or ".join(map(repr, choices))

    def convert(value: Any) -> Any:
        if not any(value == choice and type(value) is type(choice) for choice in choices):
            raise ValueError(f"is none of {word}")
        return value

    return Option(frozenset(type(choice) for choice in choices), convert, word)


def _one_of(options: list[Option]) -> Option:
    """Return what converts a value to the one type of a union that it can be of."""
    anything = next((option for option in options if option.kinds == KINDS), None)
    if anything is not None:
        return anything
    chosen: dict[type, Option] = {}
    for option in sorted(options, key=lambda one: one.kinds == {int, float}):  # a whole number is an int first
        for kind in option.kinds:
            if kind in chosen and kind is not int:
                raise Unknown(
                    f"a {WORDS[kind]} does not say whether it is a {chosen[kind].word} or a {option.word}"
                )
            chosen.setdefault(kind, option)
    word = " or ".join(dict.fromkeys(option.word for option in options))
    return Option(frozenset(chosen), lambda value: chosen[type(value)](value), word)
