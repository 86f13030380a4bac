"""For the tests of those who write handlers: a real server on a free port, and a connection in memory.

Knows: the command line, the control socket; a transport without a socket. Does not know: test frameworks.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import yaml

from prefork.client import ask
from prefork.config.limits import Limits
from prefork.errors import BootError, PreforkError
from prefork.framing import Framing
from prefork.net.handler import build_protocol_factory
from prefork.net.loop import Selector
from prefork.net.service import Draining, Service, Worksite
from prefork.net.tally import Tally
from prefork.scoreboard import PAGE_BYTES

BOOT_SECONDS = 30.0
STOP_SECONDS = 15.0


class ServerUnderTest:
    """A running server; `host` and `port` are those of its listener."""

    def __init__(self, control: str, process: subprocess.Popen[bytes]) -> None:
        self._control = control
        self.process = process
        self.host, self.port = "127.0.0.1", 0

    def ask(self, command: str, **arguments: Any) -> Any:
        """Send a command to the control socket and return its result.

        Raises:
            PreforkError: the server refuses, or is gone.
        """
        return ask(self._control, command, arguments, BOOT_SECONDS)

    def connect(self, timeout: float = 10.0) -> socket.socket:
        """Return a connected client socket.

        Args:
            timeout: seconds for the connection and for each step after it.

        Raises:
            OSError: it cannot be connected.
        """
        return socket.create_connection((self.host, self.port), timeout)

    def reload(self) -> Mapping[str, Any]:
        """Reload; return `{"verdict", "reason", "changes"}`."""
        verdict: Mapping[str, Any] = self.ask("reload")
        return verdict

    def wait_ready(self) -> None:
        """Wait until every slot has a worker that serves.

        Raises:
            BootError: it ended before, or took longer than 30 s.
        """
        deadline = time.monotonic() + BOOT_SECONDS
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                if self.ask("health")["ready"]:
                    bind = self.ask("status")["listeners"][0]["bind"]
                    self.port = int(bind.rpartition(":")[2])
                    return
            except PreforkError:  # it does not answer yet
                pass
            time.sleep(0.01)
        raise BootError(f"cannot start the server under test: exit status {self.process.poll()}")


@contextmanager
def serve(app: str, framing: str | Mapping[str, Any] = "raw", **config: Any) -> Iterator[ServerUnderTest]:
    """Run a real server, with its master and workers, on a free port of 127.0.0.1.

    Args:
        app: `module:attribute`, importable by the calling process.
        framing: as in the config file.
        config: further keys of the config file, such as `workers=2`.

    Raises:
        BootError: it does not start; its messages are on standard error.
    """
    with tempfile.TemporaryDirectory(prefix="prefork-") as folder:
        control = os.path.join(folder, "control.sock")
        path = Path(folder, "server.yaml")
        listener = {"name": "test", "bind": "tcp://127.0.0.1:0", "app": app, "framing": framing}
        keys = {"workers": 1, "control": control, "listeners": [listener], "log": {"level": "warning"}, **config}
        path.write_text(yaml.safe_dump(keys))
        process = subprocess.Popen(
            [sys.executable, "-m", "prefork", "run", str(path)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)},
        )
        try:
            server = ServerUnderTest(control, process)
            server.wait_ready()
            yield server
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class MemoryTransport(asyncio.Transport):
    """The server's end of a connection that has no socket."""

    def __init__(self, client: asyncio.StreamReader, framing: Framing | None = None) -> None:
        super().__init__({"peername": "memory", "sockname": "memory"})
        self.peer = "memory"
        self.serial = 1
        self.owes: bool | None = None
        self.held: bytes | None = None
        self.protocol: Any = None
        self._client = client
        self._framing = framing
        self._is_closing = False

    @property
    def is_mid_frame(self) -> bool:
        return bool(getattr(self.protocol, "is_mid_frame", False))

    @property
    def has_answered(self) -> bool:
        return self.owes is False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._is_closing:
            self.owes = False
            self._client.feed_data(bytes(data))

    def write_frame(self, frame: Any) -> None:
        self.write(frame if self._framing is None else self._framing.encode(frame))

    def feed(self, data: bytes) -> None:
        if not self._is_closing:
            self.owes = True
            self.protocol.data_received(data)

    def feed_eof(self) -> None:
        if not self._is_closing and not self.protocol.eof_received():
            self.close()

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._client.feed_eof()
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()

    def is_closing(self) -> bool:
        return self._is_closing

    def pause_reading(self) -> None:
        """Memory has no flow control: what is fed is there already."""

    def resume_reading(self) -> None:
        """Nothing was paused."""


class MemoryClient:
    """The client's end; `reader` is an `asyncio.StreamReader` of what the handler sends."""

    def __init__(self, transport: MemoryTransport, reader: asyncio.StreamReader) -> None:
        self._transport = transport
        self.reader = reader

    async def send(self, data: bytes) -> None:
        """Let bytes arrive at the handler, all at once."""
        asyncio.get_running_loop().call_soon(self._transport.feed, data)
        await asyncio.sleep(0)

    async def end(self) -> None:
        """Half-close: the handler sees the end of its input."""
        asyncio.get_running_loop().call_soon(self._transport.feed_eof)
        await asyncio.sleep(0)


@asynccontextmanager
async def connect(
    app: Any, framing: Framing | None = None, limits: Limits | None = None
) -> AsyncIterator[MemoryClient]:
    """Connect to a handler or protocol in this event loop, without a server and without a socket.

    Args:
        app: what `app:` would name.
        framing: a value such as `prefork.Lines()`; None: raw.
        limits: of the listener; None: the defaults.

    Raises:
        ConfigError: the app is of no kind that can be served.
    """
    selector = Selector()
    page = memoryview(bytearray(PAGE_BYTES)).cast("Q")
    site = Worksite(asyncio.get_running_loop(), selector, Tally(page), Draining(), "memory")
    service = Service("memory", limits or Limits(), framing, site)
    reader = asyncio.StreamReader()
    transport = MemoryTransport(reader, framing)
    transport.protocol = build_protocol_factory(app, service)()
    transport.protocol.connection_made(transport)
    try:
        yield MemoryClient(transport, reader)
    finally:
        transport.close()
        await asyncio.sleep(0)
        selector.close()
