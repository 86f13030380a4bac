"""Who may have a connection: private networks, load balancers, rules that are tried, counts that are released.

Knows: `prefork.net.guard`, `prefork.net.ledger`, rows of shared memory. Does not know: sockets.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from prefork.config import Limits
from prefork.firewall import Bans, build_firewall, pack_host
from prefork.net.guard import AUTO_PER_IP, BanBoard, Guard, host_of, is_private
from prefork.net.ledger import Ledger
from prefork.net.proxy_header import ProxyHeader
from prefork.net.sources import SourceTable
from prefork.net.tally import Tally
from prefork.scoreboard import Notice, Rows, Rule, Scoreboard

PUBLIC, OTHER, PRIVATE = "203.0.113.7", "203.0.113.8", "192.168.0.7"


def packed(host: str) -> bytes:
    found = pack_host(host)
    assert found is not None, host
    return found


# --- private networks ---


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ("10.0.0.0", "10.255.255.255"),  # RFC 1918
        ("172.16.0.0", "172.31.255.255"),
        ("192.168.0.0", "192.168.255.255"),
        ("169.254.0.0", "169.254.255.255"),  # RFC 3927
        ("100.64.0.0", "100.127.255.255"),  # RFC 6598
        ("127.0.0.0", "127.255.255.255"),
        ("fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),  # RFC 4193
        ("fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),  # RFC 4291, 2.5.6
        ("::1", "::1"),  # RFC 4291, 2.5.3
        ("fe80::1%eth0", "::ffff:10.0.0.1"),
    ],
)
def test_private_networks_reach_from_their_first_address_to_their_last(first: str, last: str) -> None:
    assert is_private(packed(first))
    assert is_private(packed(last))


@pytest.mark.parametrize(
    "host",
    [
        *("9.255.255.255", "11.0.0.0", "172.15.255.255", "172.32.0.0", "192.167.255.255", "192.169.0.0"),
        *("169.253.255.255", "169.255.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0"),
        *("1.0.0.0", "255.255.255.255", "fbff:ffff::", "fe00::", "fe7f:ffff::", "fec0::", "::", "::2", "1::1"),
        *("2001:db8::1", "::ffff:9.255.255.255", "::ffff:8.8.8.8"),
    ],
)
def test_the_neighbours_of_private_networks_are_public(host: str) -> None:
    assert not is_private(packed(host))


# --- a guard ---


@dataclass
class Enforcer:
    """Remembers the rules that were broken, and holds them or not."""

    is_held: bool = True
    broken: list[tuple[Rule, Any]] = field(default_factory=list)

    def __call__(self, rule: Rule, who: object) -> bool:
        self.broken.append((rule, who))
        return self.is_held

    @property
    def rules(self) -> list[Rule]:
        return [rule for rule, _ in self.broken]


class Post:
    """A guard with all that it needs, and the sight of another worker."""

    def __init__(self, deny: tuple[str, ...] = (), **limits: Any) -> None:
        rows = Rows(2)
        rows.seat_limit = 2
        self.notice = Notice()
        self.board = BanBoard(self.notice)
        self.tables = [SourceTable(rows, seat) for seat in range(2)]
        self.limits = Limits(**limits)
        self.firewall = build_firewall((), deny)
        self.guard = self.build(0)
        self.enforcer = Enforcer()

    def build(self, seat: int, name: str = "echo") -> Guard:
        return Guard(name, self.limits, self.firewall, self.tables[seat], self.board)

    def admit(self, host: str, times: int = 1) -> list[int | None]:
        return [self.guard.admit(host, self.enforcer) for _ in range(times)]

    def ban(self, network: str) -> None:
        bans = Bans()
        bans.add(network, 1e9)
        self.notice.post(bans.pack())


def test_so_many_of_a_source_are_admitted_and_counted_under_one_key() -> None:
    post = Post(per_ip=3)
    keys = post.admit(PUBLIC, 5)
    assert len(set(keys[:3])) == 1
    assert keys[0]
    assert keys[3:] == [None, None]
    assert post.enforcer.broken == [(Rule.PER_IP, PUBLIC)] * 2
    assert post.admit(OTHER)[0] not in (None, keys[0])


def test_a_source_is_one_over_all_workers_and_another_at_each_listener() -> None:
    post = Post(per_ip=2)
    other_worker, other_listener = post.build(1), post.build(0, "admin")
    assert post.admit(PUBLIC)[0]
    assert other_worker.admit(PUBLIC, post.enforcer)
    assert post.admit(PUBLIC) == other_worker_refuses(other_worker, post) == [None]
    assert other_listener.admit(PUBLIC, post.enforcer)


def other_worker_refuses(guard: Guard, post: Post) -> list[int | None]:
    return [guard.admit(PUBLIC, post.enforcer)]


def test_a_prefix_makes_neighbours_one_source() -> None:
    post = Post(per_ip=1, prefix_v4=24, prefix_v6=48)
    assert post.admit("203.0.113.1")[0]
    assert post.admit("203.0.113.255") == [None]
    assert post.admit("203.0.114.1")[0]
    assert post.admit("2001:db8:1::1")[0]
    assert post.admit("2001:db8:1:ffff::1") == [None]
    assert post.admit("::ffff:203.0.113.1") == [None]


def test_by_default_a_private_network_has_no_limit_and_others_have_256() -> None:
    post = Post()
    assert set(post.admit(PRIVATE, AUTO_PER_IP + 9)) == {0}
    keys = post.admit(PUBLIC, AUTO_PER_IP + 1)
    assert None not in keys[:-1]
    assert keys[-1] is None


def test_a_limit_that_is_given_holds_for_private_networks_too() -> None:
    assert Post(per_ip=1).admit(PRIVATE, 2)[1] is None
    assert Post(per_ip=0).admit(PUBLIC, 300) == [0] * 300


def test_a_peer_without_an_address_is_not_counted() -> None:
    post = Post(deny=("0.0.0.0/0", "::/0"), per_ip=1)
    for host in ("", "/run/echo.sock", "\0name", "1.2.3", "1.2.3.4.5", "::g"):
        assert post.admit(host, 3) == [0, 0, 0]
    assert post.enforcer.broken == []


def test_what_is_released_makes_room_and_once_only() -> None:
    post = Post(per_ip=2)
    for serial, key in enumerate(post.admit(PUBLIC, 2), 1):
        assert key
        post.guard.claim(serial, key)
    assert post.admit(PUBLIC) == [None]
    post.guard.release(1)
    post.guard.release(1)  # of a number that has ended already
    post.guard.release(77)
    assert post.admit(PUBLIC)[0]
    assert post.admit(PUBLIC) == [None]


def test_the_header_of_a_connection_is_forgotten_with_it() -> None:
    post = Post()
    post.guard.headers[1] = post.guard.headers[2] = ProxyHeader(16, is_local=True)
    post.guard.release(1)
    assert [*post.guard.headers] == [2]


# --- rules that are only tried ---


def test_a_limit_that_is_tried_counts_what_it_would_refuse_and_the_count_stays_exact() -> None:
    post = Post(per_ip=2)
    post.enforcer.is_held = False
    keys = post.admit(PUBLIC, 5)
    assert len(set(keys)) == 1
    key = keys[0]
    assert key
    assert post.enforcer.rules == [Rule.PER_IP] * 3
    for serial in range(5):
        post.guard.claim(serial, key)
        post.guard.release(serial)
    post.enforcer.broken.clear()
    assert post.admit(PUBLIC, 2) == [key, key]
    assert post.enforcer.rules == []


@pytest.mark.parametrize(("limit", "rule"), [("per_ip_rate", Rule.PER_IP_RATE), ("rate", Rule.RATE)])
def test_a_rate_is_held_or_tried(limit: str, rule: Rule) -> None:
    limits: dict[str, Any] = {"per_ip": 0, limit: 5}
    held = Post(**limits)
    assert held.admit(PUBLIC, 100).count(0) < 50  # one or two seconds may pass
    assert set(held.enforcer.rules) == {rule}
    tried = Post(**limits)
    tried.enforcer.is_held = False
    assert tried.admit(PUBLIC, 100) == [0] * 100
    assert set(tried.enforcer.rules) == {rule}


def test_a_rate_that_refuses_leaves_no_count_behind() -> None:
    post = Post(per_ip=1000, rate=5)
    admitted = [key for key in post.admit(PUBLIC, 100) if key]
    for serial, key in enumerate(admitted):
        post.guard.claim(serial, key)
        post.guard.release(serial)
    assert post.tables[1].enter(admitted[0], 1, 0.0)


def test_a_denied_network_is_refused_or_tried_for_the_deny_rule() -> None:
    post = Post(deny=("203.0.113.0/24",), per_ip=1)
    assert post.guard.is_strict
    assert post.admit(PUBLIC) == [None]
    post.enforcer.is_held = False
    assert post.admit(PUBLIC)[0]
    assert post.enforcer.broken == [(Rule.DENY, PUBLIC)] * 2


def test_a_ban_holds_from_the_moment_it_is_posted_until_it_is_taken_back() -> None:
    post = Post(per_ip=0)
    assert (post.guard.is_strict, post.admit(PUBLIC)) == (False, [0])
    post.ban("203.0.113.7/32")
    assert post.admit(PUBLIC) == [None]
    assert post.admit(OTHER) == [0]
    assert post.enforcer.broken == [(Rule.BAN, PUBLIC)]
    assert not post.guard.tolerates_balancer(PUBLIC, post.enforcer)
    post.guard.look()
    assert post.guard.is_strict
    post.notice.post(b"")
    assert post.admit(PUBLIC) == [0]
    post.guard.look()
    assert not post.guard.is_strict


def test_a_balancer_is_refused_by_a_ban_and_not_by_the_lists_for_clients() -> None:
    post = Post(deny=("0.0.0.0/0",))
    assert post.guard.tolerates_balancer(PUBLIC, post.enforcer)
    assert post.guard.tolerates_balancer("/run/balancer.sock", post.enforcer)
    post.ban("203.0.113.0/24")
    assert not post.guard.tolerates_balancer(PUBLIC, post.enforcer)
    assert post.enforcer.rules == [Rule.BAN]
    post.enforcer.is_held = False
    assert post.guard.tolerates_balancer(PUBLIC, post.enforcer)


def test_a_ban_that_is_tried_goes_on_to_the_next_rule() -> None:
    post = Post(deny=("203.0.113.0/24",), per_ip=1)
    post.ban("203.0.113.7/32")
    post.enforcer.is_held = False
    post.admit(PUBLIC, 2)
    assert post.enforcer.rules == [Rule.DENY, Rule.BAN, Rule.DENY, Rule.BAN, Rule.PER_IP]


def test_a_datagram_is_tolerated_by_the_same_lists() -> None:
    post = Post(deny=("203.0.113.0/24",))
    assert not post.guard.tolerates_peer((PUBLIC, 5), post.enforcer)
    assert post.guard.tolerates_peer(("198.51.100.1", 5), post.enforcer)
    assert post.guard.tolerates_peer("/run/client.sock", post.enforcer)
    assert post.guard.tolerates_peer(None, post.enforcer)


def test_a_peer_of_a_unix_socket_has_no_host() -> None:
    assert host_of(("::1", 5, 0, 0)) == "::1"
    assert [host_of(peer) for peer in ("", b"\0name", None, (), (5,), "/run/x")] == [""] * 6


def test_a_balancer_is_one_of_its_networks_and_nobody_if_there_are_none() -> None:
    guard = Post().guard
    assert not guard.is_balancer("10.0.0.1")
    guard.balancers = build_firewall(("10.0.0.0/8", "fd00::/8"), ())
    hosts = ("10.0.0.1", "::ffff:10.9.9.9", "fd00::1", "11.0.0.1", "fe80::1", "", "name")
    assert [guard.is_balancer(host) for host in hosts] == [True, True, True, False, False, False, False]


# --- what is told of a trial ---


def test_a_connection_that_runs_against_a_tried_rule_is_told_of_once() -> None:
    ledger = Ledger(Tally(Scoreboard(1).page(0)), 0)
    assert [ledger.is_first_try(1, Rule.PER_IP) for _ in range(3)] == [True, False, False]
    assert ledger.is_first_try(1, Rule.IDLE)
    assert ledger.is_first_try(2, Rule.PER_IP)
    ledger.forget(1)
    assert ledger.is_first_try(1, Rule.PER_IP)
    assert not ledger.is_first_try(2, Rule.PER_IP)
    ledger.forget(99)
