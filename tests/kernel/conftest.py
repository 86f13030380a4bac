"""Fixtures of the kernel tests.

Knows: pytest, listening sockets. Does not know: what a test is about.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel import serving


@pytest.fixture(params=serving.FAMILIES)
def listening(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    """A listening socket of each family in turn."""
    with serving.listen(request.param, tmp_path) as sock:
        yield sock


@pytest.fixture
def tcp(tmp_path: Path) -> Iterator[socket.socket]:
    """A listening TCP socket."""
    with serving.listen("tcp", tmp_path) as sock:
        yield sock
