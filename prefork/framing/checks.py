"""What checks a message: a function, a dataclass, or a model of msgspec or pydantic.

Knows: how each of them is asked. Does not know: where messages come from.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from importlib import import_module
from typing import Any

from prefork.errors import ConfigError


def build_check(target: Any, name: str) -> Callable[[Any], Any]:
    """Return a function that gives the checked message, or raises ValueError or TypeError.

    Args:
        target: what the config names.
        name: for messages.

    Raises:
        ConfigError: it cannot check anything.
    """
    if hasattr(target, "model_validate"):
        validate: Callable[[Any], Any] = target.model_validate
        return validate
    if hasattr(target, "__struct_fields__"):
        return _of_msgspec(target)
    if dataclasses.is_dataclass(target) and isinstance(target, type):
        return _of_dataclass(target)
    if callable(target):
        return target  # type: ignore[no-any-return]
    raise ConfigError([f"cannot check messages with {name}: it is a {type(target).__name__}; write a function"])


def _of_msgspec(target: Any) -> Callable[[Any], Any]:
    msgspec = import_module("msgspec")

    def check(value: Any) -> Any:
        try:
            return msgspec.convert(value, target)
        except msgspec.ValidationError as error:
            raise ValueError(str(error)) from error

    return check


def _of_dataclass(target: Any) -> Callable[[Any], Any]:
    hints = typing.get_type_hints(target)
    fields = [field for field in dataclasses.fields(target) if field.init]
    names = {field.name for field in fields}
    nested = {name: _of_dataclass(hint) for name, hint in hints.items() if dataclasses.is_dataclass(hint)}

    def check(value: Any) -> Any:
        if not isinstance(value, dict):
            raise TypeError(f"it is a {_word(value)}, not an object")
        for name in value:
            if name not in names:
                raise ValueError(f"unknown key {name[:40]!r}; known are {', '.join(sorted(names))}")
        given = {name: nested[name](item) if name in nested else item for name, item in value.items()}
        for name, item in given.items():
            if not _fits(item, hints[name]):
                raise TypeError(f"{name} is a {_word(item)}, not a {_name(hints[name])}")
        missing = names - set(given)
        wanted = [f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING]
        if missing & set(wanted):
            raise ValueError(f"{', '.join(sorted(missing & set(wanted)))} is missing")
        return target(**given)

    return check


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is what an annotation says; of containers only the outer type is looked at."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(hint))
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    wanted = origin or hint
    if not isinstance(wanted, type):
        return True
    if wanted is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool) or wanted is object)


def _word(value: Any) -> str:
    return type(value).__name__


def _name(hint: Any) -> str:
    return getattr(hint, "__name__", None) or str(hint)
