"""The machine as the kernel tells it in files: limits, sysctls, cgroups, modes. It is looked at, never tried.

Knows: proc(5), cgroups(7). Does not know: what is enough, for what.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from prefork.cgroups import cgroup_folders, read_cgroup
from prefork.process.cpus import count_workers

UNLIMITED = 1 << 62  # version 1 of cgroups writes the largest multiple of a page for no limit


class Machine:
    """What is known of this machine; None is what it does not tell, as containers and gVisor may."""

    def __init__(self, root: str = "/", python: tuple[int, int] = sys.version_info[:2]) -> None:
        """Look below a folder.

        Args:
            root: every path is looked for in there.
        """
        self._root = Path(root)
        self.python = python

    def path(self, path: str) -> Path:
        """Return where an absolute path is found."""
        return self._root / path.lstrip("/")

    def read(self, path: str) -> str | None:
        try:
            return self.path(path).read_text()
        except OSError:
            return None

    def mode(self, path: str) -> int | None:
        """Return the bits of a file that chmod(2) sets."""
        try:
            return self.path(path).stat().st_mode & 0o7777
        except OSError:
            return None

    def sysctl(self, name: str) -> list[int] | None:
        """Return the numbers of a sysctl such as `net.core.somaxconn`, one or more."""
        text = self.read("/proc/sys/" + name.replace(".", "/"))
        return None if text is None else [int(word) for word in re.findall(r"[0-9]+", text)] or None

    def open_files(self) -> tuple[int, int] | None:
        """Return RLIMIT_NOFILE, soft and hard, of this process and so of its children."""
        found = re.search(r"^Max open files +(\S+) +(\S+)", self.read("/proc/self/limits") or "", re.MULTILINE)
        return None if found is None else (_number(found[1]), _number(found[2]))

    def user(self) -> int | None:
        """Return the effective uid."""
        found = re.search(r"^Uid:\s+\d+\s+(\d+)", self.read("/proc/self/status") or "", re.MULTILINE)
        return None if found is None else int(found[1])

    def kernel(self) -> tuple[int, int] | None:
        """Return the version of the kernel."""
        found = re.match(r"(\d+)\.(\d+)", self.read("/proc/sys/kernel/osrelease") or "")
        return None if found is None else (int(found[1]), int(found[2]))

    def reserved_ports(self) -> list[range]:
        """Return net.ipv4.ip_local_reserved_ports, such as `8080,9000-9010`."""
        text = self.read("/proc/sys/net/ipv4/ip_local_reserved_ports") or ""
        found = re.findall(r"(\d+)(?:-(\d+))?", text)
        return [range(int(first), int(last or first) + 1) for first, last in found]

    def cgroup_limit(self, controller: str, v2: str, v1: str) -> int | None:
        """Return the least limit of a kind on this process; None: there is none.

        Args:
            v2: the name of its file in version 2 of cgroups.
            v1: and in version 1.
        """
        found = cgroup_folders(controller, self.path("/sys/fs/cgroup"), self.path("/proc/self/cgroup"))
        texts = [read_cgroup(folder / (v2 if version == 2 else v1)).strip() for version, folder in found]
        limits = [int(text) for text in texts if text.isdigit() and int(text) < UNLIMITED]
        return min(limits, default=None)

    def count_workers(self, chosen: int | None) -> int:
        """Return how many workers a config means; None: one for each CPU that may be used."""
        return count_workers(chosen, self.path("/sys/fs/cgroup"), self.path("/proc/self/cgroup"))


def _number(word: str) -> int:
    return int(word) if word.isdigit() else UNLIMITED


def absolute(path: str, folder: str) -> str:
    """Return where a path of a config leads to from a folder."""
    return os.path.normpath(os.path.join(folder, path))
