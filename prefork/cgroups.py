"""The cgroups that limit this process: its own and all above it, of both versions.

Knows: where cgroups are mounted, cgroups(7). Does not know: what is limited, or why it is asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")
SELF_CGROUP = Path("/proc/self/cgroup")


def cgroup_folders(controller: str, root: Path, membership: Path) -> Iterator[tuple[int, Path]]:
    """Return the version and the folder of each cgroup that this process is in, the innermost first.

    Args:
        controller: such as `cpu`, `memory` or `pids`; version 2 has one folder for all of them.
        root: where cgroups are mounted.
        membership: the file that says which of them this process is in.
    """
    for line in read_cgroup(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield from ((2, folder) for folder in _climb(root, path))
        elif controller in controllers.split(","):
            for mount in (root / controllers, root / controller):
                yield from ((1, folder) for folder in _climb(mount, path))


def read_cgroup(path: Path) -> str:
    """Return a file's text; empty, if there is no cgroup of that version, or it is not mounted here."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _climb(mount: Path, path: str) -> Iterator[Path]:
    folder = mount / path.lstrip("/")
    while folder != mount.parent:
        yield folder
        folder = folder.parent
