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
        tls = getattr(transport, "details", None)
        fields = {
            **transport.service.about(transport.peer, transport.serial),
            **tell_times(now - transport.born),
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

    def note_failure(self, service: Any, peer: Any, serial: int, seconds: float, reason: str) -> None:
        """Tell of a connection that has ended before TLS was agreed upon.

        Args:
            seconds: of its life.
        """
        if not self.share or (self.share < 1.0 and random.random() >= self.share):
            return
        fields = service.about(peer, serial) | tell_times(seconds) | {"reason": reason}
        words = "%s from %s ended before TLS was agreed upon: %s, %.3f s"
        log.info(words, *(fields[name] for name in ("conn", "peer", "reason", "duration")), extra=fields)


def tell_times(seconds: float) -> dict[str, Any]:
    """Return when a connection has begun that ends now, in seconds since 1970, and its age."""
    seconds = max(0.0, seconds)
    return {"start": round(time.time() - seconds, 6), "duration": round(seconds, 6)}
