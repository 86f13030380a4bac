"""JSON, one value a line, each checked before a handler sees it.

What is no JSON, or not what the check wants, costs its sender one frame: it is answered by `{"error": …}`, and
the connection goes on.

Knows: JSON (RFC 8259), checks. Does not know: connections, what a message means.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prefork.errors import LocalProtocolError, RemoteProtocolError
from prefork.framing.decoder import Complaint, Over
from prefork.framing.lines import LineDecoder, Lines

MAX_REASON = 200  # characters; a check may quote what it was given


@dataclass(frozen=True, slots=True)
class JsonLines:
    """Frames that are JSON values, each on a line.

    Args:
        max_bytes: the longest line.
        check: called with each value; what it returns is the frame, what it raises (ValueError, TypeError) is
            told to the sender. None: any value is good.
        over: what becomes of a longer line.
    """

    max_bytes: int = 65_536
    check: Callable[[Any], Any] | None = None
    over: Over = Over.CLOSE

    def decoder(self) -> JsonDecoder:
        return JsonDecoder(self)

    def encode(self, frame: Any) -> bytes:
        try:
            return json.dumps(frame, ensure_ascii=False, separators=(",", ":"), default=plain).encode() + b"\n"
        except (TypeError, ValueError) as error:
            raise LocalProtocolError(f"cannot send a {type(frame).__name__} as JSON: {error}") from error


def plain(value: Any) -> Any:
    """Return what JSON can express of a value that it does not know.

    Raises:
        TypeError: it is neither a dataclass, nor a model of pydantic or msgspec.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if hasattr(value, "__struct_fields__"):
        return {name: getattr(value, name) for name in value.__struct_fields__}
    raise TypeError(f"a {type(value).__name__} has no form in JSON")


class JsonDecoder:
    """Cuts a stream into lines, and reads them."""

    __slots__ = ("_framing", "_lines")

    def __init__(self, framing: JsonLines) -> None:
        self._framing = framing
        self._lines: LineDecoder = Lines(framing.max_bytes, over=framing.over).decoder()

    @property
    def pending(self) -> int:
        return self._lines.pending

    @property
    def refusal(self) -> RemoteProtocolError | None:
        return self._lines.refusal

    def feed(self, data: bytes) -> list[Any]:
        """Return the values that are whole now, see `Decoder.feed`; empty lines are none."""
        return [self._read(line) for line in self._lines.feed(data) if type(line) is Complaint or line.strip()]

    def _read(self, line: Any) -> Any:
        if type(line) is Complaint:
            return Complaint(line.reason, self._tell("line is too long") if line.answer else b"")
        try:
            value = json.loads(line, parse_constant=refuse_constant)
        except (ValueError, RecursionError):
            return Complaint("cannot read a line: it is no JSON", self._tell("this is no JSON"))
        check = self._framing.check
        if check is None:
            return value
        try:
            return check(value)
        except (ValueError, TypeError) as error:
            reason = " ".join(str(error).split())[:MAX_REASON] or type(error).__name__
            return Complaint("cannot read a line: the check refuses it", self._tell(reason))

    def _tell(self, reason: str) -> bytes:
        return json.dumps({"error": reason}).encode() + b"\n"


def refuse_constant(name: str) -> None:
    """Refuse what Python reads and JSON does not have.

    Raises:
        ValueError: always.
    """
    raise ValueError(f"{name} is not JSON")
