"""Messages of one kind are told a few times, then counted; the count is told when the window ends."""

from __future__ import annotations

import logging

import pytest

from prefork.net.fold import MAX_KINDS, OTHER_KINDS, WINDOW_SECONDS, Fold


def test_the_first_of_a_kind_is_told_and_the_others_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    fold = Fold()
    assert [fold.admits("echo", "garbage", 5.0) for _ in range(413)] == [True] + [False] * 412
    fold.flush(5.0 + WINDOW_SECONDS - 0.1)
    assert caplog.messages == []
    fold.flush(5.0 + WINDOW_SECONDS)
    assert caplog.messages == ["412 similar in 10 s: garbage"]
    assert fold.admits("echo", "garbage", 16.0)
    fold.flush(99.0)
    assert len(caplog.messages) == 1


def test_more_than_one_may_be_told_of_each_window(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    fold = Fold()
    assert [fold.admits("echo", "ValueError", 0.0, most=3) for _ in range(5)] == [True] * 3 + [False] * 2
    fold.flush(WINDOW_SECONDS)
    assert caplog.messages == ["2 similar in 10 s: ValueError"]


def test_listeners_and_kinds_are_told_apart() -> None:
    fold = Fold()
    assert all(fold.admits(name, kind, 0.0) for name in ("a", "b") for kind in ("x", "y"))
    assert not any(fold.admits(name, kind, 0.0) for name in ("a", "b") for kind in ("x", "y"))


def test_a_flood_of_kinds_takes_no_more_room_than_some(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    fold = Fold()
    told = sum(fold.admits("a", f"kind {number}", 0.0) for number in range(10_000))
    assert told == MAX_KINDS + 1
    fold.flush(WINDOW_SECONDS)
    assert caplog.messages == [f"{10_000 - told} similar in 10 s: {OTHER_KINDS}"]
