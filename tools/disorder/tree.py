"""Processes as /proc shows them (proc(5)): who descends from whom, what they hold, how much is their own.

Knows: /proc/PID/stat, status, fd, smaps_rollup, cwd.
Does not know: prefork.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    """One line of /proc/PID/stat; pid and start together name a process for ever."""

    pid: int
    name: str
    state: str
    parent: int
    start: int

    @property
    def is_zombie(self) -> bool:
        return self.state in ("Z", "X")


def parse_stat(text: str) -> Process:
    """Parse /proc/PID/stat. The name stands in parentheses and may itself hold spaces and parentheses."""
    pid, rest = text.split(" (", 1)
    name, rest = rest.rsplit(") ", 1)
    fields = rest.split()
    return Process(int(pid), name, fields[0], int(fields[1]), int(fields[19]))


def look_up(pid: int) -> Process | None:
    try:
        return parse_stat((_PROC / str(pid) / "stat").read_text())
    except (OSError, ValueError):
        return None


def all_processes() -> Iterator[Process]:
    for entry in os.listdir(_PROC):
        process = look_up(int(entry)) if entry.isdecimal() else None
        if process is not None:
            yield process


def descendants(root: int) -> list[Process]:
    """Return every process below this one, zombies too, parents before children."""
    children: dict[int, list[Process]] = {}
    for process in all_processes():
        children.setdefault(process.parent, []).append(process)
    found = list(children.get(root, []))
    for process in found:
        found.extend(children.get(process.pid, []))
    return found


def living_in(directory: Path) -> list[Process]:
    """Return every process, zombies excepted, with this working directory; no change of title hides one."""
    return [p for p in all_processes() if _working_directory(p.pid) == str(directory)]


def is_same(process: Process) -> bool:
    """Tell whether this very process is still there, be it as a zombie."""
    now = look_up(process.pid)
    return now is not None and now.start == process.start


def wait_state(pid: int, states: str, within: float) -> bool:
    """Poll until the process is in one of these states (proc(5), field 3)."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        process = look_up(pid)
        if process is None or process.state in states:
            return process is not None
    return False


def open_fds(pid: int) -> dict[int, str]:
    """Return what each file descriptor of a process refers to."""
    found: dict[int, str] = {}
    try:
        for entry in os.listdir(_PROC / str(pid) / "fd"):
            found[int(entry)] = os.readlink(_PROC / str(pid) / "fd" / entry)
    except OSError:
        pass  # the process has ended meanwhile, or one of its descriptors
    return found


def sockets(pid: int) -> set[str]:
    """Return the names, with inode, of the sockets that a process holds."""
    return {target for target in open_fds(pid).values() if target.startswith("socket:")}


def rss_kib(pid: int) -> int:
    return _field(_PROC / str(pid) / "status", "VmRSS:")


def threads(pid: int) -> int:
    return _field(_PROC / str(pid) / "status", "Threads:")


def private_kib(pid: int) -> int:
    """Return the memory that no other process shares."""
    path = _PROC / str(pid) / "smaps_rollup"
    return _field(path, "Private_Clean:") + _field(path, "Private_Dirty:")


def _working_directory(pid: int) -> str:
    try:
        return os.readlink(_PROC / str(pid) / "cwd")
    except OSError:
        return ""


def _field(path: Path, name: str) -> int:
    for line in _read_bytes(path).decode().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    return 0


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
