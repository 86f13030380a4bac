"""The client's end of the control socket: a Unix stream of JSON messages, each after its length in 4 bytes.

Knows: the frame, the ids, the answer's shape, and what `status` says.
Does not know: how the server is started, or what the answers are used for.
"""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_LENGTH = struct.Struct("!I")


class ControlError(Exception):
    """The server refused the command, or does not answer."""


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One worker as the server shows it."""

    slot: int
    pid: int
    generation: int
    state: str
    connections: int


@dataclass(frozen=True, slots=True)
class Status:
    """The answer to `status`, as far as scenarios use it; `cut` counts connections that outlasted a drain."""

    pid: int
    generation: int
    target: int
    workers: tuple[WorkerStatus, ...]
    ports: dict[str, int]
    verdict: str
    cut: int

    @property
    def ready(self) -> list[WorkerStatus]:
        return [worker for worker in self.workers if worker.state == "ready"]

    @property
    def connections(self) -> int:
        return sum(worker.connections for worker in self.workers)

    @property
    def is_settled(self) -> bool:
        """Whether all wanted workers, and no others, are there: ready, and of the newest generation."""
        return len(self.workers) == len(self.ready) == self.target and {
            worker.generation for worker in self.workers
        } <= {self.generation}

    @classmethod
    def from_result(cls, result: dict[str, Any]) -> Status:
        names = ("slot", "pid", "generation", "state", "connections")
        workers = tuple(WorkerStatus(*(w[name] for name in names)) for w in result["workers"])
        ports = {
            listener["name"]: int(listener["bind"].rpartition(":")[2])
            for listener in result["listeners"]
            if not listener["bind"].startswith("unix")
        }
        last = result.get("last_reload") or {}
        verdict, cut = str(last.get("verdict")), int(result["counters"]["cut"])
        return cls(result["pid"], result["generation"], result["target"], workers, ports, verdict, cut)


class Control:
    """One connection to the control socket."""

    def __init__(self, path: Path, timeout: float = 5.0) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.settimeout(timeout)
        self._sequence = 0
        try:
            self._sock.connect(str(path))
        except OSError as error:
            self._sock.close()
            raise ControlError(f"cannot reach {path}: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sock.close()

    def ask(self, command: str, **arguments: str) -> dict[str, Any]:
        """Send a command and return its result."""
        self._sequence += 1
        question = json.dumps({"id": self._sequence, "command": command, "arguments": arguments}).encode()
        try:
            self._sock.sendall(_LENGTH.pack(len(question)) + question)
            (length,) = _LENGTH.unpack(self._read(_LENGTH.size))
            answer = json.loads(self._read(length))
        except OSError as error:
            raise ControlError(f"no answer to {command}: {error}") from error
        if answer.get("id") != self._sequence:
            raise ControlError(f"the answer to {command} has the id {answer.get('id')}, not {self._sequence}")
        if not answer.get("ok"):
            raise ControlError(f"{command} was refused: {answer.get('error')}")
        result: dict[str, Any] = answer["result"]
        return result

    def status(self) -> Status:
        return Status.from_result(self.ask("status"))

    def _read(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            chunk = self._sock.recv(length - len(data))
            if not chunk:
                raise ControlError("the control connection was closed within an answer")
            data += chunk
        return data
