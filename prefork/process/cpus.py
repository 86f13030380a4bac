"""How many workers `auto` means: the CPUs that this process may use.

Knows: the affinity mask, cgroup quotas of both versions. Does not know: what they are used for.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

from prefork.cgroups import CGROUP_ROOT, SELF_CGROUP, cgroup_folders, read_cgroup


def count_workers(chosen: int | None, root: Path = CGROUP_ROOT, membership: Path = SELF_CGROUP) -> int:
    """Return a chosen number, or for None the CPUs of the affinity mask or the cgroup quota, if that is less.

    Args:
        root: where cgroups are mounted, cgroups(7).
        membership: the file that says which of them this process is in.
    """
    if chosen is not None:
        return chosen
    quotas = [quota for quota in _quotas(root, membership) if quota > 0]
    return max(1, min([len(os.sched_getaffinity(0)), *(math.ceil(quota) for quota in quotas)]))


def _quotas(root: Path, membership: Path) -> Iterator[float]:
    """Return the quotas, in CPUs, of this process's cgroups and of those above them."""
    for version, folder in cgroup_folders("cpu", root, membership):
        yield _quota_v2(folder) if version == 2 else _quota_v1(folder)


def _quota_v2(folder: Path) -> float:
    quota, _, period = read_cgroup(folder / "cpu.max").partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.strip().isdigit() else 0.0


def _quota_v1(folder: Path) -> float:
    quota = read_cgroup(folder / "cpu.cfs_quota_us").strip()
    period = read_cgroup(folder / "cpu.cfs_period_us").strip()
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else 0.0
