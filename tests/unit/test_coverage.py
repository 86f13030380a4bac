"""Who watches which socket: every socket has a first worker and, where there are two, a second."""

from __future__ import annotations

import random

from prefork.process.coverage import Assignment, Group, cover, wait_for
from prefork.process.roster import State, WorkerRecord
from prefork.watch import Watch

Sockets = dict[str, Group]


def ready(slot: int, generation: int = 1) -> WorkerRecord:
    return WorkerRecord(slot, generation, 0.0, State.READY)


def serves_all(worker: WorkerRecord, key: str) -> bool:
    return True


def watchers(
    found: dict[int, Assignment], workers: list[WorkerRecord], watch: Watch
) -> dict[tuple[str, int], list[int]]:
    """Return by socket the slots of the workers that watch it in a way."""
    by_socket: dict[tuple[str, int], list[int]] = {}
    for worker in workers:
        for place, duty in found[id(worker)].items():
            if duty.watch is watch:
                by_socket.setdefault(place, []).append(worker.slot)
    return by_socket


def test_every_worker_is_first_at_its_own_socket_and_second_at_a_neighbours() -> None:
    workers = [ready(slot) for slot in range(4)]
    found = cover(workers, {"a": Group(4, False)}, serves_all)
    assert watchers(found, workers, Watch.FIRST) == {("a", slot): [slot] for slot in range(4)}
    assert watchers(found, workers, Watch.SECOND) == {("a", slot): [(slot + 1) % 4] for slot in range(4)}


def test_partners_name_each_other() -> None:
    workers = [ready(slot) for slot in range(3)]
    found = cover(workers, {"a": Group(3, False)}, serves_all)
    assert found[id(workers[0])]["a", 0].partner is workers[1]
    assert found[id(workers[1])]["a", 0].partner is workers[0]


def test_parked_sockets_and_those_of_dead_workers_are_shared_out_over_all_that_are_there() -> None:
    workers = [ready(0), ready(2)]
    found = cover(workers, {"a": Group(8, False)}, serves_all)
    firsts = [slots[0] for _, slots in sorted(watchers(found, workers, Watch.FIRST).items())]
    assert firsts == [0, 2, 2, 2, 0, 2, 0, 2]
    assert sorted(watchers(found, workers, Watch.SECOND)) == [("a", slot) for slot in range(8)]


def test_one_worker_alone_is_first_everywhere_and_nobody_is_second() -> None:
    worker = ready(3)
    found = cover([worker], {"a": Group(5, False)}, serves_all)
    assert {duty.watch for duty in found[id(worker)].values()} == {Watch.FIRST}
    assert len(found[id(worker)]) == 5


def test_nobody_watches_when_nobody_is_there() -> None:
    assert cover([], {"a": Group(2, False)}, serves_all) == {}


def test_a_shared_socket_is_watched_by_all() -> None:
    workers = [ready(0), ready(1)]
    found = cover(workers, {"u": Group(1, True)}, serves_all)
    assert watchers(found, workers, Watch.SHARED) == {("u", 0): [0, 1]}


def test_the_newest_worker_of_a_slot_takes_its_place() -> None:
    old, new = ready(0, 1), ready(0, 2)
    found = cover([old, new], {"a": Group(1, False)}, serves_all)
    assert found[id(old)] == {}
    assert found[id(new)]["a", 0].watch is Watch.FIRST


def test_a_listener_that_only_one_generation_has_is_watched_by_that_one_alone() -> None:
    old, new = ready(0, 1), ready(1, 2)

    def serves(worker: WorkerRecord, key: str) -> bool:
        return key == "both" or worker is new

    found = cover([old, new], {"both": Group(2, False), "new": Group(2, False)}, serves)
    assert {key for key, _ in found[id(old)]} == {"both"}
    assert {slot for key, slot in found[id(new)] if key == "new"} == {0, 1}


def test_in_any_case_every_socket_has_one_first_and_where_it_can_another_second() -> None:
    for seed in range(2000):
        dice = random.Random(seed)
        workers = [ready(slot, dice.randint(1, 2)) for slot in dice.sample(range(8), dice.randint(1, 6))]
        workers.sort(key=lambda w: w.generation)
        sockets: Sockets = {key: Group(dice.randint(1, 8)) for key in "ab"} | {"u": Group(1, True)}
        found = cover(workers, sockets, serves_all)
        firsts, seconds = watchers(found, workers, Watch.FIRST), watchers(found, workers, Watch.SECOND)
        places = [(key, slot) for key in "ab" for slot in range(sockets[key].count)]
        for place in places:
            assert len(firsts[place]) == 1, seed
            if len(workers) > 1:
                assert len(seconds[place]) == 1, seed
                assert firsts[place] != seconds[place], seed
            if place[1] in {w.slot for w in workers}:
                assert firsts[place] == [place[1]], seed


def test_no_worker_has_all_the_sockets_of_those_that_are_gone() -> None:
    workers = [ready(slot) for slot in range(4)]
    found = cover(workers, {"a": Group(64, False)}, serves_all)
    counts = [sum(duty.watch is Watch.FIRST for duty in found[id(worker)].values()) for worker in workers]
    assert max(counts) - min(counts) <= 1


class Leaver:
    """Stands for the link to a worker that has been told to leave some places."""

    def __init__(self, *places: tuple[str, int]) -> None:
        self.places = places

    def is_leaving(self, place: tuple[str, int]) -> bool:
        return place in self.places


def test_a_datagram_socket_waits_until_the_worker_before_has_left_it() -> None:
    old, new = ready(0), ready(0, generation=2)
    old.link = Leaver(("flows", 0))
    sockets = {"flows": Group(2, wanted=2), "streams": Group(2)}
    wanted = cover([new], sockets, serves_all)[id(new)]
    assert set(wanted) == {("flows", 0), ("streams", 0), ("streams", 1)}
    assert set(wait_for(wanted, [old])) == {("streams", 0), ("streams", 1)}
    old.link = Leaver()
    assert wait_for(wanted, [old]) == wanted
