"""Who watches which socket: a pure map from live workers to the sockets of all slots.

Every socket, a parked one too, has a first worker and, where there are two, a second. A worker that is paused
or draining simply watches nothing: pausing needs no word of its own.

Knows: records, slots, names of listeners. Does not know: sockets, channels, the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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


def cover(
    workers: Sequence[WorkerRecord],
    sockets: Mapping[str, tuple[int, bool]],
    serves: Callable[[WorkerRecord, str], bool],
) -> dict[int, Assignment]:
    """Return what each worker is to watch.

    Args:
        workers: those that may accept, the preferred ones of a slot last.
        sockets: by listener: how many slots have a socket, and whether all workers share one.
        serves: whether a worker's generation has a listener.

    Returns:
        Assignments by `id` of the record.
    """
    assignments: dict[int, Assignment] = {id(w): {} for w in workers}
    for key, (count, is_shared) in sockets.items():
        able = list({w.slot: w for w in workers if serves(w, key)}.values())
        able.sort(key=lambda w: w.slot)
        if not able:
            continue
        if is_shared:
            for worker in able:
                assignments[id(worker)][key, 0] = Duty(Watch.SHARED)
            continue
        for slot in range(count):
            first, second = _choose(able, slot)
            if second is first:
                assignments[id(first)][key, slot] = Duty(Watch.FIRST)
            else:
                assignments[id(first)][key, slot] = Duty(Watch.FIRST, second)
                assignments[id(second)][key, slot] = Duty(Watch.SECOND, first)
    return assignments


def _choose(able: Sequence[WorkerRecord], slot: int) -> tuple[WorkerRecord, WorkerRecord]:
    """Return a slot's first and second worker: its own and the next one round, or two of the others.

    The sockets of slots without a worker go round over all that are there, so that none gets them all.
    """
    own = next((place for place, worker in enumerate(able) if worker.slot == slot), slot % len(able))
    return able[own], able[(own + 1) % len(able)]
