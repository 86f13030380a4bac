"""Values of JSON made into dataclasses, by their annotations.

Knows: the types that JSON has, unions, lists and dicts of them, dataclasses. Does not know: other types: msgspec
and pydantic do.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

Convert = Callable[[Any], Any]

WORDS = {dict: "object", list: "list", str: "string", bool: "boolean", type(None): "null", int: "number"}
SHOWN_KEY = 40


class Unknown(Exception):
    """A type that JSON does not have."""


class Conversion:
    """Converters of types, each made once, so that a dataclass may speak of itself."""

    def __init__(self) -> None:
        self._objects: dict[Any, Convert] = {}

    def of(self, hint: Any) -> Convert:
        """Return what converts a value to an annotated type, or raises ValueError or TypeError.

        Raises:
            Unknown: no value of JSON can be of this type.
        """
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if hint in (Any, object):
            return lambda value: value
        if is_dataclass(hint) and isinstance(hint, type):
            return self._of_dataclass(hint)
        if hint in (None, type(None), str, bool, int, float):
            return _of_plain(type(None) if hint is None else hint)
        if origin in (typing.Union, types.UnionType):
            return _first_of([self.of(option) for option in arguments])
        if origin is typing.Literal:
            return _of_choice(arguments)
        if origin is typing.Annotated:
            return self.of(arguments[0])
        if origin in (list, dict) or hint in (list, dict):
            return self._of_container(origin or hint, arguments)
        raise Unknown(f"{hint} is a type that JSON does not have")

    def _of_container(self, kind: Any, arguments: tuple[Any, ...]) -> Convert:
        check = _of_plain(kind)
        if not arguments:
            return check
        item = self.of(arguments[-1])
        if kind is list:
            return lambda value: [item(one) for one in check(value)]
        if arguments[0] is not str:
            raise Unknown(f"a dict of {arguments[0]} is a type that JSON does not have")
        return lambda value: {name: item(one) for name, one in check(value).items()}

    def _of_dataclass(self, target: Any) -> Convert:
        if target not in self._objects:
            self._objects[target] = lambda value: self._objects[target](value)  # until it is made
            self._objects[target] = self._made_of(target)
        return lambda value: self._objects[target](value)

    def _made_of(self, target: Any) -> Convert:
        hints = typing.get_type_hints(target)
        known = [field for field in fields(target) if field.init]
        converters = {field.name: self.of(hints[field.name]) for field in known}
        needed = [field.name for field in known if field.default is field.default_factory is MISSING]
        check = _of_plain(dict)

        def convert(value: Any) -> Any:
            given = check(value)
            for name in given:
                if name not in converters:
                    raise ValueError(f"unknown key {name[:SHOWN_KEY]!r}; known are {', '.join(converters)}")
            missing = [name for name in needed if name not in given]
            if missing:
                raise ValueError(f"missing: {', '.join(missing)}")
            return target(**{name: _within(name, converters[name], item) for name, item in given.items()})

        return convert


def _within(name: str, convert: Convert, value: Any) -> Any:
    try:
        return convert(value)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: {error}") from error


def _of_plain(kind: Any) -> Convert:
    allowed = (int, float) if kind is float else (kind,)
    wanted = "number" if kind is float else "whole number" if kind is int else WORDS[kind]

    def convert(value: Any) -> Any:
        if type(value) not in allowed:  # True is an int, and no number
            raise TypeError(f"is a {WORDS.get(type(value), 'number')}, not a {wanted}")
        return value

    return convert


def _of_choice(choices: tuple[Any, ...]) -> Convert:
    def convert(value: Any) -> Any:
        if not any(value == choice and type(value) is type(choice) for choice in choices):
            raise ValueError(f"is none of {', '.join(map(repr, choices))}")
        return value

    return convert


def _first_of(options: list[Convert]) -> Convert:
    def convert(value: Any) -> Any:
        reasons = []
        for option in options:
            try:
                return option(value)
            except (ValueError, TypeError) as error:
                reasons.append(str(error))
        raise ValueError(" and ".join(dict.fromkeys(reasons)))

    return convert
