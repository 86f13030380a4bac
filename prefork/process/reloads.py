"""All reloads of a server: the one that is under way, the wish for another, the verdict of the last.

Knows: wishes, verdicts, who waits for them. Does not know: how a reload goes about it.
"""

from __future__ import annotations

from collections.abc import Callable

from prefork.process.reload import Generation, Reload, Staff, Verdict

Waiter = Callable[[Verdict], None]


class Reloads:
    """A wish during a reload is kept until that is over; more wishes are the same wish."""

    def __init__(self) -> None:
        self.running: Reload | None = None
        self.last: Verdict | None = None
        self._next_number = 2
        self._is_wanted = False
        self._waiting: list[Waiter] = []

    @property
    def begun(self) -> int:
        """How many reloads there were, the one under way included."""
        return self._next_number - 2

    @property
    def coming_count(self) -> int:
        """How many workers the reload that is under way would bring."""
        generation = self.running.generation if self.running is not None else None
        return generation.count if generation is not None else 0

    def wish(self, waiter: Waiter | None = None) -> None:
        """Want a reload that begins after this call.

        Args:
            waiter: is told its verdict.
        """
        self._is_wanted = True
        if waiter is not None:
            self._waiting.append(waiter)

    def begin(self, current: Generation, running: int, staff: Staff) -> None:
        """Begin the reload that is wanted, if one is, and none is under way."""
        if self.running is not None or not self._is_wanted:
            return
        self._is_wanted = False
        self.running = Reload(self._next_number, current, running, staff)
        self.running.waiting, self._waiting = self._waiting, []
        self._next_number += 1
        self.running.begin()

    @property
    def committed(self) -> Generation | None:
        """The generation that is to serve from now on, if the reload under way has just come to that."""
        reload = self.running
        if reload is None or reload.verdict is None or reload.verdict.verdict != "committed":
            return None
        return reload.generation

    def conclude(self) -> None:
        """If there is a verdict, tell it to those who wait for it."""
        reload = self.running
        if reload is None or reload.verdict is None:
            return
        self.running, self.last = None, reload.verdict
        for waiter in reload.waiting:
            waiter(reload.verdict)

    def give_up(self, reason: str) -> None:
        """The server stops: what is under way fails, what is wanted is refused."""
        self._is_wanted = False
        if self.running is not None:
            self.running.fail(reason)
            self.running.waiting += self._waiting
            self.conclude()
        else:
            for waiter in self._waiting:
                waiter(Verdict("refused", reason))
        self._waiting = []
