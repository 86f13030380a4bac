"""Give a target inputs for some time; measure each, and keep those that break something.

An input that takes more CPU than any may is broken off by a signal, so that an attack always ends.

Knows: clocks, tracebacks, memory. Does not know: parsers, what inputs look like.
"""

from __future__ import annotations

import re
import signal
import threading
import time
import traceback
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from types import FrameType

from tools.fuzzing.costs import Costs
from tools.fuzzing.target import Broken, Finding, Result, Target

LEAST_BYTES = 4 << 20  # below these no input is too heavy
HOPELESS_SECONDS = 20.0
WEIGHED_ONE_IN = 32  # inputs whose memory is measured: tracemalloc makes a call several times slower
MAX_FINDINGS = 20  # kinds; a target with more needs no further ones
SHRINK_SECONDS = 2.0


class Hopeless(BaseException):
    """An input has taken more CPU than any may; no parser catches this."""


@dataclass(slots=True)
class Dear:
    """An input that may have cost too much; the medians at the end decide."""

    number: int
    data: bytes
    cost: float


@dataclass(slots=True)
class Attack:
    """One target under one seed."""

    target: Target
    seed: int
    result: Result = field(init=False)
    times: Costs = field(init=False)
    memory: Costs = field(default_factory=lambda: Costs(LEAST_BYTES))
    slow: list[Dear] = field(default_factory=list)
    heavy: list[Dear] = field(default_factory=list)
    found: dict[str, Finding] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.result = Result(self.target.name)
        self.times = Costs(self.target.least_seconds)

    def run(self, seconds: float) -> Result:
        """Attack for so many seconds, or until there are too many kinds of findings."""
        began, end = time.process_time(), time.monotonic() + seconds
        with broken_off_by_signal():
            while time.monotonic() < end and len(self.found) < MAX_FINDINGS:
                self._step(self.result.inputs)
                self.result.inputs += 1
            for problem, finding in self.found.items():
                finding.data = self._shrink(problem, finding.data)
        self.result.cpu = time.process_time() - began
        self.result.findings = [*self.found.values(), *self._judge()]
        return self.result

    def _step(self, number: int) -> None:
        data = input_of(self.target, self.seed, number)
        is_weighed = number % WEIGHED_ONE_IN == WEIGHED_ONE_IN - 1
        if is_weighed:
            with weighed() as peak:
                self._try(number, data)
            self.memory.add(len(data), peak[0])
            if peak[0] > LEAST_BYTES:
                self.heavy.append(Dear(number, data, peak[0]))
            return
        began = time.perf_counter()
        cpu = self._try(number, data)
        elapsed = time.perf_counter() - began
        self.times.add(len(data), elapsed)  # a clock of CPU may have ticks of 4 ms, too coarse for a median
        if min(elapsed, cpu) > self.times.least:
            again = self._try(
                number, data, is_again=True
            )  # the first time may have imported, or collected garbage
            elapsed = cpu = min(cpu, again)
            self.slow.append(Dear(number, data, cpu))
        if min(cpu, elapsed) > self.result.slowest:
            self.result.slowest, self.result.slowest_bytes = min(cpu, elapsed), len(data)

    def _try(self, number: int, data: bytes, is_again: bool = False) -> float:
        """Return the seconds of CPU that an input takes; take note of what else is wrong."""
        before = time.process_time()
        problem, is_refused = problem_of(self.target, data)
        cpu = time.process_time() - before
        if is_again:
            return cpu
        self.result.refused += is_refused
        if problem and problem in self.found:
            self.found[problem].times += 1
        elif problem:
            self.found[problem] = Finding(problem, self.seed, number, data)
        return cpu

    def _judge(self) -> Iterator[Finding]:
        """Tell the dearest inputs of those that cost too much, one of each kind."""
        for costs, dear, unit in (
            (self.times, self.slow, "ms of CPU"),
            (self.memory, self.heavy, "KiB of memory"),
        ):
            scale = 1000.0 if costs is self.times else 1 / 1024
            excess = [one for one in dear if costs.is_excess(len(one.data), one.cost)]
            if excess:
                worst = max(excess, key=lambda one: one.cost)
                usual = costs.usual(len(worst.data))
                problem = f"{worst.cost * scale:.0f} {unit}, of its size {usual * scale:.3f} are usual"
                yield Finding(problem, self.seed, worst.number, worst.data, len(excess))

    def _shrink(self, problem: str, data: bytes) -> bytes:
        """Return a part of an input that breaks the same."""
        end, size = time.monotonic() + SHRINK_SECONDS, len(data) // 2
        while size and time.monotonic() < end:
            at = 0
            while at < len(data) and time.monotonic() < end:
                shorter = data[:at] + data[at + size :]
                if problem_of(self.target, shorter)[0] == problem:
                    data = shorter
                else:
                    at += size
            size //= 2
        return data


def input_of(target: Target, seed: int, number: int) -> bytes:
    """Return an input again."""
    return target.make(Random(f"{target.name} {seed} {number}"))


def problem_of(target: Target, data: bytes) -> tuple[str, bool]:
    """Give an input to a target; return what is wrong with what it did, or nothing, and whether it was refused."""
    if is_main_thread():
        signal.setitimer(signal.ITIMER_VIRTUAL, HOPELESS_SECONDS)
    try:
        target.call(data)
    except target.allowed:
        return "", True
    except Broken as broken:
        return f"broken: {broken}", False
    except Hopeless:
        return f"an input takes over {HOPELESS_SECONDS:.0f} s of CPU", False
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  # what a parser may not raise is what is looked for
        return describe(error), False
    finally:
        if is_main_thread():
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return "", False


def describe(error: BaseException) -> str:
    """Say what was raised and where, in words that are the same for inputs that differ in details."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/prefork/" in frame.filename] or frames
    where = f"{ours[-1].filename.rpartition('/')[2]}:{ours[-1].lineno} {ours[-1].name}" if ours else "nowhere"
    words = re.sub(r"'[^']*'|\"[^\"]*\"|[^ -~]|[0-9]+", "…", str(error))[:100]
    return f"{type(error).__name__} in {where}: {words}"


@contextmanager
def weighed() -> Iterator[list[int]]:
    """Measure the most memory that a block takes; it is in the list when the block has ended."""
    peak = [0]
    tracemalloc.start()
    try:
        yield peak
        peak[0] = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@contextmanager
def broken_off_by_signal() -> Iterator[None]:
    """Let the timer of an input raise; elsewhere than in the main thread there is none."""
    if not is_main_thread():
        yield
        return

    def on_timer(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        raise Hopeless

    before = signal.signal(signal.SIGVTALRM, on_timer)
    try:
        yield
    finally:
        signal.signal(signal.SIGVTALRM, before)


def is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
