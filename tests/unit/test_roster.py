"""The table of a worker's life, the back-off, and reconcile over thousands of random histories."""

from __future__ import annotations

import pytest

from prefork.process import roster as module
from prefork.process.roster import (
    LIVE,
    NEXT,
    Candidate,
    Event,
    Roster,
    State,
    Step,
    Target,
    WorkerRecord,
    reconcile,
)
from tests.unit.history import CALM, CHAOS, History

SEEDS = range(1000)


def record(slot: int = 0, generation: int = 1, state: State = State.READY, **more: object) -> WorkerRecord:
    made = WorkerRecord(slot, generation, 0.0, state)
    for name, value in more.items():
        setattr(made, name, value)
    return made


def steps(records: list[WorkerRecord], target: Target, now: float = 0.0) -> list[tuple[Step, int, int]]:
    found = reconcile(Roster(records), target, now)
    return [
        (a.step, *((a.record.slot, a.record.generation) if a.record else (a.slot, a.generation))) for a in found
    ]


# --- the table ---


def test_every_cell_of_the_table_is_filled() -> None:
    assert set(NEXT) == set(State)
    assert all(set(row) == set(Event) for row in NEXT.values())


def test_no_worker_comes_back_from_draining_or_dying() -> None:
    assert set(NEXT[State.DYING].values()) == {State.DYING}
    assert set(NEXT[State.DRAINING].values()) == {State.DRAINING, State.DYING}
    assert all(NEXT[state][Event.OVERDUE] is State.DYING for state in State)


def test_only_a_worker_that_serves_can_be_paused() -> None:
    assert [state for state in State if NEXT[state][Event.PAUSE] is State.PAUSED] == [State.READY, State.PAUSED]


def test_no_event_but_ready_lets_a_worker_begin_to_serve() -> None:
    begun = [event for event in Event if NEXT[State.STARTING][event] is State.READY]
    assert begun == [Event.READY]


# --- single steps ---


def test_a_boot_spawns_every_slot_at_once() -> None:
    assert steps([], Target(3, 1)) == [(Step.SPAWN, slot, 1) for slot in range(3)]


def test_a_dead_slot_is_filled_whatever_dies_there_still() -> None:
    assert steps([record(state=State.DYING)], Target(1, 1)) == [(Step.SPAWN, 0, 1)]
    assert steps([record(state=State.DRAINING)], Target(1, 1)) == [(Step.SPAWN, 0, 1)]


def test_a_candidate_is_spawned_as_many_at_a_time_as_surge_says() -> None:
    old = [record(slot) for slot in range(4)]
    target = Target(4, 1, Candidate(2, 4, surge=2))
    assert steps(old, target) == [(Step.SPAWN, 0, 2), (Step.SPAWN, 1, 2)]
    assert steps([*old, record(0, 2, State.STARTING)], target) == [(Step.SPAWN, 1, 2)]


def test_a_ready_candidate_pauses_its_predecessor_and_no_other() -> None:
    workers = [record(0), record(1), record(0, 2)]
    assert (Step.PAUSE, 0, 1) in steps(workers, Target(2, 1, Candidate(2, 2)))
    assert (Step.PAUSE, 1, 1) not in steps(workers, Target(2, 1, Candidate(2, 2)))


def test_a_rollback_resumes_who_was_paused_and_retires_the_candidate() -> None:
    workers = [record(0, state=State.PAUSED), record(1), record(0, 2), record(1, 2, State.STARTING)]
    # The candidate of slot 0 serves until its predecessor is ready again: one round later.
    assert set(steps(workers, Target(2, 1))) == {(Step.RESUME, 0, 1), (Step.RETIRE, 1, 2)}
    workers[0].state = State.READY
    assert set(steps(workers, Target(2, 1))) == {(Step.RETIRE, 0, 2), (Step.RETIRE, 1, 2)}


def test_nobody_of_the_current_generation_is_retired_before_the_commit() -> None:
    workers = [record(0, is_tired=True), record(1), record(2), record(0, 2), record(1, 2)]
    retired = [step for step in steps(workers, Target(1, 1, Candidate(2, 2))) if step[0] is Step.RETIRE]
    assert retired == []


def test_a_tired_worker_serves_until_another_is_ready() -> None:
    tired = record(is_tired=True)
    assert steps([tired], Target(1, 1)) == [(Step.SPAWN, 0, 1)]
    assert steps([tired, record(state=State.STARTING)], Target(1, 1)) == []
    fresh = record()
    actions = reconcile(Roster([tired, fresh]), Target(1, 1), 0.0)
    assert [(a.step, a.record) for a in actions] == [(Step.RETIRE, tired)]


def test_an_immediate_stop_kills_everyone_who_is_not_dying_yet() -> None:
    workers = [record(slot, state=state) for slot, state in enumerate(State)]
    killed = {slot for step, slot, _ in steps(workers, Target(0, 1, is_immediate=True)) if step is Step.KILL}
    assert killed == {slot for slot, state in enumerate(State) if state is not State.DYING}


# --- back-off ---


def test_the_wait_doubles_with_each_failure_in_a_row_up_to_its_cap() -> None:
    roster = Roster()
    waits = [roster.back_off(0, 0.0) for _ in range(40)]
    assert waits[0] == module.FIRST_BACKOFF_SECONDS
    doubled = [min(2 * wait, module.LAST_BACKOFF_SECONDS) for wait in waits[:-1]]
    assert waits[1:] == doubled
    assert waits[-1] == module.LAST_BACKOFF_SECONDS


def test_the_wait_of_one_slot_is_not_that_of_another() -> None:
    roster = Roster()
    for _ in range(5):
        roster.back_off(0, 100.0)
    assert roster.back_off(1, 100.0) == module.FIRST_BACKOFF_SECONDS
    assert not roster.may_spawn(0, 100.5)
    assert roster.may_spawn(1, 100.5)
    assert roster.may_spawn(2, 100.0)


def test_the_wait_is_spread_by_the_dice() -> None:
    assert Roster().back_off(0, 0.0, 0.5) == module.FIRST_BACKOFF_SECONDS / 2


def test_a_worker_that_was_stable_is_replaced_at_once_and_the_row_of_failures_ends() -> None:
    roster = Roster()
    for _ in range(5):
        roster.note_death(record(ready_at=0.0), 1.0, False, 1.0)
    stable = record(ready_at=0.0)
    assert roster.note_death(stable, module.STABLE_SECONDS, False, 1.0) == 0.0
    assert roster.may_spawn(0, module.STABLE_SECONDS)
    assert roster.note_death(record(ready_at=0.0), 1.0, False, 1.0) == module.FIRST_BACKOFF_SECONDS


def test_a_worker_that_is_killed_after_a_tenth_of_a_second_of_service_is_replaced_at_once() -> None:
    assert Roster().note_death(record(ready_at=50.0), 50.1 + 1e-9, True, 1.0) == 0.0
    assert Roster().note_death(record(ready_at=50.0), 50.05, True, 1.0) > 0
    assert Roster().note_death(record(ready_at=50.0), 50.1 + 1e-9, False, 1.0) > 0


def test_a_worker_that_was_never_ready_always_waits() -> None:
    assert Roster().note_death(record(state=State.STARTING), 1e6, True, 1.0) > 0


def test_a_slot_that_waits_is_not_spawned_and_its_time_is_a_deadline() -> None:
    roster = Roster()
    wait = roster.back_off(0, 10.0)
    assert reconcile(roster, Target(1, 1), 10.0) == []
    assert list(roster.deadlines(10.0)) == [10.0 + wait]
    assert [a.step for a in reconcile(roster, Target(1, 1), 10.0 + wait)] == [Step.SPAWN]


def test_a_candidate_does_not_wait_for_the_back_off_of_its_predecessors() -> None:
    """A reload is the cure of an app that crashes: it comes at once."""
    roster = Roster([record(1)])
    for _ in range(10):
        roster.back_off(0, 10.0)
    actions = reconcile(roster, Target(2, 1, Candidate(2, 2)), 10.0)
    assert [(a.step, a.slot, a.generation) for a in actions] == [(Step.SPAWN, 0, 2)]


# --- histories ---


@pytest.mark.parametrize("first", SEEDS[::100])
def test_after_chaos_there_is_one_ready_worker_per_slot_of_the_wanted_generation(first: int) -> None:
    for seed in range(first, first + 100):
        history = History(seed)
        for _ in history.steps(150, CHAOS):
            assert not history.twins(), seed
        history.run(120, CALM, seconds=1.0)  # the longest back-off is over by then
        assert history.is_as_wanted(), (seed, history.target, history.roster.records)


def test_surge_is_held_in_the_middle_of_chaos() -> None:
    for seed in SEEDS[:300]:
        history = History(seed)
        for _ in history.steps(150, CHAOS):
            candidate = history.target.candidate
            assert candidate is None or history.starting(candidate.generation) <= candidate.surge, seed


def test_a_calm_reload_never_leaves_a_slot_without_a_worker_that_accepts() -> None:
    for seed in SEEDS:
        history = History(seed)
        history.run(60, CALM)
        before, after = history.target.count, history.dice.randint(1, 5)
        history.reload(after, history.dice.randint(1, 3))
        for _ in history.steps(80, CALM):
            slots = {slot for slot, _ in history.serving()}
            assert slots >= set(range(min(before, after))), (seed, history.roster.records)
        assert history.target == Target(after, 2)
        assert history.is_as_wanted(), seed


def test_a_rollback_at_any_moment_ends_with_the_old_generation_alone() -> None:
    for seed in SEEDS:
        history = History(seed)
        history.run(60, CALM)
        count = history.target.count
        history.reload(history.dice.randint(1, 5), history.dice.randint(1, 3))
        history.run(history.dice.randint(0, 4), CALM)
        if history.target.candidate is None:
            continue  # it was faster: committed
        history.roll_back()
        for _ in history.steps(60, CALM):
            assert {slot for slot, _ in history.serving()} >= set(range(count)), (seed, history.roster.records)
        assert history.target == Target(count, 1)
        assert history.is_as_wanted(), seed


def test_a_stop_at_any_moment_empties_the_roster() -> None:
    for seed in SEEDS[:500]:
        history = History(seed)
        history.run(history.dice.randint(0, 100), CHAOS)
        history.stop(now=seed % 2 == 0)
        for _ in history.steps(80, CALM):
            assert not history.roster.in_state(*LIVE), seed
        assert not history.roster.records, seed


def test_a_scale_down_and_up_again_ends_with_what_was_asked_last() -> None:
    for seed in SEEDS[:300]:
        history = History(seed, count=4)
        for count in (1, 4, 2, 5):
            history.scale(count)
            history.run(history.dice.randint(0, 6), CALM)
        history.run(60, CALM)
        assert history.serving() == [(slot, 1) for slot in range(5)]


def test_a_scale_in_the_middle_of_a_reload_waits_for_its_end() -> None:
    for seed in SEEDS[:300]:
        history = History(seed, count=3)
        history.run(60, CALM)
        history.reload(3, 1)
        history.run(2, CALM)
        history.scale(1)
        for _ in history.steps(80, CALM):
            if history.target.candidate is not None:
                assert len(history.roster.of_generation(1, State.READY, State.PAUSED)) == 3, seed
        assert history.is_as_wanted(), seed


def test_a_recycled_worker_is_never_missed() -> None:
    for seed in SEEDS[:300]:
        history = History(seed)
        history.run(60, CALM)
        for _ in range(3):
            history.dice.choice(history.roster.records).is_tired = True
            for _ in history.steps(30, CALM):
                assert {slot for slot, _ in history.serving()} == set(range(history.target.count)), seed
        assert history.is_as_wanted(), seed
        assert not any(r.is_tired for r in history.roster.records), seed


def test_a_worker_that_crashes_for_ever_is_spawned_ever_more_rarely() -> None:
    history = History(1, count=1)
    history.settle()
    deaths = 0
    for _ in range(3000):
        history.now += 0.1
        for crashed in list(history.roster.records):
            history.crash(crashed)
            deaths += 1
        history.settle()
    assert deaths < 25  # in 300 s: nine to come to 30 s, then one in about 30 s
