"""Workers that serve datagrams come and go: refused reloads, hanging handlers, protocols that cannot begin."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.eventually import eventually
from tests.system.conftest import Prepare
from tests.system.datagrams import Flows, call, caller, take
from tests.system.processes import count_fds, stopped
from tests.system.questions import Questions
from tests.system.running import Running
from tests.system.sources import noted

KILLED = "was ended by SIGKILL"
LISTENER = {"name": "flows", "bind": "udp://127.0.0.1:0", "app": "app:app"}
WHO = "import os\n\ndef app(data, peer, reply):\n    reply(b'%d' % os.getpid())\n"
ECHO = "def app(data, peer, reply):\n    reply(data)\n"
HANGING = """
import os, time

def app(data, peer, reply):
    if data == b"hang" and not os.path.exists("hung"):
        open("hung", "w").close()
        time.sleep(3600)
    reply(data)
"""
WAITING = """
import asyncio, os

async def app(data, peer, reply):
    with open("begun", "a") as file:
        file.write("+")
    while not os.path.exists("gate"):
        await asyncio.sleep(0.005)
    reply(data)
"""
UNSURE = """
import asyncio, os

class app(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        if os.path.exists("broken"):
            raise RuntimeError("the database is away")
        self.transport = transport

    def datagram_received(self, data, addr):
        self.transport.sendto(data, addr)
"""


def prepare_app(prepare: Prepare, app: str, **config: Any) -> Running:
    return prepare({"app.py": app}, **{"workers": 2, "listeners": [LISTENER], **config})


def where(server: Running) -> tuple[str, int]:
    return ("127.0.0.1", server.port("flows"))


def test_a_refused_reload_gives_all_flows_back_to_their_workers(prepare: Prepare) -> None:
    server = prepare_app(prepare, WHO, workers=3, reload={"soak": "60s"}).start()
    server.expected_errors += ["reload refused", KILLED]
    with Flows(where(server), 60) as flows, Questions(server.control) as questions:
        before = flows.ask()
        old = server.worker_pids()
        assert {int(answer) for answer in before} == old
        fds = {pid: count_fds(pid) for pid in old}
        for number in range(3):
            questions.ask(number, "reload")
            eventually(lambda: server.worker_pids("paused") == old)
            during = flows.ask()
            assert {int(answer) for answer in during} == server.worker_pids("ready")
            os.kill(min(server.worker_pids("ready")), signal.SIGKILL)
            answer = questions.take()
            assert answer is not None
            assert answer["result"]["verdict"] == "refused"
            eventually(lambda: {row["pid"] for row in server.workers()} == server.worker_pids() == old)
            assert flows.ask() == before
        eventually(lambda: {pid: count_fds(pid) for pid in old} == fds)


def test_a_flow_is_never_answered_by_old_and_new_code_in_turn(prepare: Prepare) -> None:
    server = prepare_app(prepare, "def app(data, peer, reply):\n    reply(b'old')\n", workers=4).start()
    server.write("app.py", "def app(data, peer, reply):\n    reply(b'new')\n")
    with caller(where(server)) as sock, Questions(server.control) as questions:
        found = [call(sock, b"?")]
        questions.ask(1, "reload")
        while found.count(b"new") < 200:
            found.append(call(sock, b"?"))
            assert len(found) < 100_000
        assert found.index(b"new") == found.count(b"old")
        answer = questions.take()
        assert answer is not None
        assert answer["result"]["verdict"] == "committed"


def test_a_handler_that_hangs_holds_up_its_own_flows_until_its_worker_is_replaced(prepare: Prepare) -> None:
    times = {"boot": "20s", "beat": "1s", "drain": "5s"}
    server = prepare_app(prepare, HANGING, workers=2, timeouts=times).start()
    server.expected_errors += ["has not been round its loop", "the stack of", "File", "Stack", KILLED]
    with Flows(where(server), 100) as flows, caller(where(server)) as bad:
        bad.send(b"hang")
        eventually(lambda: (server.folder / "hung").exists())
        flows.send(b"hello")
        assert flows.take(within=15) == [b"hello"] * 100
    eventually(server.is_ready)


def test_what_waits_behind_the_most_coroutines_is_served_before_the_end(prepare: Prepare) -> None:
    server = prepare_app(
        prepare, WAITING, workers=1, listeners=[{**LISTENER, "limits": {"connections": 2}}]
    ).start()
    with caller(where(server)) as sock:
        for number in range(10):
            sock.send(b"%d" % number)
        eventually(lambda: noted(server.folder, "begun") == "++")
        server.send(signal.SIGTERM)
        eventually(lambda: server.status()["state"] == "stopping")
        eventually(lambda: server.workers("draining"))
        server.write("gate", "")
        assert sorted(take(sock, 10)) == [b"%d" % number for number in range(10)]
    assert server.process is not None
    assert server.process.wait(10) == 0


def test_no_more_coroutines_run_than_the_limit_says(prepare: Prepare) -> None:
    server = prepare_app(
        prepare, WAITING, workers=1, listeners=[{**LISTENER, "limits": {"connections": 3}}]
    ).start()
    with ExitStack() as stack:
        socks = [stack.enter_context(caller(where(server))) for _ in range(40)]
        for sock in socks:
            sock.send(b"hello")
        eventually(lambda: len(noted(server.folder, "begun")) >= 3)
        assert server.reload()["verdict"] == "committed"
        eventually(lambda: len(noted(server.folder, "begun")) == 6)  # three more of the new worker
        for _ in range(3):
            server.ask("health")
        assert noted(server.folder, "begun") == "+" * 6
        server.write("gate", "")
        assert [take(sock, 1) for sock in socks] == [[b"hello"]] * 40


def test_a_protocol_that_cannot_begin_costs_no_datagram_and_no_slot(prepare: Prepare) -> None:
    server = prepare_app(prepare, UNSURE).start()
    server.expected_errors += [KILLED, "the database is away", "exited with", "Traceback"]
    with Flows(where(server), 60) as flows:
        assert flows.ask(b"hello") == [b"hello"] * 60
        server.write("broken", "")
        pids = server.worker_pids()
        with stopped(*pids):
            flows.send(b"later")
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
        eventually(lambda: "the database is away" in server.log())
        (server.folder / "broken").unlink()
        assert flows.take(within=15) == [b"later"] * 60


def test_a_reload_to_a_protocol_that_cannot_begin_leaves_the_old_one_serving(prepare: Prepare) -> None:
    """It begins when its worker is given a socket: the soak is what finds out."""
    server = prepare_app(prepare, UNSURE, reload={"soak": "5s"}).start()
    server.expected_errors += ["the database is away", "exited with", "Traceback", "reload refused"]
    with Flows(where(server), 20) as flows:
        assert flows.ask(b"hello") == [b"hello"] * 20
        server.write("broken", "")
        verdict = server.reload()
        assert verdict["verdict"] == "refused"
        assert flows.ask(b"hello") == [b"hello"] * 20


def test_nobody_is_told_of_peers_without_a_name(prepare: Prepare, tmp_path: Path) -> None:
    path = f"\0prefork-{os.getpid()}-{tmp_path.name}"
    listener = {"name": "local", "bind": f"unixgram://@{path[1:]}", "app": "app:app"}
    server = prepare_app(prepare, ECHO, listeners=[listener]).start()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nobody, caller(path) as peer:
        nobody.connect(path)
        for number in range(50):
            nobody.send(b"hello")
            assert call(peer, b"%d" % number) == b"%d" % number
    eventually(lambda: server.status()["counters"]["datagrams"] == 100)
    assert server.status()["counters"]["errors"] == 0
    assert "failed" not in server.log()


def test_a_worker_that_stands_still_gives_its_flows_up_to_a_reload_within_a_moment(prepare: Prepare) -> None:
    server = prepare_app(prepare, ECHO, workers=2, timeouts={"boot": "20s", "beat": "20s", "drain": "20s"}).start()
    server.expected_errors += ["did not leave", "the stack of", "File", "Stack", KILLED]
    with Flows(where(server), 100) as flows, stopped(min(server.worker_pids())):
        flows.send(b"hello")
        assert server.reload()["verdict"] == "committed"
        assert flows.take(within=10) == [b"hello"] * 100
