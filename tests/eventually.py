"""Waiting in tests: for a condition, with a limit, never for a time.

Knows: clocks. Does not know: what is waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def eventually(condition: Callable[[], Found], within: float = 10.0, every: float = 0.005) -> Found:
    """Return the first true value of a condition.

    Args:
        within: seconds until it must be true.

    Raises:
        AssertionError: it was not; the message has its last value.
    """
    deadline = time.monotonic() + within
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {within} s; the last value was {value!r}")
        time.sleep(every)
