"""What the kernel has booked on a process: CPU, private memory, open descriptors, children.

Knows: the formats of /proc/PID/{schedstat,stat,smaps_rollup,fd}.
Does not know: what the processes serve, or how they were started.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
NANOSECONDS = 1_000_000_000
PRIVATE_KEYS = ("Private_Clean", "Private_Dirty", "Private_Hugetlb")

# proc_pid_stat(5), counted from the state, which follows the closing parenthesis of the name.
STAT_STATE, STAT_PPID, STAT_UTIME, STAT_STIME, STAT_START = 0, 1, 11, 12, 19


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident and private bytes."""

    resident: int
    private: int


def parse_schedstat(text: str) -> int:
    """Return the nanoseconds on a CPU, the first of the three numbers of a schedstat file."""
    return int(text.split()[0])


def parse_stat(text: str) -> list[str]:
    """Return the fields of a stat file from the state on; the name before it may hold parentheses."""
    return text[text.rindex(")") + 1 :].split()


def parse_rollup(text: str) -> Memory:
    """Return the memory that a smaps_rollup file tells."""
    found: dict[str, int] = {}
    for line in text.splitlines()[1:]:
        key, _, rest = line.partition(":")
        found[key] = int(rest.split()[0]) * 1024
    return Memory(resident=found.get("Rss", 0), private=sum(found.get(key, 0) for key in PRIVATE_KEYS))


def _threads_ns(pid: int) -> int:
    total = 0
    for task in (PROC / str(pid) / "task").iterdir():
        try:
            total += parse_schedstat((task / "schedstat").read_text())
        except ProcessLookupError:
            continue  # the thread ended after it was listed
    return total


def _ticks_ns(pid: int) -> int:
    fields = parse_stat((PROC / str(pid) / "stat").read_text())
    ticks = int(fields[STAT_UTIME]) + int(fields[STAT_STIME])
    return ticks * NANOSECONDS // os.sysconf("SC_CLK_TCK")


def has_schedstat() -> bool:
    """Return whether this kernel books CPU in nanoseconds (CONFIG_SCHED_INFO)."""
    return (PROC / "self" / "schedstat").exists() and _threads_ns(os.getpid()) > 0


def cpu_ns(pids: Iterable[int]) -> int:
    """Return the CPU of the processes, user and kernel, all threads, in nanoseconds."""
    count = _threads_ns if has_schedstat() else _ticks_ns
    return sum(count(pid) for pid in pids)


def memory(pids: Iterable[int]) -> Memory:
    """Return the memory of the processes together."""
    found = [parse_rollup((PROC / str(pid) / "smaps_rollup").read_text()) for pid in pids]
    return Memory(sum(each.resident for each in found), sum(each.private for each in found))


def parse_busy_ticks(text: str, cpu: int) -> int:
    """Return the clock ticks in which a CPU was not idle, or not given by the hypervisor (/proc/stat)."""
    line = next(line for line in text.splitlines() if line.startswith(f"cpu{cpu} "))
    user, nice, system, _idle, _iowait, irq, softirq, steal, *_guest = map(int, line.split()[1:])
    return user + nice + system + irq + softirq + steal


def busy_ns(cpu: int) -> int:
    """Return the nanoseconds in which a CPU was not idle, to a clock tick."""
    return parse_busy_ticks((PROC / "stat").read_text(), cpu) * NANOSECONDS // os.sysconf("SC_CLK_TCK")


def open_descriptors(pids: Iterable[int]) -> int:
    """Return how many descriptors the processes hold together."""
    return sum(len(os.listdir(PROC / str(pid) / "fd")) for pid in pids)


def start_time(pid: int) -> str | None:
    """Return the clock tick at which a living process started: it and the pid are unique."""
    try:
        fields = parse_stat((PROC / str(pid) / "stat").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[STAT_STATE] == "Z" else fields[STAT_START]


def family(root: int) -> list[int]:
    """Return the pid `root` and all of its descendants."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir(PROC):
        if not entry.isdigit():
            continue
        try:
            parent = int(parse_stat((PROC / entry / "stat").read_text())[STAT_PPID])
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(parent, []).append(int(entry))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def wait_until(condition: Callable[[], bool], within: float, interval: float = 0.01) -> bool:
    """Return whether the condition came true within so many seconds."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval)
    return True


def wait_idle(pids: Sequence[int], within: float = 1.0) -> int:
    """Wait until the processes rest, and return their CPU in nanoseconds.

    The account of a running thread is brought up to date by the timer tick only (every 1 to 10 ms), that of a
    sleeping one is exact.
    """
    quiet_ns, interval = 50_000, 0.02
    readings = [cpu_ns(pids)]

    def is_idle() -> bool:
        readings.append(cpu_ns(pids))
        return readings[-1] - readings[-2] < quiet_ns

    time.sleep(interval)
    wait_until(is_idle, within, interval)
    return readings[-1]
