"""`workers: auto` obeys the affinity mask and the quotas of both versions of cgroups."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from prefork.process.cpus import count_workers
from tests.system.conftest import Prepare

CPUS = len(os.sched_getaffinity(0))


def count(folder: Path, membership: str, files: Mapping[str, str]) -> int:
    """Return what auto means with such cgroup files."""
    for name, text in files.items():
        path = folder / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "self").write_text(membership)
    return count_workers(None, folder / "cgroup", folder / "self")


def test_a_number_is_that_number(tmp_path: Path) -> None:
    assert count_workers(7, tmp_path, tmp_path / "none") == 7


def test_without_cgroups_it_is_the_affinity_mask(tmp_path: Path) -> None:
    assert count_workers(None, tmp_path, tmp_path / "none") == CPUS


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("100000 100000\n", 1),
        ("50000 100000\n", 1),
        ("1000 1000000\n", 1),
        ("150000 100000\n", min(2, CPUS)),
        ("max 100000\n", CPUS),
        ("100000000 100000\n", CPUS),
        ("", CPUS),
    ],
)
def test_a_quota_of_version_2_is_rounded_up(tmp_path: Path, quota: str, expected: int) -> None:
    assert count(tmp_path, "0::/app\n", {"app/cpu.max": quota}) == expected


def test_a_quota_of_version_2_above_counts_too(tmp_path: Path) -> None:
    files = {"pod/app/cpu.max": "max 100000\n", "pod/cpu.max": "100000 100000\n"}
    assert count(tmp_path, "0::/pod/app\n", files) == 1


def test_in_a_cgroup_namespace_the_root_is_ones_own(tmp_path: Path) -> None:
    assert count(tmp_path, "0::/\n", {"cpu.max": "100000 100000\n"}) == 1


@pytest.mark.parametrize(
    ("quota", "period", "expected"),
    [("100000", "100000", 1), ("20000", "100000", 1), ("-1", "100000", CPUS), ("150000", "100000", min(2, CPUS))],
)
@pytest.mark.parametrize("mount", ["cpu,cpuacct", "cpu"])
def test_a_quota_of_version_1_is_rounded_up(
    tmp_path: Path, mount: str, quota: str, period: str, expected: int
) -> None:
    files = {f"{mount}/app/cpu.cfs_quota_us": f"{quota}\n", f"{mount}/app/cpu.cfs_period_us": f"{period}\n"}
    assert count(tmp_path, "5:memory:/app\n3:cpu,cpuacct:/app\n1:name=systemd:/app\n", files) == expected


def test_in_a_container_of_version_1_the_files_are_at_the_mount(tmp_path: Path) -> None:
    files = {"cpu,cpuacct/cpu.cfs_quota_us": "100000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}
    assert count(tmp_path, "3:cpu,cpuacct:/docker/0123456789\n", files) == 1


def test_a_hybrid_of_both_versions_takes_the_least(tmp_path: Path) -> None:
    files = {"cpu/app/cpu.cfs_quota_us": "100000\n", "cpu/app/cpu.cfs_period_us": "100000\n"}
    assert count(tmp_path, "3:cpu:/app\n0::/app\n", {**files, "app/cpu.max": "max 100000\n"}) == 1


def test_a_server_that_may_use_one_cpu_has_one_worker(prepare: Prepare) -> None:
    one = {min(os.sched_getaffinity(0))}
    server = prepare(workers="auto").start_by(lambda: os.sched_setaffinity(0, one))
    assert server.status()["target"] == len(server.workers()) == 1
