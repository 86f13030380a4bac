"""A peer keeps its worker: over reloads, over crashes of others and of its own, and mostly over a scale."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from tests.eventually import eventually
from tests.system.conftest import Prepare
from tests.system.datagrams import Flows, Load, Where, call, caller, slots_of
from tests.system.processes import stopped
from tests.system.running import Running
from tests.system.sources import failing_lifespan

KILLED = "was ended by SIGKILL"
WHO = "import os\n\ndef who(data, peer, reply):\n    reply(b'%d' % os.getpid())\n"
ECHO = "def who(data, peer, reply):\n    reply(data)\n"
FLOWS = 400
MANY_FLOWS = 900  # of which 1/5 is to move: that chance makes it more than 1/4 is 1 to 10,000
LISTENER = {"name": "flows", "bind": "udp://127.0.0.1:0", "app": "app:who"}


def prepare_flows(prepare: Prepare, app: str = WHO, **config: Any) -> Running:
    return prepare({"app.py": app}, **{"workers": 4, "listeners": [LISTENER], **config})


def where(server: Running) -> Where:
    return ("127.0.0.1", server.port("flows"))


def wait_for(server: Running, count: int) -> None:
    eventually(lambda: len(server.workers()) == len(server.worker_pids()) == count, within=15)


def reload(server: Running) -> None:
    """Reload, and wait until the old workers have left."""
    assert server.reload()["verdict"] == "committed"
    wait_for(server, server.status()["target"])


def kill(server: Running, pid: int) -> None:
    count = len(server.worker_pids())
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: pid not in server.worker_pids() and len(server.worker_pids()) == count)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_flows_are_spread_over_all_and_keep_their_slots_over_reloads_and_crashes(
    prepare: Prepare, host: str
) -> None:
    bind = f"udp://[{host}]:0" if ":" in host else f"udp://{host}:0"
    server = prepare_flows(prepare, listeners=[{"name": "flows", "bind": bind, "app": "app:who"}]).start()
    server.expected_errors.append(KILLED)
    with Flows((host, server.port("flows")), FLOWS) as flows:
        answers = flows.ask()
        before = slots_of(server, answers)
        assert {slot: before.count(slot) for slot in range(4)}.keys() == set(before)
        assert all(60 <= before.count(slot) <= 145 for slot in range(4))  # 4.6 standard deviations of chance
        assert flows.ask() == answers
        reload(server)
        assert slots_of(server, flows.ask()) == before
        for slot in (2, 0):
            kill(server, {row["slot"]: row["pid"] for row in server.workers()}[slot])
            assert slots_of(server, flows.ask()) == before


def test_a_killed_workers_queue_is_answered_by_its_replacement_and_no_flow_moves(prepare: Prepare) -> None:
    server = prepare_flows(prepare).start()
    server.expected_errors.append(KILLED)
    with Flows(where(server), FLOWS) as flows:
        before = slots_of(server, flows.ask())
        workers = {row["slot"]: row["pid"] for row in server.workers()}
        with stopped(workers[1]):
            flows.send()
            os.kill(workers[1], signal.SIGKILL)
        answers = flows.take()
        assert answers.count(b"") == 0
        eventually(server.is_ready)
        assert slots_of(server, answers) == before
        others = [answer for answer, slot in zip(answers, before, strict=True) if slot != 1]
        assert {int(answer) for answer in others} == set(workers.values()) - {workers[1]}


def test_all_workers_killed_at_once_lose_nothing_that_is_queued(prepare: Prepare) -> None:
    server = prepare_flows(prepare).start()
    server.expected_errors.append(KILLED)
    with Flows(where(server), FLOWS) as flows:
        before = slots_of(server, flows.ask())
        pids = server.worker_pids()
        with stopped(*pids):
            flows.send()
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
        answers = flows.take()
        assert answers.count(b"") == 0
        eventually(server.is_ready)
        assert slots_of(server, answers) == before


def test_one_that_stands_still_keeps_its_flows_and_answers_them_later(prepare: Prepare) -> None:
    server = prepare_flows(prepare).start()
    with Flows(where(server), FLOWS) as flows:
        answers = flows.ask()
        victim = min(server.worker_pids())
        with stopped(victim):
            flows.send()
            eventually(lambda: "stands still" in str(server.ask("health")["why"]))
        assert flows.take() == answers


@pytest.mark.parametrize("how", ["scale", "reload"])
def test_a_fifth_worker_moves_at_most_a_quarter_of_the_flows(prepare: Prepare, how: str) -> None:
    server = prepare_flows(prepare).start()
    with Flows(where(server), MANY_FLOWS) as flows:
        before = slots_of(server, flows.ask())
        if how == "scale":
            server.ask("scale", count=5)
            wait_for(server, 5)
        else:
            server.configure({"workers": 5, "listeners": [LISTENER]})
            reload(server)
        after = slots_of(server, flows.ask())
        moved = [slot for was, slot in zip(before, after, strict=True) if was != slot]
        assert 0 < len(moved) <= MANY_FLOWS / 4
        assert set(moved) == {4}
        server.ask("scale", count=4)
        wait_for(server, 4)
        assert slots_of(server, flows.ask()) == before


def test_fewer_workers_and_more_again_lose_no_datagram(prepare: Prepare) -> None:
    server = prepare_flows(prepare, ECHO).start()
    with Load(where(server), 100) as load:
        for count in (2, 4, 1, 4):
            server.ask("scale", count=count)
            wait_for(server, count)
            load.wait_for_more(200)
    assert load.failures == []
    assert server.status()["counters"]["dropped"] == 0
    eventually(lambda: server.status()["counters"]["datagrams"] == load.answered)


def test_what_waits_at_a_worker_that_is_scaled_away_is_answered(prepare: Prepare) -> None:
    server = prepare_flows(prepare).start()
    with Flows(where(server), FLOWS) as flows:
        flows.ask()
        going = [row["pid"] for row in server.workers() if row["slot"] >= 2]
        with stopped(*going):
            flows.send()
            server.ask("scale", count=2)
            assert flows.take().count(b"") == 0  # by those who stay
        wait_for(server, 2)
        assert set(slots_of(server, flows.ask())) == {0, 1}


def test_a_worker_that_cannot_boot_takes_no_flows(prepare: Prepare) -> None:
    """A database may have room for four clients: the fifth worker is tried again and again, for hours."""
    server = prepare_flows(prepare, failing_lifespan(ECHO, good=4), lifespan="app:lifespan").start()
    server.expected_errors += ["the database is away", "Traceback"]
    with Flows(where(server), 100) as flows:
        assert flows.ask(b"hello") == [b"hello"] * 100
        server.ask("scale", count=5)
        eventually(lambda: "the database is away" in server.log())
        assert flows.ask(b"hello", within=3).count(b"") == 0


# --- by payload ---


def test_a_device_keeps_its_worker_through_changes_of_its_port(prepare: Prepare) -> None:
    server = prepare_flows(prepare, listeners=[{**LISTENER, "steer": {"payload": "0:4"}}]).start()

    def answers() -> list[bytes]:
        """Ask for each device from a new port."""
        found = []
        for device in range(80):
            with caller(where(server)) as sock:
                found.append(call(sock, device.to_bytes(4, "big") + b"hello"))
        return found

    before = answers()
    assert {int(answer) for answer in before} == server.worker_pids()
    assert answers() == before
    slots = slots_of(server, before)
    reload(server)
    assert slots_of(server, answers()) == slots
    server.ask("scale", count=5)
    wait_for(server, 5)
    moved = [now for was, now in zip(slots, slots_of(server, answers()), strict=True) if was != now]
    assert len(moved) <= 80 / 4
    assert set(moved) == {4}


def test_datagrams_without_the_bytes_that_steer_are_answered_and_keep_their_worker(prepare: Prepare) -> None:
    server = prepare_flows(prepare, listeners=[{**LISTENER, "steer": {"payload": "2:6"}}]).start()
    with Flows(where(server), 60) as flows:
        short = [flows.ask(b"x" * size) for size in range(6)]
        assert all(answers == short[0] for answers in short)
        assert {int(answer) for answer in short[0]} == server.worker_pids()
        assert len(set(flows.ask(b"xxxxxx"))) == 1


def test_what_steers_is_changed_by_a_reload(prepare: Prepare) -> None:
    server = prepare_flows(prepare).start()
    with Flows(where(server), 60) as flows:
        before = slots_of(server, flows.ask(b"device"))
        assert set(before) == {0, 1, 2, 3}
        server.configure({"workers": 4, "listeners": [{**LISTENER, "steer": {"payload": "0:4"}}]})
        verdict = server.reload()
        assert verdict["verdict"] == "committed"
        assert any("steer" in change for change in verdict["changes"])
        wait_for(server, 4)
        assert len(set(flows.ask(b"device"))) == 1
        server.configure({"workers": 4, "listeners": [LISTENER]})
        reload(server)
        assert slots_of(server, flows.ask(b"device")) == before
