"""What the master shares with one worker process: a channel, a pipe for its stack, a page of shared memory.

Knows: what was ordered and not yet carried out. Does not know: the worker's state, who decides what is ordered.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from prefork.config import Config
from prefork.process.channel import Channel
from prefork.process.messages import Failed, Order
from prefork.scoreboard import Page

STACK_BYTES = 65_536


@dataclass(slots=True, eq=False)
class Link:
    """The master's ends of what it shares with a worker process.

    Attributes:
        jitter: on the limits of `recycle`, about 1.
        watched: duties by place, as they were told.
        leaving: places by order, of the orders to leave that are not carried out yet.
        metrics: of the app's own.
    """

    channel: Channel
    stack_fd: int
    seat: int
    page: Page
    config: Config
    jitter: float
    watched: dict[Any, Any] = field(default_factory=dict)
    leaving: deque[tuple[Any, ...]] = field(default_factory=deque)
    metrics: list[Any] = field(default_factory=list)
    failure: Failed | None = None
    drained_at: float | None = None

    def send(self, order: Order, fds: Sequence[int] = ()) -> None:
        self.channel.send(order, fds)

    def leave(self, places: tuple[Any, ...], order: Order) -> None:
        """Send an order to leave places."""
        for place in places:
            del self.watched[place]
        self.leaving.append(places)
        self.send(order)

    def is_leaving(self, place: Any) -> bool:
        """Whether the worker may still watch a place that it was told to leave."""
        return any(place in places for places in self.leaving)

    def read_stack(self) -> str:
        try:
            return os.read(self.stack_fd, STACK_BYTES).decode("utf-8", "replace")
        except BlockingIOError:
            return ""
