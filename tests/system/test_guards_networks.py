"""Networks that may connect, and those that may not: lists, files of lists, bans at run time."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.eventually import eventually
from tests.system.certificates import Authority
from tests.system.certificates import listener as tls_listener
from tests.system.conftest import Prepare
from tests.system.datagrams import call, caller, take
from tests.system.running import Running, exchange
from tests.system.test_inherited import start as start_by_starter
from tests.system.traffic import Stream
from tests.system.visitors import Visitors, ask, counted, has_ended, listener, open_connections, told, visit

APPS = (
    "def echo(data, peer, reply):\n"
    "    reply(data)\n"
    "async def tcp(conn):\n"
    "    async for data in conn:\n"
    "        await conn.send(data)\n"
)
UDP = {"app.py": APPS}
BOTH = [{"name": "udp", "bind": "udp://127.0.0.1:0", "app": "app:echo"}, listener(app="app:tcp")]


def start(prepare: Prepare, workers: int = 2, **more: Any) -> Running:
    return prepare(workers=workers, listeners=[listener(**more)]).start()


def served(server: Running, *sources: str, port: int = 0) -> list[bool]:
    """Return which of some addresses are served."""
    port = port or server.port()
    found = []
    for source in sources:
        with visit(port, source) as sock:
            found.append(ask(sock) == b"hello")
    return found


def call_from(port: int, source: str, data: bytes = b"hello") -> list[bytes]:
    """Return the answers that a datagram from an address gets within a moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((source, 0))
        sock.settimeout(0.4)
        sock.sendto(data, ("127.0.0.1", port))
        return take(sock, 1)


# --- lists ---


@pytest.mark.parametrize("more", [{"deny": ["127.0.0.2"]}, {"allow": ["127.0.0.3"]}, {"deny": ["127.0.0.0/30"]}])
def test_a_reload_ends_those_who_are_denied_from_now_on_and_nobody_else(prepare: Prepare, more: Any) -> None:
    timeouts = {"boot": "20s", "beat": "20s", "drain": "60s"}
    server = prepare(workers=2, listeners=[listener()], timeouts=timeouts).start()
    if "127.0.0.0/30" in more.get("deny", ()):
        more |= {"allow": ["127.0.0.3"]}
    with visit(server.port(), "127.0.0.2") as denied, visit(server.port(), "127.0.0.3") as allowed:
        assert ask(denied) == ask(allowed) == b"hello"
        server.configure({"timeouts": timeouts, "listeners": [listener(**more)]})
        assert server.reload()["verdict"] == "committed"
        eventually(lambda: has_ended(denied), within=5)
        assert ask(allowed) == b"hello"
        eventually(lambda: told(server, "1 connections ended: their networks may not connect any more"))
        assert served(server, "127.0.0.2", "127.0.0.3") == [False, True]


def test_the_longest_prefix_wins_whichever_list_it_is_in(prepare: Prepare) -> None:
    server = start(prepare, deny=["127.0.0.0/8", "127.9.9.9"], allow=["127.0.0.0/16", "127.9.9.0/24"])
    assert served(server, "127.0.0.1", "127.0.9.1", "127.1.0.1", "127.9.9.9", "127.9.9.8") == [
        *(True, True, False, False, True)
    ]
    assert counted(server, "deny") == 2
    assert 1 <= len(told(server, "allow, deny")) <= 2


def test_with_an_allow_list_others_are_refused_and_deny_wins_a_tie(prepare: Prepare) -> None:
    server = start(prepare, allow=["127.0.0.0/30", "127.0.0.2"], deny=["127.0.0.2"])
    assert served(server, "127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4") == [True, False, True, False]


def test_a_refused_client_gets_the_goodbye(prepare: Prepare) -> None:
    server = start(prepare, deny=["127.0.0.2"], limits={"goodbye": "421 not you"})
    with visit(server.port(), "127.0.0.2") as sock:
        assert sock.recv(100) == b"421 not you\n"
        assert ask(sock) != b"hello"


def test_a_file_is_read_again_by_a_reload_and_connections_that_stay_allowed_are_not_touched(
    prepare: Prepare,
) -> None:
    server = prepare({"bad.txt": "# the bad\n127.0.0.2\n\n127.0.4.0/24 # all\n"})
    server.configure({"listeners": [listener(deny=["file:bad.txt"])]})
    server.start()
    assert served(server, "127.0.0.1", "127.0.0.2", "127.0.4.7", "127.0.0.3") == [True, False, False, True]
    server.write("bad.txt", "127.0.0.3\n")
    server.send(signal.SIGHUP)
    eventually(lambda: {row["generation"] for row in server.workers()} == {2}, within=20)
    assert served(server, "127.0.0.2", "127.0.4.7", "127.0.0.3") == [True, True, False]


def test_a_wrong_file_refuses_the_reload_with_its_place_and_the_old_list_stays(prepare: Prepare) -> None:
    server = prepare({"bad.txt": "127.0.0.2\n"}, listeners=[listener(deny=["file:bad.txt"])]).start()
    pids = server.worker_pids()
    server.expected_errors += ["bad.txt", "reload refused"]
    server.write("bad.txt", "127.0.0.3\n10.0.0.1/8\nnonsense \x1b[31m\n")
    done = server.run("reload", "test.yaml")
    assert done.returncode == 3
    assert re.search(r"bad\.txt:2:\d+: .*bits set beyond its prefix; write 10\.0\.0\.0/8", done.stderr), (
        done.stderr
    )
    assert "bad.txt:3:" in server.log()
    assert "\x1b" not in done.stderr + server.log()
    assert "test.yaml:" in done.stderr
    assert server.worker_pids() == pids
    assert served(server, "127.0.0.2", "127.0.0.3") == [False, True]
    (server.folder / "bad.txt").unlink()
    assert server.run("reload", "test.yaml").returncode == 3
    assert served(server, "127.0.0.2", "127.0.0.3") == [False, True]


def test_an_allow_file_that_lists_nobody_lets_nobody_in(prepare: Prepare) -> None:
    server = prepare({"good.txt": "# nobody yet\n"}, listeners=[listener(allow=["file:good.txt"])]).start()
    assert served(server, "127.0.0.1", "127.0.0.2") == [False, False]


def test_a_wrong_list_is_found_by_check(prepare: Prepare) -> None:
    server = prepare({"bad.txt": "127.0.0.300\n"}, listeners=[listener(deny=["file:bad.txt"])])
    done = server.run("check", "test.yaml")
    assert done.returncode != 0
    assert "bad.txt:1:" in done.stdout + done.stderr


@pytest.fixture
def dual() -> Iterator[socket.socket]:
    """A listening socket of both families, as others than prefork make them; its bind:// of ours has one."""
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as sock:
        yield sock


@pytest.mark.parametrize("entry", ["127.0.0.0/8", "::ffff:127.0.0.0/104"])
def test_peers_of_ipv4_on_a_socket_of_ipv6_are_who_they_are(
    prepare: Prepare, dual: socket.socket, entry: str
) -> None:
    server = start_by_starter(prepare(listeners=[listener(bind="fd://3", deny=[entry])]), [dual])
    port = dual.getsockname()[1]
    assert served(server, "127.0.0.1", "127.0.0.2", port=port) == [False, False]
    with socket.create_connection(("::1", port), timeout=10) as client:
        assert exchange(client, b"hello") == b"hello"
        ban(server, "::1")
        eventually(lambda: has_ended(client), within=2)


def test_limits_and_bans_know_mapped_peers_too(prepare: Prepare, dual: socket.socket) -> None:
    server = start_by_starter(prepare(listeners=[listener({"per_ip": 4}, bind="fd://3")]), [dual])
    with Visitors(server, dual.getsockname()[1]) as visitors:
        assert len(visitors.come(9, "127.0.0.2")) == 4
        good = visitors.come(2, "127.0.0.3")
        ban(server, "127.0.0.2")
        eventually(lambda: open_connections(server) == 2, within=2)
        assert [ask(sock) for sock in good] == [b"hello"] * 2


# --- bans ---


def ban(server: Running, *arguments: str, code: int = 0, command: str = "ban") -> str:
    """Run the command; return what it says."""
    done = server.run(command, *arguments, "--config", "test.yaml")
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def bans(server: Running) -> dict[str, float]:
    done = server.run("bans", "test.yaml", "--json")
    assert done.returncode == 0, done.stderr
    return {row["network"]: row["seconds"] for row in json.loads(done.stdout)}


def test_a_ban_ends_the_connections_of_its_network_and_no_others(prepare: Prepare) -> None:
    server = start(prepare, workers=4)
    with Visitors(server) as visitors:
        bad, good = visitors.come(20, "127.0.0.2"), visitors.come(20, "127.0.3.3")
        ban(server, "127.0.0.0/24", "--for", "10m")
        eventually(lambda: all(map(has_ended, bad)), within=2)
        assert [ask(sock) for sock in good] == [b"hello"] * 20
        assert counted(server, "ban") == 20
        assert not visitors.come(3, "127.0.0.7")
        assert len(visitors.come(3, "127.0.3.3")) == 3
    left = bans(server)
    assert list(left) == ["127.0.0.0/24"]
    assert 590 < left["127.0.0.0/24"] <= 600
    ban(server, "127.0.0.0/24", command="unban")
    assert not bans(server)
    eventually(lambda: served(server, "127.0.0.2") == [True], within=2)


def test_a_ban_ends_old_connections_though_new_ones_knock_all_the_time(prepare: Prepare) -> None:
    server = start(prepare, workers=2)
    with Visitors(server) as visitors, Stream(("127.0.0.1", server.port())) as stream:
        bad = visitors.come(20, "127.0.0.2")
        eventually(lambda: stream.answered > 20)
        ban(server, "127.0.0.2")
        eventually(lambda: all(map(has_ended, bad)), within=2)
    assert not stream.failures


def test_datagrams_of_the_banned_are_dropped_though_streams_knock_all_the_time(prepare: Prepare) -> None:
    server = prepare(UDP, workers=2, listeners=BOTH).start()
    port = server.port("udp")
    with Stream(("127.0.0.1", server.port())) as stream:
        assert call_from(port, "127.0.0.2") == [b"hello"]
        eventually(lambda: stream.answered > 20)
        ban(server, "127.0.0.2")
        eventually(lambda: call_from(port, "127.0.0.2") == [], within=3)
        assert call_from(port, "127.0.0.3") == [b"hello"]


def test_who_was_banned_in_the_midst_of_a_handshake_is_not_served(prepare: Prepare) -> None:
    server = prepare(workers=1, listeners=[tls_listener()])
    authority = Authority()
    authority.issue().write(server.folder)
    server.start()
    with visit(server.port(), "127.0.0.2") as sock:
        eventually(lambda: server.workers()[0]["connections"] == 1)
        ban(server, "127.0.0.2")
        assert served(server, "127.0.0.2") == [False]
        answer = b""
        try:
            with authority.client().wrap_socket(sock, server_hostname="localhost") as tls:
                answer = exchange(tls, b"hello")
        except OSError:  # as it should be
            pass
    assert answer != b"hello"


def test_a_ban_ends_by_itself(prepare: Prepare) -> None:
    server = start(prepare)
    ban(server, "127.0.0.2", "--for", "1s")
    assert served(server, "127.0.0.2") == [False]
    eventually(lambda: served(server, "127.0.0.2") == [True], within=3, every=0.1)
    assert not bans(server)
    assert told(server, "the ban of 127.0.0.2/32 is over")


def test_a_ban_outlives_a_reload_and_a_crash(prepare: Prepare) -> None:
    server = start(prepare)
    server.expected_errors += ["signal 9", "SIGKILL"]
    ban(server, "127.0.0.2")
    assert server.reload()["verdict"] == "committed"
    assert served(server, *["127.0.0.2"] * 4, "127.0.0.3") == [False] * 4 + [True]
    victims = server.worker_pids()
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: len(server.worker_pids()) == 2 and not victims & server.worker_pids())
    assert served(server, *["127.0.0.2"] * 4, "127.0.0.3") == [False] * 4 + [True]
    assert list(bans(server)) == ["127.0.0.2/32"]


WRONG_BANS: list[tuple[str, list[str], str]] = [
    ("ban", ["10.0.0.1/8"], "write 10.0.0.0/8"),
    ("ban", ["everybody"], "'everybody' is not a network; write 10.0.0.0/8 or fd00::/8"),
    ("ban", [""], "is not a network"),
    ("ban", ["127.0.0.2", "--for", "soon"], "'soon' is not a duration"),
    ("ban", ["127.0.0.2", "--for", "0s"], "is not above 0 and up to 366 days"),
    ("ban", ["127.0.0.2", "--for", "9999d"], "is not above 0 and up to 366 days"),
    ("ban", ["127.0.0.2/33"], "is not a network"),
    ("ban", ["\x1b[31m\n10.0.0.0/8"], "is not a network"),
    ("unban", ["127.0.0.2"], "is not banned; `prefork bans` lists what is"),
    ("unban", ["127.0.0.2/99"], "is not a network"),
]


def test_a_wrong_ban_is_refused_with_its_cure(server: Running) -> None:
    for command, arguments, words in WRONG_BANS:
        said = ban(server, *arguments, code=3 if "is not banned" in words else 2, command=command)
        assert words in said
        assert "\x1b" not in said
        assert not bans(server)
    assert served(server, "127.0.0.2") == [True]


def test_datagrams_of_denied_and_banned_networks_are_dropped(prepare: Prepare) -> None:
    server = prepare(UDP, workers=2)
    server.configure({"listeners": [{**BOTH[0], "deny": ["127.0.0.2"]}]})
    server.start()
    port = server.port("udp")
    assert [call_from(port, f"127.0.0.{last}") for last in (2, 3)] == [[], [b"hello"]]
    assert counted(server, "deny") == 1
    with caller(("127.0.0.1", port)) as client:
        ban(server, "127.0.0.3")
        eventually(lambda: call_from(port, "127.0.0.3") == [], within=2)
        assert call(client, b"still here") == b"still here"
        assert counted(server, "ban") >= 1
        ban(server, "127.0.0.3", command="unban")
        eventually(lambda: call_from(port, "127.0.0.3") == [b"hello"], within=2)


def test_a_ban_is_for_all_listeners(prepare: Prepare) -> None:
    rows = [listener(name="one"), listener(name="echo")]
    server = prepare(workers=2, listeners=rows).start()
    with visit(server.port("one"), "127.0.0.2") as one, visit(server.port(), "127.0.0.2") as two:
        assert ask(one) == ask(two) == b"hello"
        ban(server, "127.0.0.2")
        eventually(lambda: has_ended(one) and has_ended(two), within=2)


def test_a_network_banned_again_has_the_new_time(server: Running) -> None:
    ban(server, "127.0.0.2", "--for", "1s")
    ban(server, "127.0.0.2", "--for", "5m")
    assert bans(server)["127.0.0.2/32"] > 250
    ban(server, "127.0.0.0/24", "--for", "5m")
    ban(server, "127.0.0.2", command="unban")
    assert served(server, "127.0.0.2", "127.0.1.2") == [False, True]


def test_many_bans_are_known_to_all(server: Running) -> None:
    for number in range(300):
        server.ask("ban", network=f"10.{number >> 8}.{number & 255}.1", duration="1h")
    server.ask("ban", network="127.0.0.2", duration=None)
    assert len(bans(server)) == 301
    assert served(server, "127.0.0.2", "127.0.0.3") == [False, True]
    assert not counted(server, "deny")
