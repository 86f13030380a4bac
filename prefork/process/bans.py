"""The networks that an operator has banned, until when, and the notice by which all workers know them.

Knows: networks, time. Does not know: connections, who asks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from prefork.config.units import parse_duration
from prefork.errors import CommandError, LocalProtocolError, PreforkError
from prefork.firewall import Bans
from prefork.scoreboard import Notice

DEFAULT_SECONDS = 3600.0
LONGEST_SECONDS = 366 * 86_400.0

log = logging.getLogger("prefork")


class BanList:
    """What is banned now; it outlives reloads, and ends with the master."""

    def __init__(self, notice: Notice, clock: Callable[[], float]) -> None:
        self._notice = notice
        self._clock = clock
        self._bans = Bans()

    def ban(self, network: str, duration: str | None) -> None:
        """Ban a network for a while; again, for another while.

        Args:
            duration: such as `10m`; None: an hour.

        Raises:
            LocalProtocolError: it is no network, or no duration, or there are too many.
        """
        try:
            seconds = DEFAULT_SECONDS if duration is None else parse_duration(duration)
            if not 0 < seconds <= LONGEST_SECONDS:
                raise ValueError(f"{duration!r} is not above 0 and up to 366 days; write such as 10m")
            self._bans.add(network, self._clock() + seconds)
        except (ValueError, PreforkError) as error:
            raise CommandError(f"cannot ban {network[:60]!r}: {error}") from error
        self._post()
        log.info("%s is banned for %.0f s", network, seconds)

    def lift(self, network: str) -> None:
        """End a ban.

        Raises:
            LocalProtocolError: there is none.
        """
        try:
            is_lifted = self._bans.remove(network)
        except PreforkError as error:
            raise CommandError(f"cannot lift the ban of {network[:60]!r}: {error}") from error
        if not is_lifted:
            raise LocalProtocolError(f"{network[:60]!r} is not banned; `prefork bans` lists what is")
        self._post()
        log.info("the ban of %s is lifted", network)

    def expire(self) -> None:
        """Forget those whose time is over."""
        over = self._bans.expire(self._clock())
        if over:
            self._post()
            log.info("the ban of %s is over", ", ".join(over[:10]) + (" and others" if len(over) > 10 else ""))

    def describe(self) -> list[dict[str, Any]]:
        """Return the bans, with the seconds that are left of each."""
        now = self._clock()
        return [{"network": network, "seconds": round(until - now, 1)} for network, until in self._bans.entries()]

    def _post(self) -> None:
        self._notice.post(self._bans.pack())
