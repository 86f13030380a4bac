"""What clients send: bytes that differ from request to request, the same in each run of a seed.

Knows: a seed. Does not know: who sends them, or how.
"""

from __future__ import annotations

import random

_POOL_BYTES = 1 << 20
_NO_ENDS = bytes.maketrans(b"\r\n", b"..")


class Payloads:
    """Chance, and slices of a pool of random bytes."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._pool = self._random.randbytes(_POOL_BYTES)

    def cut(self, max_bytes: int) -> bytes:
        """Return 1 to `max_bytes` bytes."""
        size = 1 + int(self._random.random() * max_bytes)
        at = int(self._random.random() * (_POOL_BYTES - size))
        return self._pool[at : at + size]

    def toss(self, share: float) -> bool:
        """Return True in about this share of the calls."""
        return self._random.random() < share

    def vary(self) -> float:
        """Return a factor of 0.5 to 1.5."""
        return self._random.uniform(0.5, 1.5)


def framed(payload: bytes, framing: str) -> bytes:
    """Return a payload as one frame: `raw` it stays as it is, `lines` and `length` are those of prefork."""
    if framing == "lines":
        return payload.translate(_NO_ENDS) + b"\n"
    return len(payload).to_bytes(4) + payload if framing == "length" else payload
