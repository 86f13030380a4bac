"""Who watches which socket: a pure map from live workers to the sockets of all slots.

Every socket of connections, a parked one too, has a first worker and, where there are two, a second. One of
datagrams has its slot's worker alone, and waits for the next one while there is none. A worker that is paused or
draining simply watches nothing: pausing needs no word of its own.

Knows: records, slots, names of listeners. Does not know: sockets, channels, the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prefork.process.roster import WorkerRecord
from prefork.watch import Watch

Place = tuple[str, int]  # a listener's key and a slot


@dataclass(frozen=True, slots=True)
class Duty:
    """How a worker watches one socket, and who else does."""

    watch: Watch
    partner: WorkerRecord | None = None


Assignment = dict[Place, Duty]


@dataclass(frozen=True, slots=True)
class Group:
    """The sockets of one listener.

    Attributes:
        count: how many slots have a socket; 1 if all workers share one.
        is_shared: whether they do.
        wanted: of datagrams, how many slots have flows of their own; None: it is connections.
    """

    count: int
    is_shared: bool = False
    wanted: int | None = None


def cover(
    workers: Sequence[WorkerRecord],
    sockets: Mapping[str, Group],
    serves: Callable[[WorkerRecord, str], bool],
) -> dict[int, Assignment]:
    """Return what each worker is to watch.

    Args:
        workers: those that may accept, the preferred ones of a slot last.
        sockets: by listener.
        serves: whether a worker's generation has a listener.

    Returns:
        Assignments by `id` of the record.
    """
    assignments: dict[int, Assignment] = {id(w): {} for w in workers}
    for key, group in sockets.items():
        able = list({w.slot: w for w in workers if serves(w, key)}.values())
        able.sort(key=lambda w: w.slot)
        for worker, slot, duty in _duties(able, group) if able else ():
            assignments[id(worker)][key, slot] = duty
    return assignments


def wait_for(assignment: Assignment, leaving: Sequence[WorkerRecord]) -> Assignment:
    """Return what a worker can watch now: what has datagrams only when the others have left it.

    Else a flow would be answered by two workers in turn, of old and of new code.
    """
    return {
        place: duty
        for place, duty in assignment.items()
        if duty.watch is not Watch.ONLY or not any(r.link.is_leaving(place) for r in leaving)
    }


def _duties(able: Sequence[WorkerRecord], group: Group) -> Iterator[tuple[WorkerRecord, int, Duty]]:
    if group.wanted is not None:
        yield from _solitary(able, group)
    elif group.is_shared:
        yield from ((worker, 0, Duty(Watch.SHARED)) for worker in able)
    else:
        for slot in range(group.count):
            first, second = _choose(able, slot)
            yield first, slot, Duty(Watch.FIRST, None if second is first else second)
            if second is not first:
                yield second, slot, Duty(Watch.SECOND, first)


def _solitary(able: Sequence[WorkerRecord], group: Group) -> Iterator[tuple[WorkerRecord, int, Duty]]:
    """A flow keeps its worker; what is left in a parked socket goes to somebody."""
    own = {worker.slot: worker for worker in able}
    for slot in range(group.count):
        is_awaited = slot < (group.wanted or 0) and not group.is_shared
        worker = own.get(slot) if is_awaited else own.get(slot, able[slot % len(able)])
        if worker is not None:
            yield worker, slot, Duty(Watch.ONLY)


def _choose(able: Sequence[WorkerRecord], slot: int) -> tuple[WorkerRecord, WorkerRecord]:
    """Return a slot's first and second worker: its own and the next one round, or two of the others.

    The sockets of slots without a worker go round over all that are there, so that none gets them all.
    """
    own = next((place for place, worker in enumerate(able) if worker.slot == slot), slot % len(able))
    return able[own], able[(own + 1) % len(able)]
