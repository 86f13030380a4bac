"""Questions to all workers at once, and their answers, which come when they come.

Who does not answer in time is named, and a late answer is dropped.

Knows: questions, who was asked, time. Does not know: what is asked, how orders travel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from prefork.process.messages import Found, Survey
from prefork.process.roster import WorkerRecord

ANSWER_SECONDS = 1.5

Reply = Callable[[Any], None]


@dataclass(slots=True, eq=False)
class Question:
    """One question: who has not answered yet, what has come."""

    conclude: Callable[[list[Any], list[int]], None]
    deadline: float
    waiting: set[int]  # ids of records
    slots: dict[int, int]  # of these
    rows: list[Any] = field(default_factory=list)


class Surveys:
    """The questions under way."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._numbers = count(1)
        self._questions: dict[int, Question] = {}

    def ask(
        self,
        records: Iterable[WorkerRecord],
        command: str,
        arguments: dict[str, Any],
        conclude: Callable[[list[Any], list[int]], None],
        fds: Sequence[int] = (),
    ) -> None:
        """Ask workers.

        Args:
            fds: that go with the question.
            conclude: called once, with all rows, and the slots of those who have not answered.
        """
        asked = [record for record in records if record.pid is not None]
        number = next(self._numbers)
        slots = {id(record): record.slot for record in asked}
        question = Question(conclude, self._clock() + ANSWER_SECONDS, set(slots), slots)
        self._questions[number] = question
        for record in asked:
            record.link.send(Survey(number, command, arguments), fds)
        self._conclude_if_over(number)

    def take(self, record: WorkerRecord, fact: Found) -> None:
        """Take note of an answer, or of a part of one."""
        question = self._questions.get(fact.number)
        if question is None or id(record) not in question.waiting:
            return
        question.rows += fact.rows
        if fact.is_last:
            question.waiting.discard(id(record))
            self._conclude_if_over(fact.number)

    def forget(self, record: WorkerRecord) -> None:
        """Take note that a worker is gone."""
        for number in list(self._questions):
            self._questions[number].waiting.discard(id(record))
            self._conclude_if_over(number)

    def tend(self) -> None:
        """Conclude the questions whose time is over."""
        for number in list(self._questions):
            self._conclude_if_over(number)

    def deadlines(self) -> list[float]:
        return [question.deadline for question in self._questions.values()]

    def _conclude_if_over(self, number: int) -> None:
        question = self._questions[number]
        if not question.waiting or self._clock() >= question.deadline:
            del self._questions[number]
            question.conclude(question.rows, sorted(question.slots[one] for one in question.waiting))
