"""What the service manager is told, and when: with an ear in place of a socket, and a clock set by hand."""

from __future__ import annotations

import os
import selectors
from types import SimpleNamespace
from typing import Any, cast

import pytest

from prefork.process.course import Course, Ending
from prefork.process.crew import Crew
from prefork.process.kernel import Kernel
from prefork.process.notify import MAX_STATUS, MAX_UNSENT, Notifier, take_notifier
from prefork.process.reload import Phase, Verdict
from prefork.process.reloads import Reloads
from prefork.process.roster import Roster, State, WorkerRecord
from prefork.scoreboard import Cell

WATCHDOG_SECONDS = 10.0


class FakeEar:
    """Keeps what it hears; it may be full."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.is_full = False
        self.is_closed = False

    def hear(self, message: str) -> bool:
        if not self.is_full:
            self.heard.append(message)
        return not self.is_full

    def close(self) -> None:
        self.is_closed = True


class FakeReloads:
    """Reloads of which a test says how far they are."""

    def __init__(self) -> None:
        self.begun = 0
        self.running: Any = None
        self.last: Verdict | None = None

    def begin(self) -> None:
        self.begun += 1
        self.running = SimpleNamespace(status=lambda: {"phase": Phase.IMPORTING.value})

    def end(self, verdict: str, reason: str = "") -> None:
        self.running, self.last = None, Verdict(verdict, reason)


class Server:
    """The books of a server of two workers."""

    def __init__(self, watchdog: float = 0.0) -> None:
        self.now = 1000.0
        self.ear = FakeEar()
        self.course = Course(2, lambda: self.now)
        self.reloads = FakeReloads()
        self.roster = Roster()
        self.notifier = Notifier(self.ear, watchdog, lambda: self.now)

    def add(self, slot: int, state: State = State.READY, connections: int = 0) -> WorkerRecord:
        cells = dict.fromkeys(Cell, 0) | {Cell.OPEN: connections}
        record = WorkerRecord(
            slot, self.course.target.generation, self.now, state, link=SimpleNamespace(page=cells)
        )
        self.roster.add(record)
        return record

    def take(self, seconds: float = 0.0) -> list[str]:
        """Go on after some seconds; return what was said."""
        self.now += seconds
        crew = cast("Crew", SimpleNamespace(roster=self.roster))
        self.notifier.follow(self.course, cast("Reloads", self.reloads), crew)
        heard, self.ear.heard = self.ear.heard, []
        return heard

    def boot(self) -> None:
        for slot in range(2):
            self.add(slot)
        self.take()


def words(messages: list[str]) -> list[str]:
    """Return the first word of each message."""
    return [message.partition("=")[0] for message in messages]


# --- life ---


def test_it_is_ready_when_every_worker_is() -> None:
    server = Server()
    server.add(0)
    second = server.add(1, State.STARTING)
    assert server.take() == ["STATUS=1 of 2 workers of generation 1, 0 connections"]
    second.state = State.READY
    assert server.take() == ["READY=1\nSTATUS=2 workers of generation 1, 0 connections"]
    assert server.take(10) == []


def test_ready_is_said_once_though_workers_come_and_go() -> None:
    server = Server()
    server.boot()
    server.roster.remove(server.roster.records[0])
    assert words(server.take(1)) == ["STATUS"]
    server.add(0)
    assert words(server.take(1)) == ["STATUS"]


def test_a_reload_is_told_with_the_time_and_ends_by_ready() -> None:
    server = Server()
    server.boot()
    server.reloads.begin()
    assert server.take() == [
        "RELOADING=1\nMONOTONIC_USEC=1000000000\n"
        "STATUS=reloading, importing the app: 2 workers of generation 1, 0 connections"
    ]
    assert server.take(5) == []
    server.reloads.end("committed")
    assert words(server.take()) == ["READY"]
    assert server.take(5) == []


def test_a_reload_that_is_refused_within_one_step_is_told_whole() -> None:
    server = Server()
    server.boot()
    server.reloads.begin()
    server.reloads.end("refused", "test.yaml:1:1: unknown key\nmore")
    first, second = server.take()
    assert first.startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert second == (
        "READY=1\nSTATUS=2 workers of generation 1, 0 connections; "
        "the last reload was refused: test.yaml:1:1: unknown key more"
    )
    server.reloads.begin()
    server.reloads.end("committed")
    assert "refused" not in server.take()[1]


def test_two_reloads_in_a_row_are_two() -> None:
    server = Server()
    server.boot()
    for _ in range(2):
        server.reloads.begin()
        assert words(server.take()) == ["RELOADING"]
        server.reloads.end("committed")
        assert words(server.take()) == ["READY"]


@pytest.mark.parametrize("is_over", [True, False])
def test_a_reload_that_began_before_the_boot_was_complete_is_told_if_it_goes_on(is_over: bool) -> None:
    server = Server()
    server.reloads.begin()
    server.take()
    for slot in range(2):
        server.add(slot)
    if is_over:
        server.reloads.end("refused")
    assert words(server.take()) == ["READY"]
    assert words(server.take()) == ([] if is_over else ["RELOADING"])


@pytest.mark.parametrize("ending", [Ending.DELAYED, Ending.DRAINING, Ending.IMMEDIATE])
def test_a_stop_is_told_once_and_nothing_of_the_kind_after_it(ending: Ending) -> None:
    server = Server()
    server.boot()
    server.reloads.begin()
    server.take()
    server.course.end(ending)
    server.reloads.end("refused", "the server stops")
    assert server.take() == ["STOPPING=1\nSTATUS=stopping: 2 workers, 0 connections"]
    server.course.end(Ending.IMMEDIATE)
    server.roster.remove(server.roster.records[0])
    assert server.take(1) == ["STATUS=stopping: 1 worker, 0 connections"]


def test_a_stop_before_the_boot_is_complete_is_never_ready() -> None:
    server = Server()
    server.course.end(Ending.IMMEDIATE)
    for slot in range(2):
        server.add(slot)
    assert words(server.take()) == ["STOPPING"]
    assert server.take(5) == []


# --- the line ---


def test_the_line_is_told_when_it_changes_and_once_a_second_at_most() -> None:
    server = Server()
    server.boot()
    page = server.roster.records[0].link.page
    said = []
    for connections in range(1, 41):
        page[Cell.OPEN] = connections
        said += server.take(0.125)
    assert len(said) == 5
    assert said[-1] == "STATUS=2 workers of generation 1, 40 connections"
    assert server.take(10) == []


def test_the_line_is_one_and_no_longer_than_what_is_read() -> None:
    server = Server()
    server.boot()
    server.reloads.begin()
    server.reloads.end("refused", "a\nREADY=1\nb " + "é" * 5000)
    _, message = server.take()
    assert message.count("\n") == 1
    assert len(message) <= MAX_STATUS + len("READY=1\nSTATUS=")


# --- the watchdog ---


def test_signs_of_life_come_twice_in_the_time_that_is_given() -> None:
    server = Server(WATCHDOG_SECONDS)
    server.boot()
    beats = sum(server.take(0.5).count("WATCHDOG=1") for _ in range(100))
    assert beats == 50 / (WATCHDOG_SECONDS / 2)
    (deadline,) = server.notifier.deadlines()
    assert server.now < deadline <= server.now + WATCHDOG_SECONDS / 2


def test_the_line_is_told_beside_signs_of_life_that_come_with_every_look() -> None:
    server = Server(watchdog=1.0)
    server.boot()
    server.roster.records[0].link.page[Cell.OPEN] = 7
    said = [server.take(0.5) for _ in range(4)]
    assert [message for messages in said for message in messages if message.startswith("STATUS")] == [
        "STATUS=2 workers of generation 1, 7 connections"
    ]


def test_no_watchdog_no_signs_of_life() -> None:
    server = Server()
    server.boot()
    assert server.take(100) == []
    assert list(server.notifier.deadlines()) == []


# --- who does not listen ---


def test_what_finds_no_room_is_said_again_in_its_order() -> None:
    server = Server(WATCHDOG_SECONDS)
    server.ear.is_full = True
    server.boot()
    server.reloads.begin()
    assert server.take(20) == []
    server.ear.is_full = False
    assert words(server.take(0.5)) == ["READY", "WATCHDOG", "RELOADING"]


def test_who_never_has_room_costs_no_memory() -> None:
    server = Server(WATCHDOG_SECONDS)
    server.boot()
    server.ear.is_full = True
    for _ in range(100):
        server.reloads.begin()
        server.reloads.end("refused")
        server.take(10)
    server.ear.is_full = False
    heard = server.take()
    assert len(heard) <= MAX_UNSENT
    assert [word for word in words(heard) if word != "WATCHDOG"][-1] == "READY"


def test_without_anybody_who_listens_nothing_is_done() -> None:
    environ = {"WATCHDOG_USEC": "1000000", "HOME": "/"}
    notifier = take_notifier(environ)
    course = Course(1, lambda: 0.0)
    with selectors.DefaultSelector() as selector:
        notifier.follow(course, Reloads(), Crew(Kernel(), lambda: 0.0, selector, cast("Any", None)))
    assert list(notifier.deadlines()) == []
    notifier.close()
    assert environ == {"HOME": "/"}


@pytest.mark.parametrize("name", ["vsock:2:1234", "relative/path", "/", "@"])
def test_a_name_of_another_kind_is_told_and_passed_over(name: str, caplog: pytest.LogCaptureFixture) -> None:
    environ = {"NOTIFY_SOCKET": name}
    assert list(take_notifier(environ).deadlines()) == []
    assert name in caplog.text
    assert environ == {}


@pytest.mark.parametrize(
    ("usec", "pid", "is_watched"),
    [
        ("3000000", "", True),
        ("3000000", "mine", True),
        ("3000000", "1", False),
        ("", "", False),
        ("0", "", False),
        ("-5", "", False),
        ("many", "", False),
    ],
)
def test_the_watchdog_is_for_the_process_that_it_names(usec: str, pid: str, is_watched: bool) -> None:
    named = pid.replace("mine", str(os.getpid()))
    environ = {"NOTIFY_SOCKET": "@nobody", "WATCHDOG_USEC": usec, "WATCHDOG_PID": named}
    notifier = take_notifier(environ)
    try:
        assert len(list(notifier.deadlines())) == is_watched
    finally:
        notifier.close()
    assert environ == {}
