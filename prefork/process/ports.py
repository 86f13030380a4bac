"""The listeners of all generations, and who watches their sockets.

Knows: listeners, records of workers, what each was told. Does not know: why a worker is ready or not.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from prefork.address import parse_address
from prefork.config import Config, ListenerConfig
from prefork.errors import ListenError
from prefork.process.coverage import Assignment, cover
from prefork.process.listener import Listener
from prefork.process.messages import Cover, Uncover
from prefork.process.roster import WorkerRecord

DROPPED_SECONDS = 1.0  # for the last handshakes to a listener that a reload has removed

PARKED_SECONDS = 5.0  # two retransmissions of a SYN-ACK, tcp(7)

log = logging.getLogger("prefork")


@dataclass(slots=True)
class Harbour:
    """The listeners of one generation: their names in its config, by key."""

    names: dict[str, str] = field(default_factory=dict)
    opened: list[str] = field(default_factory=list)  # keys that did not exist before this generation


def key_of(config: ListenerConfig) -> str:
    """Return what makes a listener the same over a reload: its address, with port 0 its name too."""
    address = parse_address(config.bind)
    is_any_port = not address.is_unix and address.port == 0
    return f"{address} {config.name}" if is_any_port else str(address)


class Ports:
    """Opens, covers, steers and closes the listeners."""

    def __init__(self) -> None:
        self._listeners: dict[str, Listener] = {}
        self._harbours: dict[int, Harbour] = {}
        self._is_unsteerable = False
        self._dropped: list[tuple[float, Listener]] = []
        self._parked_since: dict[str, float] = {}

    def prepare(self, generation: int, config: Config, slots: int) -> None:
        """Open what a generation needs and is not open yet; all or nothing.

        Raises:
            ListenError: an address cannot be bound; the others are as before.
        """
        harbour = self._harbours[generation] = Harbour()
        try:
            for chosen in config.listeners:
                key = key_of(chosen)
                harbour.names[key] = chosen.name
                if key not in self._listeners:
                    self._listeners[key] = Listener(chosen, parse_address(chosen.bind), slots)
                    harbour.opened.append(key)
                self._listeners[key].grow(slots, chosen.socket)
        except ListenError:
            self.abandon(generation)
            raise

    def abandon(self, generation: int) -> None:
        """Close what was opened for a generation that will not serve."""
        for key in self._harbours.pop(generation).opened:
            self._listeners.pop(key).close()

    def commit(self, generation: int, config: Config, now: float) -> None:
        """Make a generation's listeners the listeners; the others are closed when their queues are empty."""
        for chosen in config.listeners:
            listener = self._listeners[key_of(chosen)]
            listener.name = chosen.name
            listener.configure(chosen.socket)
        keys = self._harbours[generation].names
        self._harbours = {generation: self._harbours[generation]}
        for key in [key for key in self._listeners if key not in keys]:
            listener = self._listeners.pop(key)
            listener.refuse_new()
            self._dropped.append((now + DROPPED_SECONDS, listener))

    @property
    def has_dropped(self) -> bool:
        """Whether a listener was removed that may still have connections in its queue."""
        return bool(self._dropped)

    def close_unused(self, slots: int, now: float) -> None:
        """Close the sockets of removed listeners, and those of slots that have long been parked.

        A handshake that was begun before the slot was steered around has ended by then, or has failed.

        Args:
            slots: how many are wanted.
        """
        for key, listener in self._listeners.items():
            if listener.is_shared or len(listener.sockets) <= slots or not listener.is_parked:
                self._parked_since.pop(key, None)
            elif now - self._parked_since.setdefault(key, now) > PARKED_SECONDS and listener.is_queue_empty():
                listener.shrink()  # who watches it is told by the next `assign`
        while self._dropped and self._dropped[0][0] <= now:
            self._dropped.pop(0)[1].close()

    def grow(self, generation: int, config: Config, slots: int) -> None:
        """Have sockets for more slots.

        Raises:
            ListenError: the kernel gives no further socket.
        """
        keys = self._harbours[generation].names
        for chosen in config.listeners:
            if key_of(chosen) in keys:
                self._listeners[key_of(chosen)].grow(slots, chosen.socket)

    def bound(self) -> list[dict[str, str]]:
        """Return name and real address of each listener."""
        return [{"name": lis.name, "bind": str(lis.bound)} for lis in self._listeners.values()]

    def assign(self, ready: Sequence[WorkerRecord], paused: Sequence[WorkerRecord]) -> None:
        """Tell the workers what to watch, as far as that has changed.

        Args:
            ready: workers that accept; the newest of a slot last.
            paused: workers that accept only for listeners that no ready one serves.
        """
        sockets = {key: (len(lis.sockets), lis.is_shared) for key, lis in self._listeners.items()}
        served = {key for key in sockets if any(self._serves(w, key) for w in ready)}
        wanted = cover(ready, {k: v for k, v in sockets.items() if k in served}, self._serves)
        wanted |= cover(paused, {k: v for k, v in sockets.items() if k not in served}, self._serves)
        for worker in (*ready, *paused):
            self._tell(worker, wanted[id(worker)])

    def _serves(self, worker: WorkerRecord, key: str) -> bool:
        harbour = self._harbours.get(worker.generation)
        return harbour is not None and key in harbour.names

    def _tell(self, worker: WorkerRecord, wanted: Assignment) -> None:
        link = worker.link
        names = self._harbours[worker.generation].names if worker.generation in self._harbours else {}
        for place in [p for p in link.watched if p not in wanted]:
            del link.watched[place]
            if place[0] in names:
                link.send(Uncover(names[place[0]], place[1]))
        for place, duty in wanted.items():
            if link.watched.get(place) != duty:
                key, slot = place
                link.watched[place] = duty
                seat = duty.partner.link.seat if duty.partner is not None else None
                sock = self._listeners[key].sockets[slot]
                link.send(Cover(names[key], slot, duty.watch, seat), [sock.fileno()])

    def steer(self, slots: tuple[int, ...]) -> None:
        """Let new connections go to these slots."""
        for listener in self._listeners.values():
            known = tuple(s for s in slots if s < len(listener.sockets))
            if not listener.steer(known) and not self._is_unsteerable:
                self._is_unsteerable = True
                log.warning("this kernel cannot steer new connections; they are spread by its own hash")

    def refuse_new(self) -> None:
        """Let nobody new in: the server stops."""
        for listener in self._listeners.values():
            listener.refuse_new()

    def close(self) -> None:
        for listener in (*self._listeners.values(), *(dropped for _, dropped in self._dropped)):
            listener.close()
        self._listeners.clear()
        self._dropped.clear()
