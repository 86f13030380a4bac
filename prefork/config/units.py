"""Durations, sizes and percentages as people write them: `30s`, `64KiB`, `10%`.

Each `parse_*` undoes its `format_*` exactly; the patterns are regular expressions of JSON Schema as well.

Knows: units. Does not know: YAML, keys, bounds.
"""

from __future__ import annotations

import re

DURATION_PATTERN = r"^(0|[1-9][0-9]{0,11})(\.[0-9]{1,9})?(ms|s|m|h|d)?$"
SIZE_PATTERN = r"^(0|[1-9][0-9]{0,17})(B|KB|MB|GB|TB|KiB|MiB|GiB|TiB)?$"
PERCENT_PATTERN = r"^(0|[1-9][0-9]{0,5})(\.[0-9]{1,9})?%$"

_DURATION = re.compile(DURATION_PATTERN)
_SIZE = re.compile(SIZE_PATTERN)
_PERCENT = re.compile(PERCENT_PATTERN)

_MILLISECOND = 0.001
_SECONDS = {"ms": _MILLISECOND, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_BYTES = {
    "TiB": 1 << 40,
    "GiB": 1 << 30,
    "MiB": 1 << 20,
    "KiB": 1 << 10,
    "TB": 10**12,
    "GB": 10**9,
    "MB": 10**6,
    "KB": 10**3,
    "B": 1,
}


def parse_duration(text: str) -> float:
    """Parse a duration.

    Args:
        text: a decimal number with the unit ms, s, m, h or d; without a unit it is in seconds.

    Returns:
        Seconds, at least 0.

    Raises:
        ValueError: it is not a duration; the message says how one is written.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration; write 500ms, 30s, 5m, 2h or 1d")
    unit = match[3] or "s"
    number = float(text.removesuffix(unit))
    return number / 1000 if unit == "ms" else number * _SECONDS[unit]


def format_duration(seconds: float) -> str:
    """Write a duration with the largest unit of which it is a whole number of at least two.

    Args:
        seconds: at least 0, and a multiple of a nanosecond.
    """
    for unit in ("d", "h", "m"):
        if seconds >= 2 * _SECONDS[unit] and seconds % _SECONDS[unit] == 0:
            return f"{seconds / _SECONDS[unit]:.0f}{unit}"
    if seconds == int(seconds):
        return f"{seconds:.0f}s"
    milliseconds = round(seconds * 1000)
    if milliseconds / 1000 == seconds:
        return f"{milliseconds}ms"
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"


def parse_size(text: str) -> int:
    """Parse a size.

    Args:
        text: a whole number with the unit B, KiB, MiB, GiB, TiB (powers of 1024) or KB, MB, GB, TB (of 1000);
            without a unit it is in bytes.

    Returns:
        Bytes, at least 0.

    Raises:
        ValueError: it is not a size; the message says how one is written.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a size; write 64KiB, 1MiB, 1GiB, 10MB or a whole number of bytes")
    return int(match[1]) * _BYTES[match[2] or "B"]


def format_size(size_bytes: int) -> str:
    """Write a size with the largest unit of which it is a whole number; binary units go first.

    Args:
        size_bytes: at least 0.
    """
    for unit, factor in _BYTES.items():
        if size_bytes and factor > 1 and size_bytes % factor == 0:
            return f"{size_bytes // factor}{unit}"
    return str(size_bytes)


def parse_percent(text: str) -> float:
    """Parse a percentage.

    Args:
        text: a decimal number with a percent sign.

    Returns:
        A fraction: 0.1 for `10%`.

    Raises:
        ValueError: it is not a percentage; the message says how one is written.
    """
    if _PERCENT.fullmatch(text) is None:
        raise ValueError(f"{text!r} is not a percentage; write a number and a percent sign, such as 10%")
    return float(text.removesuffix("%")) / 100


def format_percent(fraction: float) -> str:
    """Write a fraction as a percentage.

    Args:
        fraction: at least 0; digits beyond the ninth of the percentage are lost.
    """
    digits = f"{fraction * 100:.9f}".rstrip("0").rstrip(".")
    return f"{digits}%"
