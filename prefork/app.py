"""What an `app:` names: finds it, and finds out which kind it is by looking at it.

Knows: import, signatures, asyncio's classes. Does not know: sockets, connections, processes.
"""

from __future__ import annotations

import asyncio
import enum
import inspect
import sys
from importlib import import_module
from typing import Any

from prefork.errors import ConfigError


class AppKind(enum.Enum):
    """The kinds of apps of a stream listener; the values are what `prefork check` says."""

    CONNECTION = "a coroutine handler, async def f(conn)"
    STREAMS = "a coroutine handler, async def f(reader, writer)"
    PROTOCOL = "an asyncio protocol class"
    FACTORY = "a factory of asyncio protocols"


def import_app(name: str, directories: tuple[str, ...]) -> Any:
    """Import `module:attribute`.

    Args:
        directories: put in front of `sys.path`, best first, and left there.

    Raises:
        ConfigError: the module or the attribute does not exist, or the import raised; that is the cause.
    """
    for directory in reversed(directories):
        if directory not in sys.path:
            sys.path.insert(0, directory)
    module_name, _, attribute = name.partition(":")
    try:
        found: Any = import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:
        raise ConfigError([f"cannot import app {name}: {_describe(error, module_name, directories)}"]) from error
    return found


def _describe(error: BaseException, module_name: str, directories: tuple[str, ...]) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name and module_name.startswith(error.name):
        return f"there is no module {error.name} in {', '.join(directories)} or on the Python path"
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}:{error.offset}: {type(error).__name__}: {error.msg}"
    return f"{type(error).__name__}: {error}".rstrip(": ")


def recognise(app: Any, name: str) -> AppKind:
    """Return the kind of an app.

    Raises:
        ConfigError: it is none of them; the message says what it is, and what it should be.
    """
    if inspect.isclass(app):
        if issubclass(app, asyncio.Protocol | asyncio.BufferedProtocol):
            return AppKind.PROTOCOL
        raise ConfigError([f"cannot serve app {name}: the class {app.__name__} is not an asyncio.Protocol"])
    if not callable(app):
        kind = type(app).__name__
        raise ConfigError([f"cannot serve app {name}: it is a {kind}, not a handler; write async def f(conn)"])
    count = _count_required(app)
    if is_coroutine_function(app):
        kinds = {1: AppKind.CONNECTION, 2: AppKind.STREAMS}
        if count not in kinds:
            raise ConfigError(
                [f"cannot serve app {name}: it takes {count} arguments, a handler (conn) or (reader, writer)"]
            )
        return kinds[count]
    if count == 0:
        return AppKind.FACTORY
    raise ConfigError(
        [f"cannot serve app {name}: it is a plain function of {count} arguments; a handler is async def"]
    )


def is_coroutine_function(app: Any) -> bool:
    """Whether calling it gives a coroutine: an async def, or an object whose `__call__` is one."""
    return inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(type(app).__call__)


def _count_required(app: Any) -> int:
    try:
        parameters = inspect.signature(app).parameters.values()
    except (TypeError, ValueError):  # built in C, without a signature
        return 0
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.default is p.empty and p.kind in positional for p in parameters)
