"""One process of clients: `python -m tools.disorder.crowd PLAN` loops over epoll and prints its tally.

It prints `started` after the first ending, and stops when its standard input is closed, after finishing the
requests in hand.

Knows: when each kind of client begins, asks, rests, looks, and gives up.
Does not know: the server's processes, or what is done to them.
"""

from __future__ import annotations

import heapq
import resource
import select
import signal
import sys
import time
from itertools import count

from tools.disorder.call import Call, Stage, ending_of
from tools.disorder.flows import Flows
from tools.disorder.payloads import Payloads, framed
from tools.disorder.plan import Kind, Plan
from tools.disorder.secure_call import SecureCall, Trust
from tools.disorder.tally import Ending, Tally

_LATE = 0.5  # a paced connection begun later than this says that the clients, not the server, were too slow
_RECONNECT = 0.05
_CONTROL_FD = 0


class Crowd:
    """All clients of one plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.tally = Tally()
        self._payloads = Payloads(plan.seed)
        self._trust = Trust(plan.authority) if plan.authority else None
        self._epoll = select.epoll()
        self._calls: dict[int, Call] = {}
        self._deadlines: dict[int, float] = {}  # in ascending order: each request has the same timeout
        self._agenda: list[tuple[float, int, Call | None]] = []
        self._sequence = count()
        self._begun = time.monotonic()
        self._stopping = False
        self._announced = False

    def run(self) -> Tally:
        """Serve the agenda until the plan is done, or the standard input is closed."""
        self._epoll.register(_CONTROL_FD, select.EPOLLIN)
        self._fill_agenda()
        while not self._is_over():
            for fd, mask in self._epoll.poll(self._pause()):
                self._on_event(fd, mask)
            now = time.monotonic()
            while self._agenda and self._agenda[0][0] <= now:
                when, _, call = heapq.heappop(self._agenda)
                self._on_due(when, now, call)
            self._expire(now)
        for call in self._calls.values():
            call.close()
        return self.tally

    def _fill_agenda(self) -> None:
        clients = 1 if self.plan.kind is Kind.PACED else self.plan.clients
        for i in range(clients):
            self._schedule(self._begun + self.plan.spread * i / clients, None)

    def _schedule(self, when: float, call: Call | None) -> None:
        heapq.heappush(self._agenda, (when, next(self._sequence), call))

    def _is_over(self) -> bool:
        if time.monotonic() - self._begun > self.plan.limit:
            return True
        if self._stopping:
            return all(call.stage in (Stage.REST, Stage.IDLE) for call in self._calls.values())
        return self.plan.kind in (Kind.BURST, Kind.IDLE) and not self._agenda and not self._calls

    def _pause(self) -> float:
        deadline = next(iter(self._deadlines.values()), self._begun + self.plan.limit)
        if self._agenda:
            deadline = min(deadline, self._agenda[0][0])
        return max(0.0, deadline - time.monotonic())

    def _on_event(self, fd: int, mask: int) -> None:
        if fd == _CONTROL_FD:
            self._epoll.unregister(_CONTROL_FD)
            self._stopping = True
            self._agenda.clear()
            return
        call = self._calls[fd]
        if call.stage is Stage.CONNECTING:
            self._epoll.modify(call.fd, select.EPOLLIN)
            self._on_opening(call, call.on_connected())
        elif call.stage is Stage.HANDSHAKE:
            self._on_opening(call, call.on_handshake())
        elif mask:
            self._on_readable(call)

    def _on_due(self, when: float, now: float, call: Call | None) -> None:
        if call is None:
            self._open(when, now)
        elif call.fd in self._calls:
            self._next_request(call)

    def _open(self, when: float, now: float) -> None:
        if self.plan.kind is Kind.PACED:
            self._schedule(when + 1 / self.plan.rate, None)
            if now - when > _LATE:
                self.tally.counts["lagging"] += 1
        try:
            call = self._dial(now)
        except OSError as error:
            ending = ending_of(error.errno or 0, 0)
            self.tally.note_failure(ending, f"connect(): {error}", now)
            self._after(ending)
            return
        self._calls[call.fd] = call
        self._deadlines[call.fd] = now + self.plan.timeout
        self._epoll.register(call.fd, select.EPOLLOUT)

    def _dial(self, now: float) -> Call:
        if self._trust is None:
            return Call(self.plan.port, now)
        session = self._trust.take_session() if self._payloads.toss(self.plan.resume) else None
        return SecureCall(self.plan.port, now, self._trust, session)

    def _on_opening(self, call: Call, ending: Ending | None) -> None:
        if ending is not None:
            self._finish(call, ending)
            return
        if call.stage is Stage.HANDSHAKE:
            return
        self.tally.counts.update(call.remarks())
        if self.plan.kind is Kind.IDLE:
            call.stage = Stage.IDLE
            self._deadlines.pop(call.fd)
            self.tally.counts["connected"] += 1
            self._announce()
            return
        self._ask(call)

    def _ask(self, call: Call) -> None:
        try:
            call.ask(framed(self._payloads.cut(self.plan.max_bytes), self.plan.framing))
        except OSError as error:
            self._finish(call, ending_of(error.errno or 0, 0))

    def _on_readable(self, call: Call) -> None:
        stage = call.stage
        ending = call.on_readable()
        if ending is None:
            return
        if ending is not Ending.OK or stage is Stage.END:
            self._finish(call, ending)
            return
        now = time.monotonic()
        self.tally.note_answer(call.begun, now, int(now - self._begun))
        if self.plan.kind is Kind.LONG:
            self._on_long_answer(call, now)
        elif self._payloads.toss(0.5):
            self._end_by_half_close(call)
        else:
            self._finish(call, Ending.OK)

    def _end_by_half_close(self, call: Call) -> None:
        try:
            call.half_close()
        except OSError:
            self._finish(call, Ending.UNCLEAN)

    def _on_long_answer(self, call: Call, now: float) -> None:
        self.tally.counts[Ending.OK] += 1
        self._announce()
        call.stage = Stage.REST
        self._deadlines.pop(call.fd)
        if self._stopping:
            self._drop(call)
        elif self.plan.think:
            self._epoll.unregister(call.fd)
            self._schedule(now + self.plan.think, call)
        else:
            self._next_request(call)

    def _next_request(self, call: Call) -> None:
        ending = call.look() if self.plan.look else None
        if ending is not None:
            self._finish(call, ending)
            return
        call.begun = time.monotonic()
        self._deadlines[call.fd] = call.begun + self.plan.timeout
        if self.plan.think:
            self._epoll.register(call.fd, select.EPOLLIN)
        self._ask(call)

    def _expire(self, now: float) -> None:
        while self._deadlines:
            fd = next(iter(self._deadlines))
            if self._deadlines[fd] > now:
                return
            self._finish(self._calls[fd], Ending.TIMEOUT)

    def _finish(self, call: Call, ending: Ending) -> None:
        if ending in (Ending.OK, Ending.MOVED, Ending.CLOSED_IDLE):
            self.tally.counts[ending] += 1
        else:
            self.tally.note_failure(ending, call.describe(), call.begun)
        self._drop(call)
        self._announce()
        self._after(ending)

    def _after(self, ending: Ending) -> None:
        if self._stopping:
            return
        now = time.monotonic()
        if self.plan.kind is Kind.CYCLE:
            self._schedule(now + self.plan.think, None)
        elif self.plan.kind is Kind.LONG:
            self._schedule(now if ending is Ending.MOVED else now + _RECONNECT, None)

    def _drop(self, call: Call) -> None:
        self._calls.pop(call.fd)
        self._deadlines.pop(call.fd, None)
        call.close()

    def _announce(self) -> None:
        if not self._announced:
            self._announced = True
            print("started", flush=True)


def main() -> None:
    plan = Plan.from_json(sys.argv[1])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.alarm(int(plan.limit) + 10)
    clients = Flows(plan) if plan.kind is Kind.FLOW else Crowd(plan)
    print(clients.run().to_json(), flush=True)


if __name__ == "__main__":
    main()
