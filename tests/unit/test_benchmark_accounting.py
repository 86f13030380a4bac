"""The kernel's accounts as the benchmark reads them."""

from __future__ import annotations

import pytest

from tools.benchmark.accounting import (
    STAT_PPID,
    STAT_START,
    STAT_STATE,
    STAT_STIME,
    STAT_UTIME,
    Memory,
    parse_busy_ticks,
    parse_rollup,
    parse_schedstat,
    parse_stat,
)

ROLLUP = """\
55d0d7a00000-7ffd1b5f2000 ---p 00000000 00:00 0                          [rollup]
Rss:                1740 kB
Pss:                 402 kB
Private_Clean:        44 kB
Private_Dirty:       112 kB
Private_Hugetlb:       0 kB
"""
PROC_STAT = """\
cpu  300 0 200 9000 10 5 6 7 0 0
cpu0 100 0 100 4500 5 2 3 3 0 0
cpu1 200 1 100 4500 5 3 3 4 0 0
cpu10 900 9 900 9 9 9 9 9 0 0
intr 12345
"""


def test_the_first_number_of_schedstat_is_the_time_on_a_cpu() -> None:
    assert parse_schedstat("62907809 513393 43\n") == 62_907_809


@pytest.mark.parametrize("name", ["python3", "a b", "prefork: worker 1 g3 [echo] (x)", ") R 1 ("])
def test_the_name_of_a_process_does_not_shift_the_fields_of_stat(name: str) -> None:
    numbers = [str(number) for number in range(4, 53)]
    fields = parse_stat(f"123 ({name}) S {' '.join(numbers)}\n")
    # proc_pid_stat(5) counts from 1 and has the state as its third field.
    assert fields[STAT_STATE] == "S"
    assert [int(fields[at]) for at in (STAT_PPID, STAT_UTIME, STAT_STIME, STAT_START)] == [4, 14, 15, 22]


def test_private_memory_is_what_no_other_process_shares() -> None:
    assert parse_rollup(ROLLUP) == Memory(resident=1740 * 1024, private=(44 + 112) * 1024)


def test_memory_that_a_kernel_does_not_tell_is_nothing() -> None:
    assert parse_rollup("header\n") == Memory(0, 0)


def test_a_cpu_is_busy_with_everything_but_idling_and_waiting_for_disks() -> None:
    assert parse_busy_ticks(PROC_STAT, 1) == 200 + 1 + 100 + 3 + 3 + 4
