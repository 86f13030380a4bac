"""Shared memory: seats, pages, counters."""

from __future__ import annotations

import pytest

from prefork.net.tally import Tally
from prefork.scoreboard import CELL_BYTES, COUNTERS, PAGE_BYTES, Cell, Scoreboard, read_counters


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
    assert [list(scoreboard.page(seat)[: len(Cell)]) for seat in range(3)] == [
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
    assert set(Cell) - set(COUNTERS) == {Cell.BEAT, Cell.OPEN, Cell.RSS}
    assert read_counters(Scoreboard(1).page(0)) == dict.fromkeys(COUNTERS, 0)


def test_a_tally_tells_its_page_of_every_change() -> None:
    page = Scoreboard(1).page(0)
    tally = Tally(page)
    for _ in range(3):
        tally.count_opened()
    tally.count_closed()
    tally.count(Cell.ERRORS)
    tally.write(Cell.RSS, 4096)
    assert (page[Cell.ACCEPTED], page[Cell.CLOSED], page[Cell.OPEN]) == (3, 1, 2)
    assert page[Cell.ACCEPTED] - page[Cell.CLOSED] == page[Cell.OPEN] == tally.open
    assert (page[Cell.ERRORS], page[Cell.RSS]) == (1, 4096)
