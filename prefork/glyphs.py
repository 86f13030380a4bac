"""Text and numbers made fit for a column of a terminal, whoever wrote them.

Widths are those of Unicode's East Asian Width and of marks that stand on another letter (UAX #11); what
terminals make of emoji that are composed of several is not followed: such a row comes out shorter, never longer.

Knows: characters, how numbers are written short. Does not know: terminals, what the text means.
"""

from __future__ import annotations

import unicodedata

MAX_CHARACTERS = 1000  # of one text: more than any terminal has columns for
MAX_MAGNITUDE = 1e18  # numbers beyond are no measurements
CHARACTERS_PER_CELL = 4  # marks have no width: without a limit a thousand could stand on one letter
UNITS = ("", "k", "M", "G", "T", "P", "E")


def printable(value: object) -> str:
    """Return a text that moves no cursor and changes no colour: no controls, no formatting characters."""
    text = "-" if value is None else str(value)[:MAX_CHARACTERS]
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)


def width_of(text: str) -> int:
    """Return how many columns a printable text takes."""
    return len(text) if text.isascii() else sum(map(_cells, text))


def _cells(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def cut(text: str, width: int) -> str:
    """Return a printable text in so many columns; what is cut ends in an ellipsis."""
    if width <= 0:
        return ""
    limit = CHARACTERS_PER_CELL * width
    if len(text) <= limit and width_of(text) <= width:
        return text
    used = 0
    for place, character in enumerate(text[:limit]):
        used += _cells(character)
        if used > width - 1:
            return text[:place] + "…"
    return text[:limit] + "…"


def pad(text: str, width: int, is_right: bool = False) -> str:
    """Return a printable text in exactly so many columns."""
    short = cut(text, width)
    blank = " " * (width - width_of(short))
    return blank + short if is_right else short + blank


def number(value: object) -> float | None:
    """Return a number that can be a measurement; None: it is not one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if -MAX_MAGNITUDE < value < MAX_MAGNITUDE else None


def show_count(value: object) -> str:
    """Write a number in at most four digits: `0.5`, `17`, `1.2k`."""
    return _shorten(value, 1000)


def show_bytes(value: object) -> str:
    """Write a number of bytes; its units are powers of 1024."""
    return _shorten(value, 1024)


def _shorten(value: object, step: int) -> str:
    amount = number(value)
    if amount is None:
        return "-"
    place = 0
    while abs(amount) >= 999.5 and place < len(UNITS) - 1:
        amount /= step
        place += 1
    is_fine = abs(amount) < 9.95 and amount != int(amount)
    return f"{amount:.{int(is_fine)}f}{UNITS[place]}"


def show_share(value: object) -> str:
    """Write a share of one in percent."""
    share = number(value)
    return "-" if share is None else f"{share * 100:.0f}%"


def show_span(value: object) -> str:
    """Write a time in seconds: `0.4ms`, `12ms`, `3.2s`, `5m07s`, `2h14m`, `9d03h`."""
    seconds = number(value)
    if seconds is None:
        return "-"
    if seconds < 0.9995:
        return f"{seconds * 1000:.{int(0 < seconds < 0.00995)}f}ms"
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    for unit, small, size in (("m", "s", 60), ("h", "m", 3600)):
        if whole < size * (60 if unit == "m" else 24):
            return f"{whole // size}{unit}{whole % size * 60 // size:02}{small}"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02}h"
