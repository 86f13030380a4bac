"""Inputs that are almost good: seeds of a grammar, changed a little or a lot, by a random that can be repeated.

Knows: bytes, numbers at their edges, what breaks a line. Does not know: any parser.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random

MAX_BYTES = 32_768
MAX_CHANGES = 8
LARGE_ONE_IN = 40  # inputs that are repeated up to the largest size: they cost as much as hundreds of small ones
NUMBERS = (
    *("0", "-0", "1", "-1", "+1", "00", "007", "0x10", "0o17", "1_0", "1e9", "1e400", "-1e400", "1.5", ".5", "5."),
    *("NaN", "Infinity", "255", "256", "65535", "65536", "2147483647", "2147483648", "4294967295", "4294967296"),
    *("9223372036854775807", "9223372036854775808", "18446744073709551615", "18446744073709551616", "9" * 30),
    *("9" * 400, "9" * 5000, "\u0661\u0662", "\u00b2"),
)
NUMBER = re.compile(rb"[0-9]+")
WORDS = (
    *(
        b"\n",
        b"\r",
        b"\r\n",
        b"\0",
        b"\t",
        b"\x0b",
        b"\x0c",
        b"\x1b[2J\x1b[31m",
        b"\x7f",
        b"\x80",
        b"\xff",
        b"\xfe\xff",
    ),
    *("\x85", "\u2028", "\u2029", "\u202e", "\u2066", "\u200b", "\ufeff", "\U0001f600", "\U000e0001", "\u0130"),
    *(
        b"\xed\xa0\x80",
        b"\xed\xbf\xbf",
        b"\xc0\x80",
        b"\xf4\x90\x80\x80",
        b"\xef\xbb\xbf",
        b"%s",
        b"%n",
        b"{0}",
        b"''",
    ),
)
Change = Callable[[bytearray, Random], None]


class Mutator:
    """Makes inputs out of seeds, and of words that mean something to the parser."""

    def __init__(self, seeds: Sequence[bytes], words: Sequence[bytes] = (), max_bytes: int = MAX_BYTES) -> None:
        self._seeds = seeds
        given = (*words, *(word if isinstance(word, bytes) else word.encode() for word in WORDS))
        self._words = tuple(word for word in given if word)
        self._max_bytes = max_bytes
        self._changes: tuple[Change, ...] = (
            *(flip, overwrite, remove, repeat, swap, put_number, put_integer, cut),
            *(self._insert, self._insert, self._splice, self._join),
        )

    def make(self, random: Random) -> bytes:
        """Return the next input: one in ten is a seed as it is."""
        data = bytearray(random.choice(self._seeds))
        if random.random() < 0.1:
            return bytes(data[: self._max_bytes])
        for _ in range(min(1 + int(random.expovariate(0.5)), MAX_CHANGES)):
            random.choice(self._changes)(data, random)
            del data[self._max_bytes :]
        if not random.randrange(LARGE_ONE_IN):
            self._blow_up(data, random)
        return bytes(data)

    def _insert(self, data: bytearray, random: Random) -> None:
        at = random.randint(0, len(data))
        data[at:at] = random.choice(self._words)

    def _splice(self, data: bytearray, random: Random) -> None:
        """Go on with the rest of another seed."""
        other = random.choice(self._seeds)
        data[random.randint(0, len(data)) :] = other[random.randint(0, len(other)) :]

    def _join(self, data: bytearray, random: Random) -> None:
        data += random.choice(self._seeds)

    def _blow_up(self, data: bytearray, random: Random) -> None:
        start, end = span(data, random, 64)
        part = bytes(data[start:end]) or random.choice(self._words)
        size = random.randint(1, self._max_bytes)
        data[start:end] = (part * (size // len(part) + 1))[:size]
        del data[self._max_bytes :]


def span(data: bytearray, random: Random, longest: int) -> tuple[int, int]:
    """Return where some part begins and ends; it may be empty."""
    start = random.randint(0, len(data))
    return start, min(len(data), start + random.randint(0, longest))


def flip(data: bytearray, random: Random) -> None:
    """Turn one bit."""
    if data:
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def overwrite(data: bytearray, random: Random) -> None:
    """Set one byte."""
    if data:
        data[random.randrange(len(data))] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))


def remove(data: bytearray, random: Random) -> None:
    """Take a part out."""
    start, end = span(data, random, 16)
    del data[start:end]


def repeat(data: bytearray, random: Random) -> None:
    """Say a part several times."""
    start, end = span(data, random, 64)
    data[start:start] = data[start:end] * random.randint(1, 16)


def swap(data: bytearray, random: Random) -> None:
    """Say a part elsewhere."""
    start, end = span(data, random, 32)
    part = data[start:end]
    del data[start:end]
    at = random.randint(0, len(data))
    data[at:at] = part


def put_number(data: bytearray, random: Random) -> None:
    """Put a number in place of another."""
    found = list(NUMBER.finditer(bytes(data[:4096])))
    if found:
        place = random.choice(found)
        data[place.start() : place.end()] = random.choice(NUMBERS).encode()


def put_integer(data: bytearray, random: Random) -> None:
    """Put a binary number of some size at its edge."""
    size = random.choice((1, 2, 3, 4, 8))
    edge = random.choice((0, 1, size, 127, 128, 255, 256, (1 << 8 * size - 1) - 1, 1 << 8 * size - 1, -1, -2))
    at = random.randint(0, len(data))
    data[at : at + size] = (edge & (1 << 8 * size) - 1).to_bytes(size, random.choice(("big", "little")))


def cut(data: bytearray, random: Random) -> None:
    """Lose the end."""
    del data[random.randint(0, len(data)) :]
