"""What /proc tells of processes.

Knows: proc(5). Does not know: which of them matter, and why.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.eventually import eventually


def title(pid: int) -> str:
    """Return a process's title; an empty string if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode()
    except OSError:
        return ""


def state(pid: int) -> str:
    """Return a process's state, such as S or Z; an empty string if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def is_gone(pid: int) -> bool:
    return state(pid) in ("", "Z")


def status_kib(pid: int, field: str) -> int:
    """Return a field of /proc/PID/status that is given in kB."""
    (value,) = re.findall(rf"^{field}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(value)


def shared_bytes(pid: int) -> int:
    """Return the size of a process's anonymous shared memory."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    ranges = re.findall(r"^(\w+)-(\w+) \S+ \S+ \S+ \d+ +/dev/zero \(deleted\)$", maps, re.MULTILINE)
    return sum(int(end, 16) - int(start, 16) for start, end in ranges)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process's main thread."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def count_fds(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def find(pids: set[int], beginning: str) -> list[int]:
    """Return those whose title begins so."""
    return [pid for pid in sorted(pids) if title(pid).startswith(beginning)]


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Let processes stand still for the time of a block."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        for pid in pids:
            eventually(lambda pid=pid: state(pid) in ("T", "", "Z"))  # type: ignore[misc]
        yield
    finally:
        for pid in pids:
            if not is_gone(pid):
                os.kill(pid, signal.SIGCONT)
