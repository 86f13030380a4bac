"""The state of `prefork top`: what the server has answered, which keys were pressed, what is to be asked next.

Pure: answers, keys and the time come in, questions and pictures come out.

Knows: commands of the control socket, keys. Does not know: sockets, terminals, how a picture is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from prefork.glyphs import number, printable, show_span
from prefork.screen import (
    CONNECTION_COLUMNS,
    UNSORTED,
    WORKER_COLUMNS,
    Picture,
    Row,
    describe_verdict,
    rows_of,
)

SILENCE = 3.0  # seconds without an answer of which the reader is told
KEPT_EVENTS = 200  # as many as the server keeps
MAX_CONNECTIONS = 1000  # that are asked for
WORKER_RATES = {"accepts": "accepted"}
LISTENER_RATES = {"accepts": "accepted", "receives": "received_bytes", "sends": "sent_bytes"}
KEYS = "s sort ({}), r reload, +/- scale, d stop, c connections, q quit"


class View(Enum):
    """Which table is shown; the value has the columns by which it can be sorted."""

    WORKERS = tuple(column for column in WORKER_COLUMNS if column.order is not UNSORTED)
    CONNECTIONS = tuple(column for column in CONNECTION_COLUMNS if column.order is not UNSORTED)


class Stage(Enum):
    """Where the reader is."""

    WATCHING = "watching"
    CONFIRMING = "confirming"  # whether the server is to stop
    STOPPING = "stopping"  # it was told to
    LEFT = "left"


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be asked."""

    command: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sample:
    """A status, and when it came."""

    status: Row
    at: float


class Overview:
    """Takes keys and answers; of each command at most one question is under way.

    Attributes:
        stage: where the reader is.
    """

    def __init__(self) -> None:
        self.stage = Stage.WATCHING
        self._sample: Sample | None = None
        self._status: Row | None = None
        self._events: list[Row] = []
        self._has_events = True
        self._connections: list[Row] | None = None
        self._view = View.WORKERS
        self._sort = 0
        self._scale = 0
        self._message = ""
        self._pending: dict[str, float] = {}
        self._questions: list[Question] = []

    def take_questions(self) -> list[Question]:
        """Return what is to be asked now."""
        questions, self._questions = self._questions, []
        return questions

    def tick(self, now: float) -> None:
        """Ask for news."""
        self._ask(now, "status")
        if self._status is not None and "events" not in self._status and self._has_events:
            self._ask(now, "events", since=self._last_event())
        if self._view is View.CONNECTIONS:
            self._ask_connections(now)

    def _last_event(self) -> int:
        last = self._events[-1].get("id") if self._events else 0
        return last if isinstance(last, int) else 0

    def _ask(self, now: float, command: str, **arguments: Any) -> bool:
        if command in self._pending:
            return False
        self._pending[command] = now
        self._questions.append(Question(command, arguments))
        return True

    # --- keys ---

    def press(self, key: str, now: float) -> None:
        """Do what a key says."""
        if self.stage is Stage.CONFIRMING:
            self._confirm(key, now)
            return
        self._message = ""
        match key:
            case "q":
                self.stage = Stage.LEFT
            case "s":
                self._sort = (self._sort + 1) % len(self._view.value)
            case "c":
                self._toggle(now)
            case "r":
                self._ask(now, "reload")
            case "+" | "-":
                self._scale += 1 if key == "+" else -1
                self._ask_scale(now)
            case "d" if self.stage is Stage.WATCHING:
                self.stage = Stage.CONFIRMING

    def _confirm(self, key: str, now: float) -> None:
        self.stage = Stage.STOPPING if key == "y" else Stage.WATCHING
        self._message = "" if key == "y" else "not stopped"
        if key == "y":
            self._ask(now, "stop")

    def _toggle(self, now: float) -> None:
        self._sort, self._connections = 0, None
        self._view = View.CONNECTIONS if self._view is View.WORKERS else View.WORKERS
        if self._view is View.CONNECTIONS:
            self._ask_connections(now)

    def _ask_connections(self, now: float) -> None:
        is_by_bytes = self._view.value[self._sort].key in ("received", "sent")
        self._ask(now, "conns", limit=MAX_CONNECTIONS, order="bytes" if is_by_bytes else "age")

    def _ask_scale(self, now: float) -> None:
        if self._scale and self._ask(now, "scale", count=f"{self._scale:+d}"):
            self._scale = 0

    # --- answers ---

    def take(self, command: str, result: Any, now: float) -> None:
        """Take the answer to a question."""
        self._pending.pop(command, None)
        match command:
            case "status" if isinstance(result, dict):
                after = Sample(result, now)
                self._status = measure(self._sample, after)
                self._sample = after
                if "events" in result:
                    self._events = rows_of(result["events"])[-KEPT_EVENTS:]
            case "events":
                self._events = [*self._events, *rows_of(result)][-KEPT_EVENTS:]
            case "conns" if self._view is View.CONNECTIONS:
                self._connections = rows_of(result)
            case "reload":
                self._message = describe_verdict(result if isinstance(result, dict) else {})
            case "scale":
                self._message = printable(result.get("change") if isinstance(result, dict) else result)
                self._ask_scale(now)

    def refuse(self, command: str, error: str) -> None:
        """Take it that the server will not do it."""
        self._pending.pop(command, None)
        match command:
            case "events":
                self._has_events = False
                return
            case "conns":
                self._view, self._sort, self._connections = View.WORKERS, 0, None
            case "scale":
                self._scale = 0
            case "stop":
                self.stage = Stage.WATCHING
        self._message = printable(f"{command} refused: {error}")

    def lose(self) -> None:
        """Take it that what was asked will not be answered, though the server lives."""
        lost = ", ".join(self._pending)
        if "conns" in self._pending:
            self._view, self._sort, self._connections = View.WORKERS, 0, None
        self._pending.clear()
        self._questions.clear()
        self._scale, self._sample = 0, None
        self._message = f"the connection was lost and made anew; not answered: {lost or 'nothing'}"

    # --- what is to be seen ---

    def picture(self, now: float) -> Picture:
        """Return what is known at a moment."""
        column = self._view.value[self._sort]
        return Picture(
            status=self._status,
            sort=column,
            events=self._events,
            connections=self._connections,
            foot=[text for text in (self._tell(now), KEYS.format(column.title.lower())) if text],
        )

    def _tell(self, now: float) -> str:
        if self.stage is Stage.CONFIRMING:
            return "stop the server when what is open is finished? y: yes, any other key: no"
        told = [self._message] if self._message else []
        silent = now - self._pending.get("status", now)
        if silent >= SILENCE:
            told.insert(0, f"no answer for {show_span(silent)}")
        if "reload" in self._pending:
            told.append(f"reloading for {show_span(now - self._pending['reload'])}")
        if self.stage is Stage.STOPPING:
            told.append("the server stops when what is open is finished")
        return ", ".join(told)


# --- differences ---


def measure(before: Sample | None, after: Sample) -> dict[str, Any]:
    """Return a status with the rates since another one: `rates` of the server, and more keys in its rows.

    A counter that is new, or has gone down (another server answers), has no rate: None.
    """
    elapsed = after.at - before.at if before else 0.0
    was: Row = before.status if before and elapsed > 0 else {}
    old_workers = {_identity(row): row for row in rows_of(was.get("workers"))}
    old_listeners = {str(row.get("name")): row for row in rows_of(was.get("listeners"))}

    def rates(old: Row, new: Row, names: Mapping[str, str]) -> dict[str, float | None]:
        return {name: _rate(old.get(key), new.get(key), elapsed) for name, key in names.items()}

    old, new = _sums(was), _sums(after.status)
    return {
        **after.status,
        "rates": rates(old, new, {key: key for key in new}),
        "workers": [
            {**row, **rates(old_workers.get(_identity(row), {}), row, WORKER_RATES)}
            for row in rows_of(after.status.get("workers"))
        ],
        "listeners": [
            {**row, **rates(old_listeners.get(str(row.get("name")), {}), row, LISTENER_RATES)}
            for row in rows_of(after.status.get("listeners"))
        ],
    }


def _identity(row: Row) -> str:
    return f"{row.get('slot')} {row.get('pid')} {row.get('generation')}"


def _sums(status: Row) -> dict[str, Any]:
    counters, rejected = status.get("counters"), status.get("rejected")
    sums = dict(counters) if isinstance(counters, dict) else {}
    if isinstance(rejected, dict):
        sums["rejected"] = sum(number(count) or 0.0 for count in rejected.values())
    return sums


def _rate(old: object, new: object, elapsed: float) -> float | None:
    before, after = number(old), number(new)
    if before is None or after is None or elapsed <= 0 or after < before:
        return None
    return (after - before) / elapsed
