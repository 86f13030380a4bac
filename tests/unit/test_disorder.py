"""The parts of tools/chaos that need no server: counts, verdicts, plans, /proc's text, the table."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from tools.disorder import apps, queues, tree
from tools.disorder.call import ending_of
from tools.disorder.catalogue import SCENARIOS
from tools.disorder.command import main, render
from tools.disorder.control import Status
from tools.disorder.datagrams import Kill, queued
from tools.disorder.outcome import Outcome
from tools.disorder.payloads import Payloads
from tools.disorder.plan import Kind, Plan
from tools.disorder.server import Settings
from tools.disorder.tally import SAMPLES, Ending, Loss, Tally, percentile, total

STATUS = {
    "pid": 10,
    "generation": 2,
    "target": 1,
    "workers": [
        {
            "slot": 0,
            "pid": 11,
            "generation": 2,
            "state": "ready",
            "connections": 3,
            "accepted": 5,
            "uptime": 1.0,
        }
    ],
    "listeners": [{"name": "echo", "bind": "tcp://127.0.0.1:4001"}, {"name": "u", "bind": "unix:///x"}],
    "counters": {"accepted": 5, "cut": 2},
    "last_reload": None,
}
UDP_TABLE = """\
   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  153: 0100007F:2329 00000000:0000 07 00000000:00001A00 00:00000000 00000000  0  0 4711 2 0000000000000000 0
  153: 0100007F:2329 00000000:0000 07 00000000:00000000 00:00000000 00000000  0  0 4712 2 0000000000000000 17
  153: 00000000:0035 00000000:0000 07 00000000:00000300 00:00000000 00000000  0  0 4713 2 0000000000000000 1
"""


@pytest.mark.parametrize(
    ("share", "wanted"), [(0.0, 1), (0.25, 1), (0.5, 2), (0.51, 3), (0.75, 3), (0.99, 4), (1.0, 4)]
)
def test_percentile_is_the_nearest_rank(share: float, wanted: float) -> None:
    assert percentile([1, 2, 3, 4], share) == wanted


def test_percentile_of_nothing_is_zero() -> None:
    assert percentile([], 0.99) == 0.0


def test_a_tally_survives_its_journey_as_json() -> None:
    tally = Tally(latencies=[1500, 2500], samples=["12:00:00.000 eof"], losses=[Loss(17.25, 3)])
    tally.counts.update({Ending.OK: 2, Ending.EOF: 1, "lagging": 3})
    tally.by_second.update({0: 1, 7: 1})
    again = Tally.from_json(tally.to_json())
    assert again == tally
    assert (again.ok, again.failed, again.lost, again.unanswered) == (2, 1, 1, 1)
    assert again.latency_ms() == {"p50": 1.5, "p99": 2.5, "max": 2.5}


def test_moved_and_late_connections_are_no_failures() -> None:
    tally = Tally()
    tally.counts.update({Ending.MOVED: 4, Ending.CLOSED_IDLE: 2, Ending.RESET_IDLE: 1, "lagging": 9})
    assert tally.failed == tally.unanswered == 0


def test_refused_and_timed_out_connections_fail_but_nothing_of_theirs_was_in_hand() -> None:
    tally = Tally()
    tally.counts.update({Ending.REFUSED: 1, Ending.TIMEOUT: 1})
    assert (tally.failed, tally.lost) == (2, 0)


@pytest.mark.parametrize("ending", [Ending.HANDSHAKE, Ending.VANISHED])
def test_a_handshake_that_failed_and_a_datagram_without_an_answer_are_lost(ending: Ending) -> None:
    tally = Tally()
    tally.note_failure(ending, "flow 7", begun=0.0)
    assert (tally.failed, tally.lost) == (1, 1)
    assert "flow 7" in tally.samples[0]


def test_tallies_add_up_and_keep_few_samples() -> None:
    one = Tally(latencies=[1], samples=["a"] * SAMPLES)
    one.counts[Ending.OK] = 1
    two = replace(one, samples=["b"], losses=[Loss(1.0, 0)])
    both = total([one, two])
    assert both.losses == two.losses
    assert both.ok == 2
    assert both.latencies == [1, 1]
    assert both.samples == ["a"] * SAMPLES


def test_the_longest_silence_lies_between_two_answers() -> None:
    tally = Tally()
    tally.by_second.update({3: 1, 4: 9, 8: 1})
    assert tally.longest_silence() == 3
    assert Tally().longest_silence() == 0


def test_a_plan_survives_its_journey_as_json() -> None:
    plan = Plan(4001, Kind.LONG, 50, think=0.02, look=False)
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("code", "received", "wanted"),
    [
        (errno.ECONNREFUSED, 0, Ending.REFUSED),
        (errno.ECONNRESET, 0, Ending.RESET_BEFORE),
        (errno.ECONNRESET, 1, Ending.RESET_MIDDLE),
        (errno.EPIPE, 0, Ending.RESET_BEFORE),
        (errno.ETIMEDOUT, 0, Ending.TIMEOUT),
        (errno.EADDRNOTAVAIL, 0, Ending.LOCAL),
        (errno.EMFILE, 0, Ending.LOCAL),
    ],
)
def test_an_errno_names_the_ending(code: int, received: int, wanted: Ending) -> None:
    assert ending_of(code, received) is wanted


def test_a_killed_worker_can_have_had_one_datagram_of_its_slot_in_hand_that_was_sent_before() -> None:
    killed = Kill(slot=2, at=10.0, waiting_bytes=0)
    assert queued([], [killed]) == 0
    assert queued([Loss(9.9, 2)], [killed]) == 0
    assert queued([Loss(9.9, 2)], []) == 1
    assert queued([Loss(9.9, 1)], [killed]) == 1, "of another slot"
    assert queued([Loss(10.1, 2)], [killed]) == 1, "sent after the death"
    assert queued([Loss(0.5, 2)], [killed]) == 1, "given up before the death"
    assert queued([Loss(9.9, 2), Loss(9.8, 2)], [killed]) == 1, "two of one worker"
    assert queued([Loss(9.9, 2), Loss(9.8, 2)], [killed, replace(killed, at=11.0)]) == 0
    assert queued([Loss(9.9, 2), Loss(10.5, 2)], [replace(killed, at=11.0), killed]) == 0


def test_the_kernels_table_tells_what_waits_at_each_socket_of_a_port() -> None:
    assert queues.parse(UDP_TABLE, 9001) == [queues.Queue(0x1A00, 0), queues.Queue(0, 17)]
    assert queues.parse(UDP_TABLE, 9002) == []


def test_payloads_are_the_same_for_a_seed_and_within_their_bound() -> None:
    one, two, three = Payloads(1), Payloads(1), Payloads(2)
    cut = [one.cut(100) for _ in range(1000)]
    assert cut == [two.cut(100) for _ in range(1000)]
    assert cut != [three.cut(100) for _ in range(1000)]
    assert {len(payload) for payload in cut} <= set(range(1, 101))
    assert not any(one.toss(0.0) for _ in range(100))
    assert all(one.toss(1.0) for _ in range(100))
    assert all(0.5 <= one.vary() <= 1.5 for _ in range(100))


def test_the_name_of_a_process_may_hold_parentheses_and_spaces() -> None:
    fields = ["S", "10", *("0" for _ in range(17)), "987654", "0"]
    process = tree.parse_stat(f"42 (a) b (c) {' '.join(fields)}")
    assert process == tree.Process(42, "a) b (c", "S", 10, 987654)


def test_a_status_is_settled_only_with_all_workers_ready_and_of_the_newest_generation() -> None:
    settled = Status.from_result(STATUS)
    assert settled.is_settled
    assert settled.ports == {"echo": 4001}
    assert (settled.connections, settled.cut) == (3, 2)
    worker = settled.workers[0]
    assert not replace(settled, target=2).is_settled
    assert not replace(settled, workers=(replace(worker, state="draining"),)).is_settled
    assert not replace(settled, workers=(worker, replace(worker, state="draining"))).is_settled
    assert not replace(settled, generation=3).is_settled


def test_the_config_names_each_listener_with_its_port_and_handler() -> None:
    settings = Settings(workers=2, handlers={"echo": "echo", "second": "slow"}, ports={"second": 4002})
    config = settings.config(Path("/nowhere"))
    assert config["listeners"] == [
        {"name": "echo", "bind": "tcp://127.0.0.1:0", "app": "chaos_app:echo"},
        {"name": "second", "bind": "tcp://127.0.0.1:4002", "app": "chaos_app:slow"},
    ]
    assert config["control"] == "/nowhere/chaos.sock"


def test_the_config_gives_all_listeners_one_scheme_and_the_same_options() -> None:
    settings = Settings(handlers={"echo": "where"}, scheme="udp", options={"socket": {"receive_buffer": "4MiB"}})
    assert settings.config(Path("/nowhere"))["listeners"] == [
        {
            "name": "echo",
            "bind": "udp://127.0.0.1:0",
            "app": "chaos_app:where",
            "socket": {"receive_buffer": "4MiB"},
        }
    ]


@pytest.mark.parametrize("text", [apps.ECHO, apps.HEAP, apps.DATAGRAM])
def test_the_apps_are_python(text: str) -> None:
    compile(text, "chaos_app.py", "exec")


def test_an_outcome_without_any_check_has_not_passed() -> None:
    assert not Outcome("x", "y").passed


def test_one_check_that_fails_fails_the_outcome_and_its_row_says_which() -> None:
    outcome = Outcome("reload", "0 failed")
    outcome.expect_at_most("failed", 0, 0)
    assert outcome.passed
    assert "PASS  reload" in render(outcome)
    outcome.expect_at_most("p99", 31.5, 20, "ms")
    outcome.expect_nothing("left behind", ["process 7 (Z)"])
    outcome.notes.append("seen at noon")
    row = render(outcome)
    assert not outcome.passed
    assert "FAIL  reload" in row
    assert "NOT p99 31.5 ms (goal ≤ 20 ms)" in row
    assert "NOT left behind process 7 (Z) (goal nothing)" in row
    assert "seen at noon" in row


def test_only_times_are_marked_as_what_a_busy_machine_can_spoil() -> None:
    outcome = Outcome("x", "y")
    outcome.expect_at_most("exit after", 3.2, 11, "s")
    outcome.expect_at_most("private memory", 3.2, 15, "MB")
    outcome.expect_equal("exit status", 0, 0)
    assert [check.timing for check in outcome.checks] == [True, False, False]


def test_a_measure_that_is_infinite_fails_and_is_printed() -> None:
    outcome = Outcome("x", "y")
    outcome.expect_at_most("slowest", float("inf"), 1, "s")
    assert "inf" in render(outcome)
    assert not outcome.passed


def test_each_scenario_is_listed_with_its_goal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(SCENARIOS)


def test_an_unknown_scenario_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["earthquake"])
    assert caught.value.code == 2
    assert "no such scenario: earthquake" in capsys.readouterr().err
