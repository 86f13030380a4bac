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
    """The kinds of apps; the values are what `prefork check` says."""

    CONNECTION = "a coroutine handler, async def f(conn)"
    STREAMS = "a coroutine handler, async def f(reader, writer)"
    PROTOCOL = "an asyncio protocol class"
    FACTORY = "a factory of asyncio protocols"
    DATAGRAM = "a datagram handler, def f(data, peer, reply)"
    ASYNC_DATAGRAM = "a datagram handler, async def f(data, peer, reply)"


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


def recognise(app: Any, name: str, is_datagram: bool = False) -> AppKind:
    """Return the kind of an app.

    Args:
        is_datagram: the listener has datagrams, not connections.

    Raises:
        ConfigError: it is none of them; the message says what it is, and what it should be.
    """
    wanted = asyncio.DatagramProtocol if is_datagram else asyncio.Protocol
    if inspect.isclass(app):
        known = wanted if is_datagram else asyncio.Protocol | asyncio.BufferedProtocol
        if issubclass(app, known):
            return AppKind.PROTOCOL
        raise ConfigError(
            [f"cannot serve app {name}: the class {app.__name__} is not an asyncio.{wanted.__name__}"]
        )
    form = "def f(data, peer, reply)" if is_datagram else "async def f(conn)"
    if not callable(app):
        kind = type(app).__name__
        raise ConfigError([f"cannot serve app {name}: it is a {kind}, not a handler; write {form}"])
    count, is_async = _count_required(app), is_coroutine_function(app)
    kinds = _DATAGRAM_KINDS if is_datagram else _STREAM_KINDS
    if (is_async, count) not in kinds:
        what = "an async" if is_async else "a plain"
        raise ConfigError([f"cannot serve app {name}: it is {what} function of {count} arguments; write {form}"])
    return kinds[is_async, count]


def check_framing(app: Any, kind: AppKind, name: str, is_framed: bool) -> AppKind:
    """Return the kind of an app of a stream listener.

    Raises:
        ConfigError: it cannot have frames, and the listener has a framing.
    """
    reason = ""
    if is_framed and kind is AppKind.STREAMS:
        reason = "a (reader, writer) handler reads bytes, not frames; write async def f(conn), or framing: raw"
    if is_framed and kind is AppKind.PROTOCOL and not hasattr(app, "frame_received"):
        reason = "with a framing it needs a method frame_received(self, frame)"
    if reason:
        raise ConfigError([f"cannot serve app {name}: {reason}"])
    return kind


_STREAM_KINDS = {(True, 1): AppKind.CONNECTION, (True, 2): AppKind.STREAMS, (False, 0): AppKind.FACTORY}
_DATAGRAM_KINDS = {(True, 3): AppKind.ASYNC_DATAGRAM, (False, 3): AppKind.DATAGRAM, (False, 0): AppKind.FACTORY}


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
