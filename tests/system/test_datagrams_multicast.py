"""Multicast groups: each datagram to one is answered once, whatever the number of workers; groups come and go."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.eventually import eventually
from tests.system.conftest import Prepare
from tests.system.datagrams import take
from tests.system.running import Running

ECHO = "def echo(data, peer, reply):\n    reply(data)\n"
LOOPBACK = "lo"
ANY = {4: "udp://0.0.0.0:0", 6: "udp://[::]:0"}


def new_group(version: int) -> str:
    """Return a group that hardly anybody else uses at this moment, RFC 2365 and RFC 4291."""
    dice = random.SystemRandom()
    return (
        f"239.{dice.randrange(1, 250)}.{dice.randrange(250)}.{dice.randrange(1, 250)}"
        if version == 4
        else (f"ff11::{dice.randrange(1, 65_536):x}:{dice.randrange(1, 65_536):x}")
    )


def interface(version: int) -> str:
    """Return an interface on which a group of a version can be reached: the loopback, if it has a route."""
    names = [LOOPBACK, *(name for _, name in socket.if_nameindex() if name != LOOPBACK)]
    for name in names:
        with sender(version, name) as sock:
            try:
                sock.sendto(b"", (new_group(version), 9))
            except OSError:  # no route
                continue
            return name
    pytest.skip(f"no interface has a route to groups of IPv{version}")


def listener(version: int, *groups: str) -> dict[str, Any]:
    joined = [f"{group}%{interface(version)}" for group in groups]
    return {"name": "groups", "bind": ANY[version], "app": "app:echo", "socket": {"multicast": joined}}


def serve(prepare: Prepare, version: int, *groups: str) -> Running:
    return prepare({"app.py": ECHO}, workers=4, listeners=[listener(version, *groups)]).start()


@contextmanager
def sender(version: int, name: str = "") -> Iterator[socket.socket]:
    """Give a socket that sends to groups on an interface, and no farther than this machine."""
    index = socket.if_nametoindex(name or interface(version))
    with socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        if version == 4:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, bytes(8) + struct.pack("@i", index))
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 0)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 0)
        sock.settimeout(5)
        yield sock


def count(server: Running) -> int:
    return int(server.status()["counters"]["datagrams"])


@pytest.mark.parametrize("version", [4, 6])
def test_each_datagram_to_a_group_is_answered_by_one_of_four_workers(prepare: Prepare, version: int) -> None:
    group = new_group(version)
    server = serve(prepare, version, group)
    port = server.port("groups")
    for first in range(0, 60, 10):
        with sender(version) as sock:
            asked = [b"%d" % number for number in range(first, first + 10)]
            for data in asked:
                sock.sendto(data, (group, port))
            assert take(sock, 10) == asked
    server.ask("scale", count=1)  # whoever had read a copy without answering has left, and is counted
    eventually(lambda: len(server.workers()) == 1)
    eventually(lambda: count(server) == 60)


def test_a_group_is_served_over_reloads_and_scales_and_beside_single_senders(prepare: Prepare) -> None:
    group = new_group(4)
    server = serve(prepare, 4, group)
    port = server.port("groups")
    with sender(4) as sock:
        for how in ("nothing", "reload", "more", "fewer"):
            if how == "reload":
                assert server.reload()["verdict"] == "committed"
            elif how != "nothing":
                server.ask("scale", count=5 if how == "more" else 2)
            for to in (group, "127.0.0.1"):
                sock.sendto(how.encode(), (to, port))
                assert take(sock, 1) == [how.encode()]
            wanted = server.status()["target"]
            eventually(lambda: len(server.workers()) == len(server.worker_pids()) == wanted)  # noqa: B023
    eventually(lambda: count(server) == 8)


def test_groups_of_others_are_not_served(prepare: Prepare) -> None:
    mine, other = new_group(4), new_group(4)
    server = serve(prepare, 4, mine)
    port = server.port("groups")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as member, sender(4) as sock:
        membership = socket.inet_aton(other) + bytes(4) + struct.pack("@i", socket.if_nametoindex(LOOPBACK))
        member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        sock.sendto(b"for others", (other, port))
        sock.sendto(b"for me", (mine, port))
        assert take(sock, 1) == [b"for me"]
    eventually(lambda: count(server) == 1)


def test_a_reload_joins_and_leaves_groups(prepare: Prepare) -> None:
    old, new = new_group(4), new_group(4)
    server = serve(prepare, 4, old)
    port = server.port("groups")
    server.configure({"workers": 4, "listeners": [listener(4, new)]})
    assert server.reload()["verdict"] == "committed"
    with sender(4) as sock:
        sock.sendto(b"too late", (old, port))
        sock.sendto(b"hello", (new, port))
        assert take(sock, 1) == [b"hello"]
        server.configure({"workers": 4, "listeners": [listener(4, old, new)]})
        assert server.reload()["verdict"] == "committed"
        for group in (old, new):
            sock.sendto(group.encode(), (group, port))
            assert take(sock, 1) == [group.encode()]
    eventually(lambda: count(server) == 3)


BAD = {
    "no group": ("127.0.0.1%lo", "127.0.0.1"),
    "no interface": ("239.1.2.3%nosuch0", "nosuch0"),
    "another version": ("ff11::1%lo", "ff11::1"),
    "no address": ("everybody", "everybody"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_group_that_cannot_be_joined_refuses_the_boot(prepare: Prepare, name: str) -> None:
    text, word = BAD[name]
    server = prepare({"app.py": ECHO}, listeners=[{**listener(4), "socket": {"multicast": [text]}}])
    done = server.run("run", "test.yaml")
    assert done.returncode in (2, 3)
    assert word in done.stderr + server.log()
    assert "Traceback" not in done.stderr + server.log()


def test_a_group_that_cannot_be_joined_refuses_a_reload(prepare: Prepare) -> None:
    group = new_group(4)
    server = serve(prepare, 4, group)
    server.expected_errors.append("reload refused")
    with sender(4) as sock:
        for text, word in BAD.values():
            server.expected_errors.append(word)
            row = {**listener(4), "socket": {"multicast": [f"{group}%lo", text]}}
            server.configure({"workers": 4, "listeners": [row]})
            verdict = server.reload()
            assert verdict["verdict"] == "refused"
            assert word in verdict["reason"]
            sock.sendto(b"hello", (group, server.port("groups")))
            assert take(sock, 1) == [b"hello"]
