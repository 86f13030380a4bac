"""One scalar of the file, read by the kind of its key.

What YAML would silently make of a plain `22:22`, `0600` or `on` is named, with the cure.

Knows: scalar kinds, their bounds, YAML's traps. Does not know: null, lists, sections, files.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from prefork.address import FORMS, parse_address
from prefork.config.document import Scalar, Style, plain_value
from prefork.config.key import Key, Kind
from prefork.config.notation import PATTERNS
from prefork.config.trail import cure_for
from prefork.config.units import format_duration, format_size, parse_duration, parse_percent, parse_size

_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,9})?")
MAX_DELIMITER_BYTES = 16
_MODERN_OCTAL = re.compile(r"0o[0-7]{1,18}")  # of YAML 1.2; for PyYAML, which is 1.1, a string


def read_scalar(scalar: Scalar, key: Key) -> Any:
    """Read a scalar by the kind of its key, which is one of single values.

    Raises:
        ValueError: it is of another kind, or out of the key's bounds; the message names the cure.
    """
    return _READERS[key.kind](scalar, key)


def _trap(scalar: Scalar) -> str:
    """Say what YAML makes of a plain scalar; empty when that is its text."""
    if scalar.style is not Style.PLAIN or scalar.tag == "str":
        return ""
    if scalar.tag in ("timestamp", "null"):
        return f"YAML reads {scalar.text} as {'a date' if scalar.tag == 'timestamp' else 'null'}"
    value = plain_value(scalar)
    if isinstance(value, bool):
        return f"YAML reads {scalar.text} as {str(value).lower()}"
    if str(value) == scalar.text:
        return f"YAML reads {value} as a number"
    digits = scalar.text.lstrip("+-")
    notation = ""
    if ":" in digits:
        notation = " (base 60)"
    elif re.match("0[0-7_]", digits) and "." not in digits:
        notation = " (octal)"
    return f"YAML reads {scalar.text} as the number {value}{notation}"


def _within(value: Any, key: Key, write: Callable[[Any], str] = str) -> Any:
    if key.minimum is not None and value < key.minimum:
        raise ValueError(f"{write(value) if value >= 0 else value} is too small; at least {write(key.minimum)}")
    if key.maximum is not None and value > key.maximum:
        raise ValueError(f"{write(value)} is too large; at most {write(key.maximum)}")
    return value


def _integer(scalar: Scalar, key: Key) -> int:
    if scalar.style is Style.QUOTED:
        raise ValueError(f"{scalar.text!r} is a string; write a whole number, without quotes")
    if _INTEGER.fullmatch(scalar.text):
        return _one_of(int(_within(int(scalar.text), key)), key)
    if _MODERN_OCTAL.fullmatch(scalar.text):
        decimal = int(scalar.text.removeprefix("0o"), 8)
        raise ValueError(f"YAML reads {scalar.text} as a string; write the number in decimal, {decimal}")
    trap = _trap(scalar)
    if trap and not _DECIMAL.fullmatch(scalar.text):
        raise ValueError(f"{trap}; write a whole number in decimal, without leading zeros")
    raise ValueError(f"{scalar.text!r} is not a whole number; write one such as 8")


def _one_of(number: int, key: Key) -> int:
    choices = key.bounds.get("choices")
    if choices and number not in choices:
        raise ValueError(f"{number} cannot be used; known are {', '.join(map(str, choices))}")
    return number


def _number_or_auto(scalar: Scalar, key: Key) -> int | None:
    if scalar.text == "auto":
        return None
    try:
        return _integer(scalar, key)
    except ValueError as error:
        raise ValueError(f"{error}, or auto") from error


def _boolean(scalar: Scalar, _key: Key) -> bool:
    if scalar.style is Style.QUOTED:
        raise ValueError(f"{scalar.text!r} is a string; write true or false, without quotes")
    if scalar.tag != "bool":
        raise ValueError(f"{scalar.text!r} is neither true nor false; write one of these")
    return bool(plain_value(scalar))


def _number_or_text(scalar: Scalar, cure: str) -> str:
    trap = _trap(scalar)
    if trap and not _DECIMAL.fullmatch(scalar.text):
        raise ValueError(f"{trap}; {cure}")
    return scalar.text


def _is_negative(scalar: Scalar) -> bool:
    return scalar.text.startswith("-") and _DECIMAL.fullmatch(scalar.text) is not None


def _duration(scalar: Scalar, key: Key) -> float:
    text = _number_or_text(scalar, "write a duration such as 500ms, 30s, 5m, 2h or 1d")
    if _is_negative(scalar):
        raise ValueError(f"{text} is too small; at least {format_duration(key.minimum or 0.0)}")
    return float(_within(parse_duration(text), key, format_duration))


def _size(scalar: Scalar, key: Key) -> int:
    text = _number_or_text(scalar, "write a size such as 64KiB, 1MiB, 1GiB or 10MB")
    if _is_negative(scalar):
        raise ValueError(f"{text} is too small; at least {format_size(key.minimum or 0)}")
    return int(_within(parse_size(text), key, format_size))


def _percent(scalar: Scalar, key: Key) -> float:
    text = _number_or_text(scalar, "write a percentage such as 10%")
    return float(_within(parse_percent(text), key, lambda fraction: f"{fraction:.2%}"))


def _text(scalar: Scalar, cure: str = "") -> str:
    trap = _trap(scalar)
    if trap:
        raise ValueError(f"{trap}; " + (cure or f'write it in quotes, "{scalar.text}"'))
    return scalar.text


def read_string(scalar: Scalar, key: Key) -> str:
    """Read a scalar as a string.

    Raises:
        ValueError: YAML reads it as something else, or it is none of the key's choices or not of its form.
    """
    text = _text(scalar)
    choices = key.bounds.get("choices")
    if choices and text not in choices:
        raise ValueError(f"{text!r} is unknown; {cure_for(text, choices)}")
    pattern = key.bounds.get("pattern")
    if pattern and not re.fullmatch(pattern, text):
        raise ValueError(f"{text!r} cannot be used; write {key.bounds['form']}")
    if not text:
        raise ValueError("it is empty; " + ("write null" if key.is_nullable else "write at least one character"))
    if not re.fullmatch(PATTERNS[Kind.STRING], text):
        shown = "it" if key.bounds.get("secret") else repr(text)
        raise ValueError(f"{shown} holds a control character; remove it")
    return text


def _bind(scalar: Scalar, key: Key) -> str:
    cure = f"write {FORMS}"
    text = _text(scalar, cure)
    if text.isprintable():
        parse_address(text)
    if not re.fullmatch(PATTERNS[Kind.BIND], text):
        raise ValueError(f"{text!r} is not a bind; {cure}")
    schemes = key.bounds.get("schemes")
    if schemes and parse_address(text).scheme not in schemes:
        raise ValueError(f"{text!r} cannot be used; write {' or '.join(f'{scheme}://' for scheme in schemes)}")
    return text


def _app(scalar: Scalar, _key: Key) -> str:
    cure = "write package.module:attribute"
    text = _text(scalar, cure)
    if not re.fullmatch(PATTERNS[Kind.APP], text):
        raise ValueError(f"{text!r} does not name an object; {cure}")
    return text


def _mode(scalar: Scalar, _key: Key) -> int:
    is_mode = re.fullmatch(PATTERNS[Kind.MODE], scalar.text)
    cure = f'write it in quotes, "{scalar.text if is_mode else "0660"}"'
    if scalar.style is Style.PLAIN:
        raise ValueError(f"{_trap(scalar) or f'{scalar.text} is no mode'}; {cure}")
    if not is_mode:
        raise ValueError(f"{scalar.text!r} is no mode; {cure}")
    return int(scalar.text, 8)


def _delimiter(scalar: Scalar, _key: Key) -> str:
    if not 0 < len(scalar.text) <= MAX_DELIMITER_BYTES or not scalar.text.isascii():
        cure = f'write 1 to {MAX_DELIMITER_BYTES} ASCII characters, such as "\\r\\n"'
        raise ValueError(f"{scalar.text!r} cannot end a line; {cure}")
    return scalar.text


_READERS: dict[Kind | None, Callable[[Scalar, Key], Any]] = {
    Kind.INTEGER: _integer,
    Kind.AUTO: _number_or_auto,
    Kind.BOOLEAN: _boolean,
    Kind.DURATION: _duration,
    Kind.SIZE: _size,
    Kind.PERCENT: _percent,
    Kind.STRING: read_string,
    Kind.BIND: _bind,
    Kind.APP: _app,
    Kind.MODE: _mode,
    Kind.DELIMITER: _delimiter,
}
