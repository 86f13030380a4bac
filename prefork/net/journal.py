"""What a worker writes down: why peers were refused, folded, and one record for each connection at its end.

Knows: connections that end, how many of them are told. Does not know: formats, where records go.
"""

from __future__ import annotations

import logging
import random
import time
from typing import Any

from prefork.net.fold import Fold

log = logging.getLogger("prefork.access")


class Journal(Fold):
    """The records of a worker.

    Attributes:
        share: of the connections that are told at their end, 0.0 to 1.0.
        tap: what all is written down with; None: nobody wants that.
        untapped: why the last one ended by itself; empty: it did not.
    """

    def __init__(self, share: float = 0.0) -> None:
        super().__init__()
        self.share = share
        self.tap: Any = None
        self.untapped = ""

    def note_end(self, transport: Any, now: float) -> None:
        """Tell of a connection that has ended, if it is one of the share.

        Args:
            now: CLOCK_MONOTONIC.
        """
        if self.share < 1.0 and random.random() >= self.share:
            return
        service, duration = transport.service, max(0.0, now - transport.born)
        tls = getattr(transport, "details", None)
        fields: dict[str, Any] = {
            "conn": service.name_connection(transport.serial),
            "peer": str(transport.peer),
            "listener": service.name,
            "start": round(time.time() - duration, 6),
            "duration": round(duration, 3),
            "received": transport.received,
            "sent": transport.sent,
            "frames": getattr(transport.get_protocol(), "frames", None),
            "tls": tls.version if tls is not None else None,
            "reason": transport.reason or "done",
        }
        log.info(
            "%s from %s ended: %s, %d bytes in, %d out, %.3f s",
            *(fields[name] for name in ("conn", "peer", "reason", "received", "sent", "duration")),
            extra={name: value for name, value in fields.items() if value is not None},
        )
