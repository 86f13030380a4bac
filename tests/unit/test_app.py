"""What an app is, found out by looking at it, and what is said about one that is nothing that can be served."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefork.app import AppKind, import_app, is_coroutine_function, recognise
from prefork.errors import ConfigError


async def one(conn: Any) -> None: ...
async def two(reader: Any, writer: Any) -> None: ...
async def none() -> None: ...
async def three(a: Any, b: Any, c: Any) -> None: ...
async def with_defaults(conn: Any, greeting: str = "hi", *, shout: bool = False) -> None: ...
async def anything(*args: Any) -> None: ...


def plain(conn: Any) -> None: ...
def factory() -> asyncio.Protocol:
    return asyncio.Protocol()


class Protocol(asyncio.Protocol): ...


class Buffered(asyncio.BufferedProtocol): ...


class Unrelated: ...


class Handler:
    async def __call__(self, conn: Any) -> None: ...

    async def method(self, reader: Any, writer: Any) -> None: ...

    @staticmethod
    async def static(conn: Any) -> None: ...

    @classmethod
    async def of_class(cls, conn: Any) -> None: ...


class Factory:
    def __call__(self) -> asyncio.Protocol:
        return asyncio.Protocol()


GOOD: dict[str, tuple[Any, AppKind]] = {
    "async def of one": (one, AppKind.CONNECTION),
    "async def of two": (two, AppKind.STREAMS),
    "with defaults": (with_defaults, AppKind.CONNECTION),
    "a partial of two": (functools.partial(two, None), AppKind.CONNECTION),
    "a partial by keyword": (functools.partial(with_defaults, greeting="hello"), AppKind.CONNECTION),
    "an object with async __call__": (Handler(), AppKind.CONNECTION),
    "a bound method": (Handler().method, AppKind.STREAMS),
    "a static method": (Handler.static, AppKind.CONNECTION),
    "a class method": (Handler.of_class, AppKind.CONNECTION),
    "a protocol class": (Protocol, AppKind.PROTOCOL),
    "a buffered protocol class": (Buffered, AppKind.PROTOCOL),
    "a factory": (factory, AppKind.FACTORY),
    "a lambda": (lambda: Protocol(), AppKind.FACTORY),
    "a partial of a class": (functools.partial(Protocol), AppKind.FACTORY),
    "a callable object": (Factory(), AppKind.FACTORY),
}
BAD: dict[str, tuple[Any, str]] = {
    "async def of none": (none, "0 arguments"),
    "async def of three": (three, "3 arguments"),
    "a plain function": (plain, "async def"),
    "a class": (Unrelated, "not an asyncio.Protocol"),
    "a handler's class": (Handler, "not an asyncio.Protocol"),
    "a string": ("echo", "a str, not a handler"),
    "a module": (asyncio, "a module, not a handler"),
    "None": (None, "NoneType"),
}


@pytest.mark.parametrize(("app", "kind"), GOOD.values(), ids=GOOD)
def test_an_app_is_recognised_by_looking_at_it(app: Any, kind: AppKind) -> None:
    assert recognise(app, "m:a") is kind


@pytest.mark.parametrize(("app", "words"), BAD.values(), ids=BAD)
def test_what_cannot_be_served_is_refused_with_what_it_is(app: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        recognise(app, "m:a")
    assert "m:a" in str(caught.value)


def test_a_partial_of_a_coroutine_function_is_one() -> None:
    assert is_coroutine_function(functools.partial(two, None))
    assert not is_coroutine_function(functools.partial(plain))


def write(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.py").write_text(text)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of apps whose modules are forgotten after the test."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_an_app_is_imported_from_the_given_folders_first(folder: Path) -> None:
    write(folder, "json_app_", "class Inner:\n    app = 'found'\n")
    assert import_app("json_app_:Inner.app", (str(folder),)) == "found"


CASES = {
    "a missing module": ("", "no_such_app_:x", "there is no module no_such_app_"),
    "a missing module of another": ("import no_such_library_", "broken_app_:x", "ModuleNotFoundError"),
    "a missing attribute": ("x = 1", "broken_app_:y", "AttributeError"),
    "a syntax error": ("def f(:", "broken_app_:x", "broken_app_.py:1:7: SyntaxError"),
    "an exception": ("1 / 0", "broken_app_:x", "ZeroDivisionError: division by zero"),
    "sys.exit": ("import sys; sys.exit(3)", "broken_app_:x", "SystemExit: 3"),
}


@pytest.mark.parametrize(("text", "name", "words"), CASES.values(), ids=CASES)
def test_an_app_that_cannot_be_imported_is_named_with_the_cause(
    folder: Path, text: str, name: str, words: str
) -> None:
    write(folder, "broken_app_", text)
    with pytest.raises(ConfigError) as caught:
        import_app(name, (str(folder),))
    assert words in str(caught.value)
    assert name in str(caught.value)
    assert caught.value.__cause__ is not None
