"""What checks a message: a function, a dataclass, or a model of msgspec or pydantic.

Knows: how each of them is asked. Does not know: where messages come from.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import is_dataclass
from importlib import import_module
from typing import Any

from prefork.errors import ConfigError
from prefork.framing.conversion import Conversion, Unknown


def build_check(target: Any, name: str) -> Callable[[Any], Any]:
    """Return a function that gives the checked message, or raises.

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
    if is_dataclass(target) and isinstance(target, type):
        try:
            return Conversion().of(target)
        except Unknown as error:
            raise ConfigError([f"cannot check messages with {name}: {error}; use msgspec or pydantic"]) from error
    reason = _unfit(target)
    if reason:
        raise ConfigError([f"cannot check messages with {name}: it is {reason}; write def f(message)"])
    return target  # type: ignore[no-any-return]


def _unfit(target: Any) -> str:
    if not callable(target):
        return f"a {type(target).__name__}"
    if inspect.iscoroutinefunction(target):
        return "a coroutine function, and nobody awaits it"
    if typing.is_typeddict(target):
        return "a TypedDict, which checks nothing"
    try:
        inspect.signature(target).bind(None)
    except TypeError:
        return "not to be called with one argument"
    except ValueError:  # built in C, without a signature
        pass
    return ""


def _of_msgspec(target: Any) -> Callable[[Any], Any]:
    msgspec = import_module("msgspec")

    def check(value: Any) -> Any:
        try:
            return msgspec.convert(value, target)
        except msgspec.ValidationError as error:
            raise ValueError(str(error)) from error

    return check
