"""Sources are counted exactly over several tables, rates slide, and a place is taken only from one that is gone.

Knows: `prefork.net.sources`, rows of shared memory. Does not know: processes, which race in tests/kernel.
"""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefork.net.sources import (
    BUCKETS,
    ENTRY_CELLS,
    FIELD,
    KEY,
    MAX_HOMELESS,
    OPEN,
    WAYS,
    SourceTable,
    estimate,
    slide,
)
from prefork.scoreboard import Rows

SEATS = 3
NOW = 1000.0
GOLDEN = 0x9E37_79B9_7F4A_7C15
ANY, OTHER = GOLDEN, GOLDEN * 5 % (1 << 64)  # keys
BOUNDED = settings(derandomize=True, database=None, deadline=None, max_examples=150)


def tables_over(rows: Rows, seats: int = SEATS) -> list[SourceTable]:
    rows.seat_limit = seats
    return [SourceTable(rows, seat) for seat in range(seats)]


def two() -> tuple[SourceTable, SourceTable]:
    one, other = tables_over(Rows(2), 2)
    return one, other


def of_bucket(count: int, bucket: int = 5) -> list[int]:
    """Return keys that all belong into one bucket; like hashes, none of them looks like a count or a rate."""
    return [(number + 1) * GOLDEN % (1 << 64) // BUCKETS * BUCKETS + bucket for number in range(count)]


def entries(rows: Rows) -> dict[int, int]:
    """Return the open connections of each key in all rows."""
    cells = memoryview(rows.memory).cast("Q")
    found: Counter[int] = Counter()
    for at in range(0, len(cells), ENTRY_CELLS):
        if cells[at + KEY]:
            found[cells[at + KEY]] += cells[at + OPEN]
    return found


def enter(table: SourceTable, key: int, limit: int, times: int = 1, now: float = NOW) -> int:
    """Return how many of so many connections were counted."""
    return sum(table.enter(key, limit, now) for _ in range(times))


def hit(table: SourceTable, key: int, limit: int, now: float, times: int = 100) -> int:
    return sum(table.hit(key, limit, now) for _ in range(times))


# --- counts ---


def test_a_limit_is_exact_over_two_tables() -> None:
    one, other = two()
    assert enter(one, ANY, 5, 3) == 3
    assert enter(other, ANY, 5, 9) == 2
    assert enter(one, ANY, 5) == enter(other, ANY, 5) == 0
    one.leave(ANY)
    assert enter(other, ANY, 5, 9) == 1
    assert enter(other, OTHER, 1) == 1


def test_without_a_limit_all_are_counted_and_a_later_limit_sees_them() -> None:
    one, other = two()
    assert enter(one, ANY, 0, 100) == 100
    assert enter(other, ANY, 100) == 0
    assert enter(other, ANY, 101) == 1


def test_keys_are_the_same_in_all_tables_of_a_server_and_others_in_another() -> None:
    one, other = two()
    stranger, _ = two()
    sources = [b"echo\0" + bytes((i,)) for i in range(50)]
    keys = [one.key_of(source) for source in sources]
    assert keys == [other.key_of(source) for source in sources]
    assert not set(keys) & {stranger.key_of(source) for source in sources}
    assert all(0 < key < 1 << 64 for key in keys)
    assert len(set(keys)) == 50


@given(
    st.lists(st.tuples(st.integers(0, SEATS - 1), st.integers(0, 3), st.booleans()), max_size=120),
    st.integers(1, 4),
)
@BOUNDED
def test_what_enters_and_leaves_is_in_balance_and_never_over_the_limit(
    history: list[tuple[int, int, bool]], limit: int
) -> None:
    rows = Rows(SEATS)
    tables = tables_over(rows)
    held: Counter[tuple[int, int]] = Counter()
    keys = [*of_bucket(2), *of_bucket(1, 6), (1 << 64) - 1]  # the first two share a bucket
    for seat, number, is_entering in history:
        key = keys[number]
        total = sum(held[other, key] for other in range(SEATS))
        if is_entering:
            assert tables[seat].enter(key, limit, NOW) == (total < limit)
            held[seat, key] += total < limit
        elif held[seat, key]:
            tables[seat].leave(key)
            held[seat, key] -= 1
    for (seat, key), count in held.items():
        for _ in range(count):
            tables[seat].leave(key)
    assert set(entries(rows).values()) <= {0}
    assert all(enter(table, key, SEATS) == 1 for key in keys for table in tables)


@given(st.lists(st.tuples(st.integers(0, 11), st.booleans()), max_size=200))
@BOUNDED
def test_one_table_alone_is_exact_however_many_share_a_bucket(history: list[tuple[int, bool]]) -> None:
    rows = Rows(1)
    (table,) = tables_over(rows, 1)
    keys = of_bucket(12)
    held: Counter[int] = Counter()
    for number, is_entering in history:
        key = keys[number]
        if is_entering:
            assert table.enter(key, 2, NOW) == (held[key] < 2)
            held[key] = min(2, held[key] + 1)
        elif held[key]:
            table.leave(key)
            held[key] -= 1
    for key in held.elements():
        table.leave(key)
    assert set(entries(rows).values()) <= {0}
    assert [enter(table, key, 2, 3) for key in keys] == [2] * 12


# --- full buckets ---


def test_a_source_whose_bucket_is_full_is_counted_in_its_own_table_alone() -> None:
    one, other = two()
    *housed, homeless = of_bucket(WAYS + 1)
    assert [enter(one, key, 2) for key in housed] == [1] * WAYS
    assert enter(one, homeless, 2, 5) == 2
    assert enter(other, homeless, 2, 5) == 2  # its bucket has room there, and the first table's count is not seen
    assert enter(other, housed[0], 2, 5) == 1
    one.leave(homeless)
    assert enter(one, homeless, 2) == 0  # what the other has is seen
    other.leave(homeless)
    assert enter(one, homeless, 2) == 0 < enter(one, homeless, 3)


def test_a_homeless_source_has_a_rate_of_its_own() -> None:
    one, other = two()
    *housed, homeless = of_bucket(WAYS + 1)
    for key in housed:
        enter(one, key, 0)
    assert hit(one, homeless, 10, NOW) == 10
    assert hit(one, homeless, 10, NOW + 1.5) == 5
    assert hit(other, homeless, 10, NOW) == 10


def test_homeless_sources_without_a_connection_are_forgotten_when_there_are_many() -> None:
    one, _ = two()
    keys = of_bucket(WAYS + MAX_HOMELESS + 10)
    for key in keys[:WAYS]:
        enter(one, key, 0)
    assert enter(one, keys[WAYS], 1) == 1
    for key in keys[WAYS + 1 :]:
        assert enter(one, key, 1) == 1
        one.leave(key)
    assert enter(one, keys[WAYS], 1) == 0  # it is here, and was not forgotten
    one.leave(keys[WAYS])
    assert enter(one, keys[WAYS], 1) == 1


# --- places ---


def test_a_place_is_given_to_another_when_its_source_has_no_connection_and_no_rate() -> None:
    one, other = two()
    *housed, late = of_bucket(WAYS + 1)
    for key in housed:
        enter(one, key, 2)
    one.leave(housed[3])
    assert enter(one, late, 2) == 1
    assert enter(other, late, 1) == 0  # it has a place, where others see it
    assert enter(one, housed[3], 2, 3) == 2  # whose place is gone is counted anew


@pytest.mark.parametrize(("later", "room"), [(0.0, 0), (0.9, 0), (1.0, 0), (1.5, 5), (1.75, 7)])
def test_a_place_is_kept_while_its_window_can_still_count(later: float, room: int) -> None:
    one, other = two()
    *housed, late = of_bucket(WAYS + 1)
    assert [hit(one, key, 10, NOW) for key in housed] == [10] * WAYS
    enter(one, late, 1, now=NOW + later)
    assert enter(other, late, 1) == 1  # the first table had no place for it
    assert hit(one, housed[0], 10, NOW + later) == room


def test_a_place_is_given_away_when_its_windows_are_over() -> None:
    one, other = two()
    *housed, late = of_bucket(WAYS + 1)
    for key in housed:
        hit(one, key, 10, NOW)
    assert enter(one, late, 1, now=NOW + 2) == 1
    assert enter(other, late, 1) == 0


def test_a_place_with_a_connection_is_never_given_away() -> None:
    one, other = two()
    *housed, late = of_bucket(WAYS + 1)
    for key in housed:
        enter(one, key, 1)
        hit(one, key, 10, NOW)
    enter(one, late, 1, now=NOW + 1e6)
    assert [enter(other, key, 1) for key in housed] == [0] * WAYS
    for key in housed:
        one.leave(key)
    assert [enter(other, key, 1) for key in housed] == [1] * WAYS


# --- rates ---


def test_a_rate_slides_from_one_second_to_the_next() -> None:
    one, _ = two()
    assert hit(one, ANY, 10, NOW) == 10
    assert hit(one, ANY, 10, NOW + 0.99) == 0
    assert hit(one, ANY, 10, NOW + 1.5) == 5
    assert hit(one, ANY, 10, NOW + 1.75) == 2  # a quarter of ten is 2.5, five are here
    assert hit(one, ANY, 10, NOW + 3.0) == 10  # nothing of the window before is left


def test_a_rate_is_one_over_all_tables() -> None:
    one, other = two()
    assert hit(one, ANY, 10, NOW, 6) == 6
    assert hit(other, ANY, 10, NOW) == 4
    assert hit(one, ANY, 10, NOW) == 0
    assert hit(other, ANY, 10, NOW + 1.5) == 5
    assert hit(one, OTHER, 10, NOW) == 10


def test_no_second_however_it_lies_has_more_than_the_rate_and_a_window() -> None:
    """A window that slides guesses that the hits of the one before came evenly: twice the rate is its worst."""
    one, _ = two()
    times = [NOW + i / 100 for i in range(500)]
    passed = [now for now in times for _ in range(3) if one.hit(ANY, 20, now)]
    assert len(passed) <= 20 * 6
    assert max(sum(start <= now < start + 1 for now in passed) for start in times) <= 40


def test_the_seconds_of_a_rate_may_begin_again() -> None:
    one, _ = two()
    last = float(FIELD)
    assert hit(one, ANY, 10, last + 0.5) == 10
    assert hit(one, ANY, 10, last + 1.5) == 5
    assert hit(one, ANY, 10, last + 3.0) == 10


def test_a_rate_and_a_count_of_one_source_do_not_touch_each_other() -> None:
    one, other = two()
    assert enter(one, ANY, 2, 3) == 2
    assert hit(one, ANY, 5, NOW) == 5
    assert enter(other, ANY, 2) == 0
    one.leave(ANY)
    one.leave(ANY)
    assert hit(other, ANY, 5, NOW) == 0
    assert enter(other, ANY, 2, 3) == 2


def test_a_cell_of_a_rate_slides_by_whole_windows() -> None:
    rate = 100 << 40 | 3 << 20 | 8
    assert slide(rate, 100) == (3, 8)
    assert slide(rate, 101) == (8, 0)
    assert slide(rate, 102) == slide(rate, 99) == slide(0, 100) == (0, 0)
    assert estimate((8, 2), 0.25) == 4.0
