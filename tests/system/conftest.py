"""Fixtures of the system tests.

Knows: pytest, the running server. Does not know: what a test is about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.system.running import ECHO, Running

Prepare = Callable[..., Running]


@pytest.fixture
def prepare(tmp_path: Path) -> Iterator[Prepare]:
    """Prepare a server: `prepare(files={"app.py": …}, workers=4)`; it is checked and ended with the test."""
    made: list[Running] = []

    def _prepare(files: Mapping[str, str] | None = None, **config: Any) -> Running:
        folder = tmp_path / f"server{len(made)}"
        folder.mkdir()
        running = Running(folder, config, {"app.py": ECHO, **(files or {})})
        made.append(running)
        return running

    with ExitStack() as stack:
        for_each = stack.callback
        yield _prepare
        for running in made:
            for_each(running.finish)  # all of them, though one fails


@pytest.fixture
def server(prepare: Prepare) -> Running:
    """An echo server of two workers, ready."""
    return prepare().start()
