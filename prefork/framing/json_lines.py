"""JSON, one value a line, each checked before a handler sees it.

What is no JSON, or not what the check wants, costs its sender one frame: it is answered by `{"error": …}`, and
the connection goes on.

Knows: JSON (RFC 8259), checks. Does not know: connections, what a message means.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
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

    def __post_init__(self) -> None:
        self.decoder()

    def decoder(self) -> JsonDecoder:
        return JsonDecoder(self)

    def encode(self, frame: Any) -> bytes:
        try:
            text = json.dumps(frame, ensure_ascii=False, separators=(",", ":"), default=plain, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise LocalProtocolError(f"cannot send a {type(frame).__name__} as JSON: {error}") from error
        return encode_text(text) + b"\n"


def encode_text(text: str) -> bytes:
    """Return JSON as UTF-8; half of a surrogate pair, which JSON may hold and UTF-8 may not, is escaped."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return "".join(f"\\u{ord(c):04x}" if "\ud800" <= c <= "\udfff" else c for c in text).encode()


def plain(value: Any) -> Any:
    """Return what JSON can express of a value that it does not know.

    Raises:
        TypeError: it is neither a dataclass, nor a model of pydantic or msgspec.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json", by_alias=True)
    if hasattr(value, "__struct_fields__"):
        return import_module("msgspec").to_builtins(value)
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
    def has_begun(self) -> bool:
        return self._lines.has_begun

    @property
    def refusal(self) -> RemoteProtocolError | None:
        return self._lines.refusal

    def feed(self, data: bytes) -> list[Any]:
        """Return the values that are whole now, see `Decoder.feed`; empty lines are none."""
        return [self._read(line) for line in self._lines.feed(data) if type(line) is Complaint or line.strip()]

    def _read(self, line: Any) -> Any:
        if type(line) is Complaint:
            return Complaint(line.reason, TOO_LONG if line.answer else b"", is_over=True)
        try:
            value = DECODER.decode(line.decode())
        except (ValueError, RecursionError):
            return NO_JSON
        check = self._framing.check
        if check is None:
            return value
        try:
            return check(value)
        except Exception as error:  # noqa: BLE001  # user code, and what it stumbles over is the peer's
            is_told = isinstance(error, ValueError | TypeError)
            told = " ".join(str(error).split()) if is_told else ""
            reason = f"cannot read a line: the check refuses it, {type(error).__name__}"
            answer = tell(told or "it is not as it should be")
            return Complaint(reason, answer, None if is_told else error)


def read_finite(text: str) -> float:
    """Return a number with a fraction or an exponent.

    Raises:
        ValueError: it is larger than a float can be.
    """
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"a number of {len(text)} characters is too large")
    return number


def refuse_constant(name: str) -> None:
    """Refuse what Python reads and JSON does not have.

    Raises:
        ValueError: always.
    """
    raise ValueError(f"{name} is not JSON")


def tell(reason: str) -> bytes:
    """Return an error frame: one line, of bounded size, whatever the reason holds."""
    return json.dumps({"error": UNSAFE.sub("?", reason[:MAX_REASON])}).encode() + b"\n"


UNSAFE = re.compile(r'[^ -~]|["\\]')
DECODER = json.JSONDecoder(parse_constant=refuse_constant, parse_float=read_finite)
NO_JSON = Complaint("cannot read a line: it is no JSON", tell("this is no JSON"))
TOO_LONG = tell("line is too long")
