"""The last words of the master's log, for those who look at the server later.

Knows: records. Does not know: who asks, where else they go.
"""

from __future__ import annotations

import logging
from collections import deque
from itertools import count
from typing import Any

from prefork.log import format_time

KEPT = 200
MAX_CHARACTERS = 2000  # of a message


class Recent(logging.Handler):
    """Keeps the last records of the process, each with a number of its own."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._records: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._numbers = count(1)

    def emit(self, record: logging.LogRecord) -> None:
        self._records.append(
            {
                "id": next(self._numbers),
                "ts": format_time(record.created),
                "level": record.levelname.lower(),
                "msg": record.getMessage()[:MAX_CHARACTERS],
            }
        )

    def since(self, number: int) -> list[dict[str, Any]]:
        """Return the records after one, the oldest first."""
        return [record for record in self._records if record["id"] > number]
