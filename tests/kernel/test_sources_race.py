"""Processes that take and leave places of one source at once: never is there one more than the limit.

Each run is in an interpreter of its own: it forks.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

KEY = 0x9E37_79B9_7F4A_7C15  # like a hash: none that looks like a count
RACE = """
import json, os, signal, sys, time
from prefork.net.sources import SourceTable
from prefork.scoreboard import Rows

PROCESSES, SECONDS, MOST = 4, 1.0, 4000
limit, keys = int(sys.argv[1]), [int(word) for word in sys.argv[2:]]
rows = Rows(PROCESSES)
rows.seat_limit = PROCESSES

def race(seat):
    # When a place was held for certain: from after it was given to before it is given back.
    table, end, turn, spans = SourceTable(rows, seat), time.monotonic() + SECONDS, seat, []
    mine = [[] for _ in keys]
    while time.monotonic() < end and len(spans) < MOST:
        turn += 1
        place = turn % len(keys)
        if table.enter(keys[place], limit, 1000.0):
            mine[place].append(time.monotonic_ns())
        if mine[place] and turn // len(keys) % 3:
            spans.append((place, mine[place].pop(), time.monotonic_ns()))
            table.leave(keys[place])
    for place, begun in enumerate(mine):
        for start in begun:
            spans.append((place, start, time.monotonic_ns()))
            table.leave(keys[place])
    return spans

def most_at_once(spans):
    steps = sorted([(start, 1) for _, start, _ in spans] + [(end, -1) for _, _, end in spans])
    most = now = 0
    for _, step in steps:  # of one moment, an end comes first
        now += step
        most = max(most, now)
    return most

children = []
for seat in range(PROCESSES):
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        signal.alarm(60)
        try:
            with open(writer, "w") as file:
                json.dump(race(seat), file)
        finally:
            os._exit(0)
    os.close(writer)
    children.append((pid, reader))
spans = []
for pid, reader in children:
    with open(reader) as file:
        spans += json.load(file)
    os.waitpid(pid, 0)
table = SourceTable(rows, 0)
for place, key in enumerate(keys):
    most = most_at_once([span for span in spans if span[0] == place])
    left = limit - sum(table.enter(key, limit, 1000.0) for _ in range(limit + 1))
    print(json.dumps({"most": most, "left": left, "given": sum(span[0] == place for span in spans)}))
"""


@pytest.mark.parametrize("limit", [1, 2, 7])
@pytest.mark.parametrize("keys", [(KEY,), (KEY, KEY + 2048, KEY + 1)], ids=["one source", "three sources"])
def test_processes_that_race_never_have_more_than_the_limit_and_leave_nothing(
    limit: int, keys: tuple[int, ...]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RACE, str(limit), *map(str, keys)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(keys)
    assert all(source["most"] <= limit for source in found), found
    assert all(source["left"] == 0 for source in found), found
    assert all(source["given"] > 20 for source in found), found  # else there was no race
