"""The listeners of all generations, and who watches their sockets.

Knows: listeners, records of workers, what each was told. Does not know: why a worker is ready or not.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from prefork.address import parse_address
from prefork.config import Config, ListenerConfig
from prefork.errors import ListenError, PreforkError
from prefork.process.coverage import Assignment, Group, cover, wait_for
from prefork.process.inherited import Inheritance
from prefork.process.listener import Listener
from prefork.process.messages import Cover, Uncover
from prefork.process.roster import WorkerRecord

DROPPED_SECONDS = 1.0  # for the last handshakes to a listener that a reload has removed

ADMIN_APP = "prefork.admin:site"  # what a listener has to name; nobody imports it
PARKED_SECONDS = 5.0  # two retransmissions of a SYN-ACK, tcp(7)

log = logging.getLogger("prefork")


@dataclass(slots=True)
class Harbour:
    """The listeners of one generation: their names in its config, by key."""

    names: dict[str, str] = field(default_factory=dict)
    opened: list[str] = field(default_factory=list)  # keys that did not exist before this generation
    admin: Listener | None = None


@dataclass(frozen=True, slots=True)
class Watchers:
    """The workers, by what they may watch.

    Attributes:
        ready: they accept; the newest of a slot last.
        paused: they accept only for listeners that no ready one serves.
        awake: of all there are, those that soon do what they are told.
    """

    ready: Sequence[WorkerRecord]
    paused: Sequence[WorkerRecord]
    awake: Sequence[WorkerRecord]


def key_of(config: ListenerConfig) -> str:
    """Return what makes a listener the same over a reload: its address, with port 0 its name too."""
    address = parse_address(config.bind).plain
    is_any_port = not address.path and address.port == 0
    return f"{address} {config.name}" if is_any_port else str(address)


class Ports:
    """Opens, covers, steers and closes the listeners."""

    def __init__(self, inheritance: Inheritance) -> None:
        self._inheritance = inheritance
        self._listeners: dict[str, Listener] = {}
        self._harbours: dict[int, Harbour] = {}
        self._is_unsteerable = False
        self._removed: list[tuple[float, str, Listener]] = []
        self.admin: Listener | None = None  # of the admin process
        self._parked_since: dict[str, float] = {}
        self._schemes: dict[str, str] = {}  # by key, as the config that serves has them
        self._dropped_before = 0

    def prepare(self, generation: int, config: Config, slots: int) -> None:
        """Open what a generation needs and is not open yet; all or nothing.

        Raises:
            ListenError: an address cannot be bound; the others are as before.
        """
        harbour = self._harbours[generation] = Harbour()
        self._schemes = self._schemes or {key_of(c): parse_address(c.bind).scheme for c in config.listeners}
        try:
            for chosen in config.listeners:
                key = key_of(chosen)
                harbour.names[key] = chosen.name
                if key not in self._listeners:
                    self._listeners[key] = Listener(chosen, parse_address(chosen.bind), slots, self._inheritance)
                    harbour.opened.append(key)
                self._listeners[key].prepare(slots, chosen)
            harbour.admin = self._open_admin(config.admin.bind)
        except ListenError as error:
            self.abandon(generation)
            if any(key in harbour.names for _, key, _ in self._removed):
                raise ListenError(f"{error} — it was removed a moment ago; reload once more") from error
            raise

    def _open_admin(self, bind: str | None) -> Listener | None:
        if bind is None:
            return None
        address = parse_address(bind)
        if self.admin is not None and self.admin.address == address:
            return self.admin
        return Listener(ListenerConfig(bind=bind, app=ADMIN_APP, name="admin"), address, 1)

    def abandon(self, generation: int) -> None:
        """Close what was opened for a generation that will not serve."""
        harbour = self._harbours.pop(generation)
        for key in harbour.opened:
            self._listeners.pop(key).close()
        if harbour.admin is not None and harbour.admin is not self.admin:
            harbour.admin.close()

    def commit(self, generation: int, config: Config, now: float) -> None:
        """Make a generation's listeners the listeners; the others are closed when their queues are empty."""
        for chosen in config.listeners:
            try:
                self._listeners[key_of(chosen)].configure(chosen)
            except (PreforkError, OSError) as error:  # the new generation serves already
                log.error("cannot set the socket options of %s: %s", chosen.name, error)
        self._schemes = {key_of(chosen): parse_address(chosen.bind).scheme for chosen in config.listeners}
        keys = self._harbours[generation].names
        self.take_admin(generation)
        self._harbours = {generation: self._harbours[generation]}
        for key in [key for key in self._listeners if key not in keys]:
            listener = self._listeners.pop(key)
            listener.refuse_new()
            self._removed.append((now + DROPPED_SECONDS, key, listener))

    def take_admin(self, generation: int) -> None:
        """Have the admin process listen where a generation wants it."""
        before, self.admin = self.admin, self._harbours[generation].admin
        if before is not None and before is not self.admin:
            before.close()

    @property
    def has_dropped(self) -> bool:
        """Whether a listener was removed that may still have connections in its queue."""
        return bool(self._removed)

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
        while self._removed and self._removed[0][0] <= now:
            removed = self._removed.pop(0)[2]
            self._dropped_before += removed.dropped
            removed.close()

    def grow(self, generation: int, config: Config, slots: int) -> None:
        """Have sockets for more slots.

        Raises:
            ListenError: the kernel gives no further socket.
        """
        keys = self._harbours[generation].names
        for chosen in config.listeners:
            if key_of(chosen) in keys:
                self._listeners[key_of(chosen)].grow(slots, chosen)

    def bound(self) -> list[dict[str, str]]:
        """Return name and real address of each listener."""
        return [
            {"name": lis.name, "bind": str(replace(lis.bound, scheme=self._schemes.get(key, lis.bound.scheme)))}
            for key, lis in self._listeners.items()
        ]

    def queues(self) -> dict[str, int]:
        """Return how many connections wait to be accepted, by listener."""
        return {
            listener.name: listener.queued for listener in self._listeners.values() if not listener.is_datagram
        }

    @property
    def dropped(self) -> int:
        """How many datagrams the kernel had no room for, ever."""
        listeners = (*self._listeners.values(), *(listener for _, _, listener in self._removed))
        return self._dropped_before + sum(listener.dropped for listener in listeners)

    def assign(self, watchers: Watchers, wanted: int, held: Collection[str] = ()) -> None:
        """Tell the workers what to watch, as far as that has changed.

        Args:
            held: names of listeners that nobody watches for the time being.
            wanted: how many slots there are to be.
        """
        sockets = {
            key: Group(len(lis.sockets), lis.is_shared, wanted if lis.is_datagram else None)
            for key, lis in self._listeners.items()
            if lis.name not in held
        }
        served = {key for key in sockets if any(self._serves(w, key) for w in watchers.ready)}
        duties = cover(watchers.ready, {k: v for k, v in sockets.items() if k in served}, self._serves)
        duties |= cover(watchers.paused, {k: v for k, v in sockets.items() if k not in served}, self._serves)
        told = [(worker, duties[id(worker)]) for worker in (*watchers.ready, *watchers.paused)]
        for worker, duty in told:
            self._send_away(worker, duty)
        leaving = [r for r in watchers.awake if r.link.leaving]
        for worker, duty in told:
            self._send_to(worker, wait_for(duty, [r for r in leaving if r is not worker]) if leaving else duty)

    def _serves(self, worker: WorkerRecord, key: str) -> bool:
        harbour = self._harbours.get(worker.generation)
        return harbour is not None and key in harbour.names

    def _names(self, worker: WorkerRecord) -> dict[str, str]:
        return self._harbours[worker.generation].names if worker.generation in self._harbours else {}

    def _send_away(self, worker: WorkerRecord, wanted: Assignment) -> None:
        link, names = worker.link, self._names(worker)
        for place in [p for p in link.watched if p not in wanted]:
            if place[0] in names:
                link.leave((place,), Uncover(names[place[0]], place[1]))
            else:
                del link.watched[place]

    def _send_to(self, worker: WorkerRecord, wanted: Assignment) -> None:
        link, names = worker.link, self._names(worker)
        for place, duty in wanted.items():
            if link.watched.get(place) != duty:
                key, slot = place
                link.watched[place] = duty
                seat = duty.partner.link.seat if duty.partner is not None else None
                sock = self._listeners[key].sockets[slot]
                link.send(Cover(names[key], slot, duty.watch, seat), [sock.fileno()])

    def steer(self, slots: tuple[int, ...], wanted: int) -> None:
        """Let new connections go to some slots, and datagrams to all that are wanted."""
        for listener in self._listeners.values():
            if not listener.steer(slots, wanted) and not self._is_unsteerable:
                self._is_unsteerable = True
                log.warning("this kernel cannot steer new connections; they are spread by its own hash")

    def refuse_new(self) -> None:
        """Let nobody new in: the server stops."""
        for listener in self._listeners.values():
            listener.refuse_new()

    def close(self) -> None:
        for listener in (*self._listeners.values(), *(dropped for _, _, dropped in self._removed)):
            listener.close()
        if self.admin is not None:
            self.admin.close()
        self._listeners.clear()
        self._removed.clear()
