"""Signals as the master gets them: none of a kind is lost, and the loop is woken."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator

import pytest

from prefork.process.kernel import HANDLED
from prefork.process.signals import SignalInbox


@pytest.fixture
def inbox() -> Iterator[SignalInbox]:
    before = {number: signal.getsignal(number) for number in HANDLED}
    made = SignalInbox()
    yield made
    made.close()
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def is_readable(inbox: SignalInbox) -> bool:
    return bool(select.select([inbox], [], [], 0)[0])


def test_signals_are_given_in_the_order_of_their_coming_and_once(inbox: SignalInbox) -> None:
    for number in HANDLED:
        send(number)
    assert is_readable(inbox)
    assert inbox.take() == list(HANDLED)
    assert inbox.take() == []
    assert not is_readable(inbox)


def test_a_thousand_signals_fill_no_pipe_and_lose_no_kind(inbox: SignalInbox) -> None:
    for number in range(1000):
        send(HANDLED[number % len(HANDLED)])
    assert is_readable(inbox)
    assert set(inbox.take()) == set(HANDLED)


def test_more_signals_than_the_pipe_holds_bytes_are_no_trouble(inbox: SignalInbox) -> None:
    for _ in range(70_000):
        send(signal.SIGHUP)
    assert is_readable(inbox)
    assert set(inbox.take()) == {signal.SIGHUP}
    assert not is_readable(inbox)


def test_two_terms_are_two(inbox: SignalInbox) -> None:
    """Regression 16: the second one means now."""
    send(signal.SIGTERM)
    send(signal.SIGTERM)
    assert inbox.take() == [signal.SIGTERM, signal.SIGTERM]


def test_a_signal_ends_the_wait_of_a_select(inbox: SignalInbox) -> None:
    send(signal.SIGCHLD)
    assert select.select([inbox], [], [], 5)[0] == [inbox]


def test_after_its_end_a_late_signal_does_not_kill_who_is_about_to_exit() -> None:
    before = {number: signal.getsignal(number) for number in HANDLED}
    SignalInbox().close()
    for number in HANDLED:
        send(number)
    for number, handler in before.items():
        signal.signal(number, handler)
