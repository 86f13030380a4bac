"""Shared memory: seats, pages, counters."""

from __future__ import annotations

from itertools import pairwise

import pytest

from prefork.net.ledger import Ledger
from prefork.net.sources import SourceTable
from prefork.net.tally import Tally
from prefork.scoreboard import (
    CELL_BYTES,
    COUNTERS,
    DURATION,
    DURATION_BOUNDS,
    FIRST_LISTENER,
    FRAME_BOUNDS,
    FRAMES,
    HANDSHAKE,
    HANDSHAKE_BOUNDS,
    LISTENER_CELLS,
    MAX_LISTENERS,
    NOTICE_BYTES,
    PAGE_BYTES,
    REJECTED,
    TRIED,
    Cell,
    Count,
    Notice,
    Rule,
    Scoreboard,
    block,
    sum_blocks,
)


def test_every_seat_is_lent_once_until_it_is_given_back() -> None:
    scoreboard = Scoreboard(3)
    seats = [scoreboard.borrow() for _ in range(3)]
    assert sorted(seats) == [0, 1, 2]
    with pytest.raises(IndexError):
        scoreboard.borrow()
    scoreboard.give_back(1)
    assert scoreboard.borrow() == 1


def test_a_seat_is_clean_when_it_is_lent_again_and_its_neighbours_are_as_they_were() -> None:
    scoreboard = Scoreboard(3)
    for seat in range(3):
        page = scoreboard.page(seat)
        for cell in Cell:
            page[cell] = seat + 1
    scoreboard.give_back(1)
    assert [[scoreboard.page(seat)[cell] for cell in Cell] for seat in range(3)] == [
        [1] * len(Cell),
        [0] * len(Cell),
        [3] * len(Cell),
    ]


def test_a_cell_holds_what_a_clock_in_nanoseconds_needs() -> None:
    page = Scoreboard(1).page(0)
    page[Cell.BEAT] = 2**64 - 1
    assert page[Cell.BEAT] == 2**64 - 1
    assert page.nbytes == PAGE_BYTES
    assert len(Cell) * CELL_BYTES <= PAGE_BYTES


def test_counters_are_what_only_ever_grows() -> None:
    assert set(Count) - set(COUNTERS) == {Count.OPEN}


def test_the_blocks_of_all_listeners_lie_in_the_page_behind_the_process_and_do_not_overlap() -> None:
    page = Scoreboard(1).page(0)
    for place in range(MAX_LISTENERS):
        block(page, place)[:] = memoryview(bytes([place + 1]) * 8 * LISTENER_CELLS).cast("Q")
    for place in range(MAX_LISTENERS):
        assert bytes(block(page, place)) == bytes([place + 1]) * 8 * LISTENER_CELLS
    assert set(page[:FIRST_LISTENER]) == {0}
    assert max(TRIED + rule for rule in Rule) < LISTENER_CELLS
    parts = [(0, max(Count) + 1), (REJECTED, len(Rule)), (FRAMES, len(FRAME_BOUNDS) + 2), (TRIED, len(Rule))]
    parts += [(DURATION, len(DURATION_BOUNDS) + 2), (HANDSHAKE, len(HANDSHAKE_BOUNDS) + 2), (LISTENER_CELLS, 0)]
    assert all(first + size <= after for (first, size), (after, _) in pairwise(parts))


def test_what_a_dead_worker_wrote_is_cleared_with_its_seat() -> None:
    scoreboard = Scoreboard(2)
    seat = scoreboard.borrow()
    sources = SourceTable(scoreboard.rows, seat)
    assert sources.enter(sources.key_of(b"1234"), 5, 0.0)
    other = SourceTable(scoreboard.rows, scoreboard.borrow())
    assert not other.enter(other.key_of(b"1234"), 1, 0.0)
    scoreboard.give_back(seat)
    assert other.enter(other.key_of(b"1234"), 1, 0.0)


def test_a_notice_is_read_whole_with_its_version_or_not_at_all() -> None:
    notice = Notice()
    assert notice.read() == (0, b"")
    notice.post(b"first")
    assert notice.read() == (2, b"first")
    notice.post(b"2")
    assert notice.read() == (4, b"2")
    with pytest.raises(ValueError, match="too long"):
        notice.post(bytes(NOTICE_BYTES + 1))
    assert notice.read() == (4, b"2")


def test_a_ledger_and_its_tally_tell_their_page_of_every_change() -> None:
    page = Scoreboard(1).page(0)
    tally = Tally(page)
    ledgers = [Ledger(tally, place) for place in range(2)]
    assert [ledgers[0].count_opened() for _ in range(3)] == [1, 2, 3]
    assert ledgers[1].count_opened() == 1
    ledgers[0].count_closed("")
    ledgers[0].count(Count.ERRORS)
    ledgers[0].count_rule(Rule.PER_IP, is_dry=False)
    ledgers[0].count_rule(Rule.PER_IP, is_dry=True)
    ledgers[1].note_end(0.5)
    ledgers[1].count_bytes(7, 8)
    tally.write(Cell.RSS, 4096)
    assert (page[Cell.ACCEPTED], page[Cell.OPEN], page[Cell.RSS]) == (4, 3, 4096)
    ledgers[1].note_frames(4, 0.008)
    ledgers[1].note_frames(1, 60.0)
    assert block(page, 1)[FRAMES + 3] == 0
    ledgers[1].tell_times()
    first, second = block(page, 0), block(page, 1)
    assert (first[Count.ACCEPTED], first[Count.CLOSED], first[Count.ERRORS]) == (3, 1, 1)
    assert (first[REJECTED + Rule.PER_IP], first[TRIED + Rule.PER_IP], first[REJECTED + Rule.DENY]) == (1, 1, 0)
    assert (second[Count.ACCEPTED], second[Count.RECEIVED_BYTES], second[Count.SENT_BYTES]) == (1, 7, 8)
    assert block(page, 0)[Count.OPEN] == ledgers[0].open == 2
    assert second[FRAMES : FRAMES + len(FRAME_BOUNDS) + 2].tolist() == [0, 0, 0, 4, *[0] * 7, 1, 60_008_000_000]
    assert sum_blocks([first.tolist(), second.tolist()])[Count.ACCEPTED] == 4
