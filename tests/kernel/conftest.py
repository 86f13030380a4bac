"""Fixtures of the kernel tests.

Knows: pytest, listening sockets. Does not know: what a test is about.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel import correspondents, serving
from tests.kernel.certificates import Credentials, certify
from tests.kernel.serving import Listening


@pytest.fixture(scope="session")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    """A certificate for 127.0.0.1, and a client's trust in it."""
    return certify(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(params=serving.FAMILIES)
def listening(request: pytest.FixtureRequest, tmp_path: Path, credentials: Credentials) -> Iterator[Listening]:
    """A listening socket of each family in turn."""
    with serving.listen(request.param, tmp_path, credentials=credentials) as sock:
        yield sock


@pytest.fixture(params=[family for family in serving.FAMILIES if family != "tls"])
def plain(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Listening]:
    """A listening socket of each family on which we can half-close: TLS's goodbye ends both directions."""
    with serving.listen(request.param, tmp_path) as sock:
        yield sock


@pytest.fixture(params=["tcp", "tls"])
def inet(request: pytest.FixtureRequest, tmp_path: Path, credentials: Credentials) -> Iterator[Listening]:
    """A listening socket of TCP, without and with TLS: what is about resets, queues and buffers of TCP."""
    with serving.listen(request.param, tmp_path, credentials=credentials) as sock:
        yield sock


@pytest.fixture
def tcp(tmp_path: Path) -> Iterator[Listening]:
    """A listening TCP socket."""
    with serving.listen("tcp", tmp_path) as sock:
        yield sock


@pytest.fixture
def tls(tmp_path: Path, credentials: Credentials) -> Iterator[Listening]:
    """A listening TCP socket on which TLS is spoken."""
    with serving.listen("tls", tmp_path, credentials=credentials) as sock:
        yield sock


@pytest.fixture(params=correspondents.FAMILIES)
def bound(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    """A bound datagram socket of each family in turn."""
    with correspondents.bind(request.param, tmp_path) as sock:
        yield sock


@pytest.fixture
def unixgram(tmp_path: Path) -> Iterator[socket.socket]:
    """A bound datagram socket whose peers can be full: on a unix socket the sender is told so."""
    with correspondents.bind("unixgram", tmp_path) as sock:
        yield sock
