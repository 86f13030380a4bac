"""Clients that speak by datagrams: flows, each from an address of its own, with one or a few questions open.

An answer is the slot of the worker that gave it, in two bytes, and then the question as it was sent.

Knows: when a flow asks, how an answer is compared, when a question counts as lost.
Does not know: the server's processes, or what is done to them.
"""

from __future__ import annotations

import heapq
import json
import os
import select
import socket
import struct
import time
from collections import deque
from dataclasses import dataclass, field
from itertools import count

from tools.disorder.call import ending_of
from tools.disorder.payloads import Payloads
from tools.disorder.plan import Plan
from tools.disorder.tally import Ending, Loss, Tally

SLOT_BYTES = 2
CHANGED = "changed_slot"  # an answer came from another slot than the flow's answer before
LATE = "late"  # an answer came after its question was given up
_HEAD = struct.Struct("!II")  # flow, number of the question
_MAX_BYTES = 65_536
_RETRY = 0.05
_CONTROL_FD = 0
_NO_SLOT = -1


@dataclass(slots=True)
class Question:
    """One datagram that waits for its answer."""

    text: bytes
    begun: float


class Flow:
    """One address that asks."""

    __slots__ = ("asked", "fd", "given_up", "number", "open", "slot", "sock", "window")

    def __init__(self, number: int, port: int, window: int) -> None:
        self.number = number
        self.window = window
        self.asked = 0
        self.open: dict[int, Question] = {}
        self.given_up: set[int] = set()
        self.slot = _NO_SLOT
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.sock.connect(("127.0.0.1", port))
        self.fd = self.sock.fileno()

    def ask(self, payload: bytes) -> int:
        """Send a question; return its number."""
        self.asked += 1
        text = _HEAD.pack(self.number, self.asked) + payload
        self.open[self.asked] = Question(text, time.monotonic())
        self.sock.send(text)
        return self.asked

    def describe(self) -> str:
        return f"flow {self.number} of slot {self.slot}, client port {self.sock.getsockname()[1]}"


@dataclass(slots=True)
class Survey:
    """A question of the scenario: where is each flow, by an answer to what it asks from now on?"""

    begun: float
    unseen: set[int] = field(default_factory=set)


class Flows:
    """All flows of one plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.tally = Tally()
        self._payloads = Payloads(plan.seed)
        self._epoll = select.epoll()
        self._flows: dict[int, Flow] = {}
        self._agenda: list[tuple[float, int, Flow]] = []
        self._deadlines: deque[tuple[float, Flow, int]] = deque()  # in ascending order: all have one timeout
        self._sequence = count()
        self._begun = time.monotonic()
        self._stopping = False
        self._announced = False
        self._survey: Survey | None = None

    def run(self) -> Tally:
        """Ask until the standard input is closed, then wait for what is open.

        A line on the standard input asks for a survey: the slots of all flows are then printed, as JSON.
        """
        self._open()
        while not self._is_over():
            for fd, _ in self._epoll.poll(self._pause()):
                if fd == _CONTROL_FD:
                    self._on_order()
                else:
                    self._on_readable(self._flows[fd])
            now = time.monotonic()
            while self._agenda and self._agenda[0][0] <= now:
                self._ask(heapq.heappop(self._agenda)[2])
            self._expire(now)
        self._expire(float("inf"))
        for flow in self._flows.values():
            flow.sock.close()
        return self.tally

    def _open(self) -> None:
        self._epoll.register(_CONTROL_FD, select.EPOLLIN)
        for number in range(self.plan.clients):
            flow = Flow(number, self.plan.port, 1 + number % self.plan.window)
            self._flows[flow.fd] = flow
            self._epoll.register(flow.fd, select.EPOLLIN)
            self._schedule(self._begun + self.plan.spread * number / self.plan.clients, flow)

    def _schedule(self, when: float, flow: Flow) -> None:
        if not self._stopping:
            heapq.heappush(self._agenda, (when, next(self._sequence), flow))

    def _rest(self, flow: Flow, now: float) -> None:
        if not flow.open:
            self._schedule(now + self.plan.think * self._payloads.vary(), flow)

    def _is_over(self) -> bool:
        if time.monotonic() - self._begun > self.plan.limit:
            return True
        return self._stopping and not any(flow.open for flow in self._flows.values())

    def _pause(self) -> float:
        while self._deadlines and self._deadlines[0][2] not in self._deadlines[0][1].open:
            self._deadlines.popleft()
        deadline = self._deadlines[0][0] if self._deadlines else self._begun + self.plan.limit
        if self._agenda:
            deadline = min(deadline, self._agenda[0][0])
        return max(0.0, deadline - time.monotonic())

    def _on_order(self) -> None:
        if os.read(_CONTROL_FD, 100):
            self._survey = Survey(time.monotonic(), set(range(self.plan.clients)))
            return
        self._epoll.unregister(_CONTROL_FD)
        self._stopping = True
        self._agenda.clear()

    # --- questions and answers ---

    def _ask(self, flow: Flow) -> None:
        for _ in range(flow.window):
            try:
                number = flow.ask(self._payloads.cut(self.plan.max_bytes))
            except OSError as error:  # it may be that of an earlier datagram, udp(7); this one was not sent
                flow.open.pop(flow.asked)
                self._fail(flow, ending_of(error.errno or 0, 0))
                if not flow.open:
                    self._schedule(time.monotonic() + _RETRY, flow)
                return
            self._deadlines.append((flow.open[number].begun + self.plan.timeout, flow, number))

    def _on_readable(self, flow: Flow) -> None:
        try:
            answer = flow.sock.recv(_MAX_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(flow, ending_of(error.errno or 0, 0))
            return
        text = answer[SLOT_BYTES:]
        number, asked = _HEAD.unpack_from(text) if len(text) >= _HEAD.size else (_NO_SLOT, 0)
        question = flow.open.get(asked)
        if asked in flow.given_up and number == flow.number:
            self.tally.counts[LATE] += 1
        elif question is None or question.text != text:
            self._fail(flow, Ending.WRONG)
        else:
            del flow.open[asked]
            self._on_answer(flow, question, int.from_bytes(answer[:SLOT_BYTES]))

    def _on_answer(self, flow: Flow, question: Question, slot: int) -> None:
        now = time.monotonic()
        self.tally.counts[Ending.OK] += 1
        self.tally.note_answer(question.begun, now, int(now - self._begun))
        if flow.slot not in (_NO_SLOT, slot):
            self.tally.counts[CHANGED] += 1
        flow.slot = slot
        self._announce()
        self._rest(flow, now)
        survey = self._survey
        if survey is not None and question.begun >= survey.begun:
            survey.unseen.discard(flow.number)
            if not survey.unseen:
                self._survey = None
                print(json.dumps([each.slot for each in self._flows.values()]), flush=True)

    def _expire(self, now: float) -> None:
        while self._deadlines and self._deadlines[0][0] <= now:
            _, flow, number = self._deadlines.popleft()
            question = flow.open.pop(number, None)
            if question is not None:
                flow.given_up.add(number)
                self.tally.losses.append(Loss(question.begun, flow.slot))
                self.tally.note_failure(Ending.VANISHED, flow.describe(), question.begun)
                self._announce()
                self._rest(flow, time.monotonic())

    def _fail(self, flow: Flow, ending: Ending) -> None:
        self.tally.note_failure(ending, flow.describe(), time.monotonic())
        self._announce()

    def _announce(self) -> None:
        if not self._announced:
            self._announced = True
            print("started", flush=True)
