"""Who has to go first when a worker runs short: by memory, by idleness, by what waits for slow readers.

Knows: `prefork.net.pressure`, a cgroup folder made by hand. Does not know: connections.
"""

from __future__ import annotations

import resource
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from prefork.net.pressure import (
    APP_SHARE,
    EVICTED_AT_ONCE,
    NO_LIMIT,
    RESCAN_SECONDS,
    Pressure,
    open_memory,
    read_number,
    shed,
)

LIMIT = 1_000_000
V1, V2 = "v1", "v2"
NAMES = {
    V1: (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
    V2: ("memory.max", "memory.current", "memory.stat", "inactive_file"),
}


class Cgroup:
    """A folder as the kernel shows it, whose numbers can be changed."""

    def __init__(self, root: Path, version: str) -> None:
        self.root = root
        self._limit, self._usage, self._stat, self._word = NAMES[version]
        (root / "memory").mkdir(exist_ok=True)
        self.membership = tell_membership(root)
        self.limit(str(LIMIT))
        self.use(0)

    def limit(self, text: str) -> None:
        (self.root / self._limit).write_text(f"{text}\n")

    def use(self, used: int, inactive: int = 0) -> None:
        (self.root / self._usage).write_text(f"{used}\n")
        other = f"inactive_file {inactive + 5}\n" if self._word.startswith("total") else ""
        (self.root / self._stat).write_text(f"anon 7\n{other}x_{self._word} 9\n{self._word} {inactive}\nslab 1\n")


@pytest.fixture(params=[V1, V2])
def cgroup(request: pytest.FixtureRequest, tmp_path: Path) -> Cgroup:
    return Cgroup(tmp_path, request.param)


def tell_membership(root: Path, inner: str = "") -> Path:
    """Write what the kernel says of a process in an inner group of both versions; return the file."""
    path = root / "membership"
    path.write_text(f"4:memory:/{inner}\n0::/{inner}\n")
    return path


def is_short(pressure: Pressure) -> bool:
    pressure.look_at_memory()
    return pressure.is_short


# --- memory ---


def test_memory_is_short_above_90_percent_and_well_again_at_85(cgroup: Cgroup) -> None:
    pressure = Pressure(cgroup.root, cgroup.membership)
    found = []
    for used in (0, 900_000, 900_001, 860_000, 850_001, 850_000, 850_001, 900_000, 900_001):
        cgroup.use(used)
        found.append(is_short(pressure))
    assert found == [False, False, True, True, True, False, False, False, True]


def test_files_that_the_kernel_can_drop_are_not_counted(cgroup: Cgroup) -> None:
    pressure = Pressure(cgroup.root, cgroup.membership)
    cgroup.use(LIMIT, inactive=100_000)
    assert not is_short(pressure)
    cgroup.use(LIMIT, inactive=99_999)
    assert is_short(pressure)


@pytest.mark.parametrize("limit", ["max", str(NO_LIMIT), "9223372036854771712", "", "-1"])
def test_a_cgroup_without_a_limit_is_never_short(cgroup: Cgroup, limit: str) -> None:
    """9223372036854771712 is what version 1 shows for none."""
    cgroup.limit(limit)
    cgroup.use(1 << 50)
    assert open_memory(cgroup.root, cgroup.membership) == []
    assert not is_short(Pressure(cgroup.root, cgroup.membership))


def test_no_cgroup_at_all_is_never_short(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    assert open_memory(nowhere, nowhere) == []
    assert not is_short(Pressure(nowhere, nowhere))


def test_a_limit_whose_usage_cannot_be_read_is_none(cgroup: Cgroup) -> None:
    for name in ("memory.current", "memory/memory.usage_in_bytes"):
        (cgroup.root / name).unlink(missing_ok=True)
    assert open_memory(cgroup.root, cgroup.membership) == []


def test_the_limit_of_version_1_is_found_where_version_2_has_none(tmp_path: Path) -> None:
    Cgroup(tmp_path, V2).limit("max")
    old = Cgroup(tmp_path, V1)
    old.use(900_001)
    assert is_short(Pressure(tmp_path, old.membership))


@pytest.mark.parametrize("inner", ["unit", "slice/unit"])
def test_the_limits_of_the_inner_group_and_of_all_above_it_hold(tmp_path: Path, inner: str) -> None:
    """As systemd's MemoryMax= of a unit."""
    outer = Cgroup(tmp_path, V2)
    folder = tmp_path / inner
    folder.mkdir(parents=True)
    unit = Cgroup(folder, V2)
    pressure = Pressure(tmp_path, tell_membership(tmp_path, inner))
    found = []
    for used in ((0, 0), (0, 900_001), (0, 0), (900_001, 0), (860_000, 0), (0, 0)):
        outer.use(used[0])
        unit.use(used[1])
        found.append(is_short(pressure))
    assert found == [False, True, False, True, True, False]


def test_a_number_is_read_behind_the_word_that_begins_its_line() -> None:
    text = "x_inactive_file 1\ninactive_file 22\ninactive_file_more 3\n"
    assert read_number(text, "inactive_file ") == 22
    assert read_number(text, "slab ") == 0
    assert read_number("", "slab ") == 0


def test_a_fifth_of_the_descriptors_is_left_to_the_app(tmp_path: Path) -> None:
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    expected = NO_LIMIT if soft == resource.RLIM_INFINITY else soft - soft // APP_SHARE
    assert Pressure(tmp_path, tmp_path / "membership").max_open == expected


# --- the oldest idle connection ---


@dataclass
class Transport:
    """What is asked of a connection."""

    serial: int
    touched: float = 0.0
    is_busy: bool = False
    closing: bool = False
    owes: bool = False  # an answer
    waiting: int = 0

    def is_closing(self) -> bool:
        return self.closing

    def has_arrived(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return self.waiting


class Crowd:
    """Connections that count how often they are looked at, and a clock."""

    def __init__(self, transports: Sequence[Transport]) -> None:
        self.transports = transports
        self.looks = 0
        self.now = 1000.0

    def __call__(self) -> Sequence[Transport]:
        self.looks += 1
        return self.transports


@pytest.fixture
def pressure(tmp_path: Path) -> Pressure:
    return Pressure(tmp_path, tmp_path / "membership")


def serials(pressure: Pressure, crowd: Crowd, count: int, name: str = "echo") -> list[int]:
    """Return who goes, one after the other, each at a time of its own; each is closed."""
    gone = []
    for _ in range(count):
        crowd.now += RESCAN_SECONDS
        oldest = pressure.find_oldest(name, crowd, crowd.now)
        if oldest is None:
            break
        oldest.closing = True
        gone.append(oldest.serial)
    return gone


def test_the_longest_idle_goes_first_and_of_two_the_older(pressure: Pressure) -> None:
    crowd = Crowd([Transport(1, 5.0), Transport(2, 3.0), Transport(4, 4.0), Transport(3, 4.0)])
    assert serials(pressure, crowd, 9) == [2, 3, 4, 1]


def test_who_is_busy_or_owes_an_answer_or_closes_already_stays(pressure: Pressure) -> None:
    stay = [Transport(1, 1.0, is_busy=True), Transport(2, 2.0, closing=True), Transport(4, 2.5, owes=True)]
    crowd = Crowd([*stay, Transport(3, 3.0)])
    assert serials(pressure, crowd, 9) == [3]
    assert serials(pressure, Crowd([]), 1) == []


def test_many_are_looked_for_together_and_closed_one_by_one(pressure: Pressure) -> None:
    crowd = Crowd([Transport(i, float(i)) for i in range(3 * EVICTED_AT_ONCE)])
    assert serials(pressure, crowd, 2 * EVICTED_AT_ONCE) == [*range(2 * EVICTED_AT_ONCE)]
    assert crowd.looks == 2


def test_who_has_moved_since_is_not_the_oldest_any_more(pressure: Pressure) -> None:
    transports = [Transport(i, float(i)) for i in range(1, 5)]
    crowd = Crowd(transports)
    assert serials(pressure, crowd, 1) == [1]
    transports[1].touched = 10.0
    assert serials(pressure, crowd, 9) == [3, 4, 2]
    assert crowd.looks == 3  # once more for the one that has moved, and once for nobody


def test_where_nobody_is_idle_nobody_is_looked_for_again_at_once(pressure: Pressure) -> None:
    """A flood at a limit would else cost a look at all connections for each stranger."""
    crowd = Crowd([Transport(1, 1.0), Transport(2, 2.0, is_busy=True)])
    assert pressure.find_oldest("echo", crowd, 50.0) is crowd.transports[0]
    crowd.transports[0].closing = True
    assert pressure.find_oldest("echo", crowd, 50.0) is None
    crowd.transports[1].is_busy = False
    assert [pressure.find_oldest("echo", crowd, 50.0 + i / 100) for i in range(24)] == [None] * 24
    assert crowd.looks == 2
    assert pressure.find_oldest("other", crowd, 50.0) is crowd.transports[1]
    assert pressure.find_oldest("echo", crowd, 50.0 + RESCAN_SECONDS) is crowd.transports[1]


def test_listeners_are_kept_apart(pressure: Pressure) -> None:
    one, other = Crowd([Transport(1, 1.0), Transport(2, 2.0)]), Crowd([Transport(7, 0.5)])
    assert serials(pressure, one, 1) == [1]
    assert serials(pressure, other, 1, "other") == [7]
    assert serials(pressure, one, 1) == [2]


# --- slow readers ---


def waiting(*sizes: int) -> list[Transport]:
    return [Transport(i, waiting=size) for i, size in enumerate(sizes)]


def shed_from(sizes: Sequence[int], limit: int) -> tuple[int, list[int]]:
    total, gone = shed(waiting(*sizes), limit)
    return total, [transport.serial for transport in gone]


def test_nobody_goes_up_to_the_limit() -> None:
    assert shed_from([], 100) == (0, [])
    assert shed_from([50, 50], 100) == (100, [])


def test_the_largest_go_until_nine_tenths_of_the_limit_are_left() -> None:
    assert shed_from([10, 40, 20, 31], 100) == (61, [1])
    assert shed_from([30, 30, 30, 30], 100) == (90, [3])
    assert shed_from([31, 31, 30, 30, 0], 100) == (60, [1, 0])
    assert shed_from([500, 1, 89], 100) == (90, [0])
    assert shed_from([500, 2, 89], 100) == (2, [0, 2])


def test_of_equal_ones_the_newest_go() -> None:
    assert shed_from([60, 60, 60], 100) == (60, [2, 1])
