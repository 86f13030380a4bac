"""The file between workers and `prefork capture`: batches whole, many writers, and what is no batch."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest

from prefork.errors import RemoteProtocolError
from prefork.spool import MAX_PARTS, Batch, Event, read_batches, sign


@pytest.fixture
def spool() -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        yield file.fileno()


def write(spool: int, batch: Batch) -> int:
    size, parts = batch.take()
    assert os.writev(spool, parts) == size
    return size


def test_what_is_written_is_read_with_who_when_and_which_connection(spool: int) -> None:
    one, other = Batch(7), Batch(8)
    one.add(sign(Event.OPENED, 5), 100, b"{}")
    one.add(sign(Event.RECEIVED, 5), 101, b"question")
    other.add(sign(Event.SENT, 5), 102, b"")
    first = write(spool, one)
    second = write(spool, other)
    one.add(sign(Event.CLOSED, 5), 103, b"done")
    third = write(spool, one)
    assert list(read_batches(spool, 0)) == [
        (first, 7, [(Event.OPENED, 5, 100, b"{}"), (Event.RECEIVED, 5, 101, b"question")]),
        (first + second, 8, [(Event.SENT, 5, 102, b"")]),
        (first + second + third, 7, [(Event.CLOSED, 5, 103, b"done")]),
    ]
    assert [who for _, who, _ in read_batches(spool, first)] == [8, 7]


def test_more_events_than_one_writev_takes_are_one_batch(spool: int) -> None:
    batch = Batch(1)
    for number in range(3 * MAX_PARTS):
        batch.add(sign(Event.RECEIVED, number), number, str(number).encode())
    write(spool, batch)
    ((_, _, events),) = read_batches(spool, 0)
    assert [told for *_, told in events] == [str(number).encode() for number in range(3 * MAX_PARTS)]


def test_a_batch_that_is_still_being_written_comes_later(spool: int) -> None:
    batch = Batch(1)
    batch.add(sign(Event.RECEIVED, 1), 1, b"question")
    size, parts = batch.take()
    whole = b"".join(parts)
    for end in range(size):
        os.pwrite(spool, whole[end : end + 1], end)
        assert bool(list(read_batches(spool, 0))) == (end == size - 1)


@pytest.mark.parametrize("place", [24, 24 + 16])
def test_a_batch_that_contradicts_itself_is_refused_and_not_guessed_at(spool: int, place: int) -> None:
    batch = Batch(1)
    batch.add(sign(Event.RECEIVED, 1), 1, b"question")
    write(spool, batch)
    os.pwrite(spool, b"\xff\xff\xff\xff", place)
    with pytest.raises(RemoteProtocolError, match="cannot read what was captured"):
        list(read_batches(spool, 0))


def test_what_a_writer_left_that_was_killed_is_passed_over_wherever_it_was_cut(spool: int) -> None:
    torn, whole = Batch(1), Batch(2)
    torn.add(sign(Event.RECEIVED, 1), 1, b"question")
    whole.add(sign(Event.RECEIVED, 2), 2, b"the next, which is longer than what is missing of the first")
    left, size = (b"".join(batch.take()[1]) for batch in (torn, whole)), 0
    first, second = left
    for size in range(4, len(first)):  # the mark is whole, or the batch before is passed over, too
        os.ftruncate(spool, 0)
        os.pwrite(spool, second + first[:size] + second, 0)
        found = list(read_batches(spool, 0))
        assert [who for _, who, _ in found] == [2, 2]
        assert found[1][0] == 2 * len(second) + size
