"""Clients that never rest while a test does something to a server, and who count what went wrong.

Knows: addresses of listeners. Does not know: what is done to the server.
"""

from __future__ import annotations

import socket
import threading
from types import TracebackType

from tests.eventually import eventually


class Storm:
    """Threads that connect, ask once, and close, one connection after the other.

    Attributes:
        done: exchanges that were answered whole.
        failures: what went wrong with the others.
    """

    def __init__(self, port: int, clients: int = 2) -> None:
        self.done = 0
        self.failures: list[str] = []
        self._port = port
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._live, daemon=True) for _ in range(clients)]

    def __enter__(self) -> Storm:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _exchange(self) -> None:
        with socket.create_connection(("127.0.0.1", self._port), timeout=10) as sock:
            sock.sendall(b"x")
            if not sock.recv(100).endswith(b"x"):
                raise EOFError

    def _live(self) -> None:
        while not self._is_over.is_set():
            try:
                self._exchange()
                self.done += 1
            except (OSError, EOFError) as error:
                self.failures.append(f"{type(error).__name__}: {error}")

    def wait_for_more(self, count: int = 20) -> None:
        """Wait until so many further exchanges have ended, well or not."""
        wanted = self.done + len(self.failures) + count
        eventually(lambda: self.done + len(self.failures) >= wanted)
