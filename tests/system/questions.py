"""The control socket asked by hand: several questions on one connection, bytes that are no question.

Knows: the language of the control socket. Does not know: what the commands do.
"""

from __future__ import annotations

import socket
from pathlib import Path
from types import TracebackType
from typing import Any

from prefork.wire import ANSWER_BYTES, pack, unpack


class Questions:
    """One connection to the control socket."""

    def __init__(self, path: Path, timeout: float = 20.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        self._socket.connect(str(path))
        self._input = bytearray()
        self._answers: list[dict[str, Any]] = []

    def __enter__(self) -> Questions:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def ask(self, number: Any, command: str, **arguments: Any) -> None:
        """Ask, and wait for nothing."""
        self.send(pack({"id": number, "command": command, "arguments": arguments}))

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def take(self) -> dict[str, Any] | None:
        """Return the next answer, whichever question it is for; None when the server hangs up."""
        while not self._answers:
            try:
                data = self._socket.recv(65_536)
            except ConnectionResetError:
                data = b""
            if not data:
                return None
            self._input += data
            self._answers += unpack(self._input, ANSWER_BYTES)
        return self._answers.pop(0)

    def answer(self, command: str, **arguments: Any) -> Any:
        """Ask, and return the result; nothing else may be under way."""
        self.ask(command, command, **arguments)
        answer = self.take()
        assert answer is not None, "the server hung up"
        assert answer["id"] == command, answer
        return answer.get("result", answer.get("error"))

    def settle(self) -> None:
        """Wait for two turns of the master's loop: it has then seen who had hung up before."""
        self.answer("health")
        self.answer("health")
