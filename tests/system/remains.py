"""What a server that could not boot may have left behind.

Knows: /proc, files of a server's folder. Does not know: why it could not boot.
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.eventually import eventually


def processes_in(folder: Path) -> list[int]:
    """Return the pids of all processes whose working directory a folder is."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.readlink(entry / "cwd") == str(folder):
                found.append(int(entry.name))
        except OSError:  # gone meanwhile
            pass
    return found


def assert_nothing_is_left(folder: Path) -> None:
    """Check that no process lives in a folder, and that no socket or pid file is in it."""
    eventually(lambda: not processes_in(folder), within=3)
    left = [path.name for path in folder.iterdir() if path.is_socket() or ".sock" in path.name]
    left += [path.name for path in folder.glob("*.pid")]
    assert not left
