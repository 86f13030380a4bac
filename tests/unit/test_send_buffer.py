"""The queue of bytes that the kernel did not take: order, sizes, water marks."""

from __future__ import annotations

import random

import pytest

from prefork.net.send_buffer import HIGH_WATER_BYTES, LOW_WATER_BYTES, MAX_VECTORS, SendBuffer


def test_what_goes_in_comes_out_in_order_whatever_the_kernel_takes_each_time() -> None:
    for seed in range(500):
        dice = random.Random(seed)
        buffer, expected, sent = SendBuffer(), bytearray(), bytearray()
        while len(expected) < 5000 or buffer.size:
            if len(expected) < 5000 and dice.random() < 0.6:
                piece = dice.randbytes(dice.randrange(1, 200))
                buffer.append(piece if dice.random() < 0.5 else memoryview(piece))
                expected += piece
            elif buffer.size:
                offered = b"".join(buffer.vectors())
                count = dice.randrange(1, len(offered) + 1)
                sent += offered[:count]
                buffer.drop(count)
            assert buffer.size == len(expected) - len(sent)
        assert sent == expected


def test_no_more_pieces_are_offered_than_one_call_takes() -> None:
    buffer = SendBuffer()
    for _ in range(MAX_VECTORS + 10):
        buffer.append(b"x")
    assert len(buffer.vectors()) == MAX_VECTORS
    buffer.drop(MAX_VECTORS)
    assert len(buffer.vectors()) == 10


def test_clear_forgets_everything() -> None:
    buffer = SendBuffer()
    buffer.append(b"abc")
    buffer.clear()
    assert (buffer.size, buffer.vectors()) == (0, [])


@pytest.mark.parametrize(
    ("high", "low", "expected"),
    [
        (None, None, (HIGH_WATER_BYTES, LOW_WATER_BYTES)),
        (100, None, (100, 25)),
        (None, 100, (400, 100)),
        (100, 100, (100, 100)),
        (0, None, (0, 0)),
        (0, 0, (0, 0)),
    ],
)
def test_the_marks_are_set_as_asyncio_documents_it(
    high: int | None, low: int | None, expected: tuple[int, int]
) -> None:
    buffer = SendBuffer()
    buffer.set_marks(high, low)
    assert (buffer.high, buffer.low) == expected


@pytest.mark.parametrize(("high", "low"), [(10, 20), (-1, None), (10, -1)])
def test_marks_that_make_no_sense_are_refused_and_change_nothing(high: int, low: int | None) -> None:
    buffer = SendBuffer()
    with pytest.raises(ValueError, match="must be"):
        buffer.set_marks(high, low)
    assert (buffer.high, buffer.low) == (HIGH_WATER_BYTES, LOW_WATER_BYTES)
