"""Who is admitted: by prefixes that nest, by lists in files with every mistake, and by bans that end.

Knows: `prefork.firewall`, and `ipaddress` as a second opinion. Does not know: servers.
"""

from __future__ import annotations

import ipaddress
import math
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefork.errors import ConfigError, PreforkError
from prefork.firewall import MAX_BANS, MAX_FILE_BYTES, MAX_FILE_LINES, Bans, build_firewall, pack_host, source_of

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
BOUNDED = settings(derandomize=True, database=None, deadline=None, max_examples=300)


def packed(host: str) -> bytes:
    found = pack_host(host)
    assert found is not None, host
    return found


def admitted(allow: Sequence[str], deny: Sequence[str], *hosts: str) -> list[bool]:
    firewall = build_firewall(allow, deny)
    return [firewall.admits(packed(host)) for host in hosts]


def problems_of(allow: Sequence[str], deny: Sequence[str] = (), directories: Sequence[str] = ()) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        build_firewall(allow, deny, directories)
    return caught.value.problems


# --- addresses ---


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("192.0.2.1", bytes([192, 0, 2, 1])),
        ("::ffff:192.0.2.1", bytes([192, 0, 2, 1])),
        ("::FFFF:c000:201", bytes([192, 0, 2, 1])),
        ("::1", bytes(15) + b"\x01"),
        ("::192.0.2.1", bytes(12) + bytes([192, 0, 2, 1])),
        ("fe80::1%eth0", b"\xfe\x80" + bytes(13) + b"\x01"),
        ("::ffff:192.0.2.1%eth0", bytes([192, 0, 2, 1])),
    ],
)
def test_an_address_is_packed_without_its_zone_and_unmapped(host: str, expected: bytes) -> None:
    assert pack_host(host) == expected


NO_HOSTS = ["", "host", "/run/x", "1.2.3", "1.2.3.4%eth0", "1.2.3.256", "01.2.3.4", "1:2", "1.2.3.4\0"]


@pytest.mark.parametrize("host", NO_HOSTS)
def test_what_is_no_address_is_not_packed(host: str) -> None:
    assert pack_host(host) is None


def test_one_source_is_an_address_of_ipv4_and_a_subnet_of_ipv6_by_default() -> None:
    assert source_of(packed("192.0.2.1"), 32, 64) == packed("192.0.2.1")
    assert source_of(packed("2001:db8:1:2:3:4:5:6"), 32, 64) == packed("2001:db8:1:2::")
    assert source_of(packed("::ffff:192.0.2.1"), 32, 64) == packed("192.0.2.1")


ADDRESSES = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)


@given(ADDRESSES, st.integers(0, 32), st.integers(0, 128))
@BOUNDED
def test_a_source_is_the_network_address_of_any_prefix(address: bytes, v4_bits: int, v6_bits: int) -> None:
    bits = v4_bits if len(address) == 4 else v6_bits
    network = ipaddress.ip_network((address, bits), strict=False)
    assert source_of(address, v4_bits, v6_bits) == network.network_address.packed


# --- lists ---


def test_without_lists_everybody_is_admitted_and_nobody_needs_to_ask() -> None:
    firewall = build_firewall([], [])
    assert firewall.is_open
    assert len(firewall) == 0
    assert firewall.admits(packed("192.0.2.1"))
    assert firewall.admits(packed("::1"))


def test_a_list_of_the_allowed_refuses_all_others_of_both_families() -> None:
    assert admitted(["10.0.0.0/8"], [], "10.1.2.3", "11.0.0.0", "9.255.255.255", "fd00::1") == [True] + [False] * 3
    assert admitted(["fd00::/8"], [], "fd00::1", "fe00::", "fcff::", "10.1.2.3") == [True] + [False] * 3


def test_a_list_of_the_denied_admits_all_others() -> None:
    assert admitted([], ["10.0.0.0/8", "::1"], "10.1.2.3", "::1", "11.0.0.0", "::2") == [False, False, True, True]


def test_the_longest_prefix_wins_in_whichever_list_it_is() -> None:
    allow, deny = ["10.0.0.0/8", "10.1.2.0/24"], ["10.1.0.0/16", "10.1.2.3"]
    hosts = ("10.0.0.1", "10.1.0.1", "10.1.2.1", "10.1.2.3", "10.1.2.4", "10.1.3.0", "10.2.0.0", "11.0.0.0")
    assert admitted(allow, deny, *hosts) == [True, False, True, False, True, False, True, False]
    assert admitted(deny, allow, *hosts[:-1]) == [False, True, False, True, False, True, False]


def test_a_network_in_both_lists_is_denied() -> None:
    assert admitted(["10.0.0.0/8"], ["10.0.0.0/8"], "10.0.0.1") == [False]
    assert admitted(["::/0", "::1"], ["::1/128"], "::1", "::2") == [False, True]
    assert admitted(["10.0.0.0/8"], ["::ffff:10.0.0.0/104"], "10.0.0.1") == [False]


def test_the_first_and_the_last_address_can_be_denied() -> None:
    ends = ["0.0.0.0", "255.255.255.255", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]
    assert admitted([], ends, *ends, "0.0.0.1", "255.255.255.254", "::2") == [False] * 4 + [True] * 3
    assert admitted(ends, [], *ends, "0.0.0.1", "255.255.255.254", "::2") == [True] * 4 + [False] * 3


def test_mapped_networks_are_those_of_ipv4() -> None:
    assert admitted(["::ffff:10.0.0.0/104"], [], "10.1.2.3", "::ffff:10.1.2.3", "11.0.0.0") == [True, True, False]
    assert admitted(["::ffff:0:0/96"], [], "10.1.2.3", "::1") == [True, False]
    assert admitted([], ["::ffff:192.0.2.1"], "192.0.2.1", "192.0.2.2") == [False, True]


def test_a_network_of_ipv6_around_the_mapped_addresses_says_nothing_of_ipv4() -> None:
    assert admitted([], ["::/0"], "192.0.2.1", "::1") == [True, False]
    assert admitted(["::/64"], [], "192.0.2.1", "::1") == [False, True]


def test_lists_that_admit_everybody_are_open_and_others_are_not() -> None:
    assert build_firewall(["0.0.0.0/0", "::/0"], []).is_open
    assert build_firewall(["10.0.0.0/8", "0.0.0.0/0", "::/0"], ["0.0.0.0/0"]).is_open is False
    assert build_firewall(["0.0.0.0/1", "128.0.0.0/1", "::/0"], []).is_open
    assert not build_firewall(["0.0.0.0/0"], []).is_open
    assert not build_firewall(["::/0"], []).is_open
    assert not build_firewall([], ["::1"]).is_open


def test_its_length_is_how_many_networks_were_listed() -> None:
    assert len(build_firewall(["10.0.0.0/8", "::1"], ["10.0.0.0/8"])) == 3


LEADS = {32: [0, 10 << 24, 255 << 24], 128: [0, 0xFD << 120, 1 << 64, 0xFFFF << 32, (1 << 128) - 16]}
PREFIXES = {32: [0, 1, 29, 30, 31, 32], 128: [0, 1, 63, 64, 65, *range(94, 100), *range(124, 129)]}


@st.composite
def networks(draw: st.DrawFn) -> str:
    """Draw so few bits that many networks nest, touch or are the same."""
    size = draw(st.sampled_from([32, 128]))
    bits = draw(st.sampled_from(PREFIXES[size]))
    first = (draw(st.sampled_from(LEADS[size])) | draw(st.integers(0, 15))) >> size - bits << size - bits
    return f"{ipaddress.ip_address(first.to_bytes(size // 8, 'big'))}/{bits}"


def understood(text: str) -> Network:
    network = ipaddress.ip_network(text)
    mapped = network.network_address.ipv4_mapped if isinstance(network, ipaddress.IPv6Network) else None
    return ipaddress.ip_network(f"{mapped}/{network.prefixlen - 96}") if mapped else network


def addresses_near(network: Network) -> set[bytes]:
    """Its first and its last address, and those next to them."""
    size = len(network.network_address.packed)
    first, last = int(network.network_address), int(network.broadcast_address)
    near = {address % (1 << size * 8) for address in (first - 1, first, first + 1, last - 1, last, last + 1)}
    return {address.to_bytes(size, "big") for address in near}


def is_admitted(address: bytes, allow: list[Network], deny: list[Network]) -> bool:
    found = ipaddress.ip_address(address)
    best = [(n.prefixlen, is_deny) for is_deny, ns in enumerate((allow, deny)) for n in ns if found in n]
    return not max(best)[1] if best else not allow


@given(st.lists(networks(), max_size=8), st.lists(networks(), max_size=8))
@BOUNDED
def test_it_agrees_with_ipaddress_on_networks_that_nest(allow: list[str], deny: list[str]) -> None:
    firewall, ban = build_firewall(allow, deny), Bans()
    allowed, denied = list(map(understood, allow)), list(map(understood, deny))
    for network in deny:
        ban.add(network, 1.0)
    everywhere = [understood(text) for text in ("0.0.0.0/0", "::/0", "128.0.0.0/1", "::/64")]
    probes = set[bytes]().union(*map(addresses_near, allowed + denied + everywhere))
    # A mapped address is one of IPv4 once it was packed.
    for address in (packed(str(ipaddress.ip_address(probe))) for probe in probes):
        assert firewall.admits(address) is is_admitted(address, allowed, denied)
        assert ban.covers(address) is any(ipaddress.ip_address(address) in n for n in denied)
        assert firewall.admits(address) or not firewall.is_open


# --- mistakes ---


def test_every_mistake_is_told_with_its_cure() -> None:
    assert problems_of(["10.0.0.1/8", "host"], ["fd00::1/8", "::1"]) == [
        "'10.0.0.1/8' has bits set beyond its prefix; write 10.0.0.0/8",
        "'host' is not a network; write 10.0.0.0/8 or fd00::/8",
        "'fd00::1/8' has bits set beyond its prefix; write fd00::/8",
    ]
    assert problems_of(["::ffff:10.0.0.1/104"])[0].endswith("; write 10.0.0.0/8")
    assert problems_of(["::ffff:0:0/90"])[0].endswith("; write ::ffc0:0:0/90")


NO_PREFIXES = ["", "33", "-1", "+8", " 8", "8 ", "08", "8/8", "255.0.0.0", "1_0", "٨", "8\0", "9" * 99]
NO_NETWORKS = ["::/129", "file:", "fd00::/8,::1", "fe80::1%eth0", "é", *(f"1.0.0.0/{p}"[:50] for p in NO_PREFIXES)]


@pytest.mark.parametrize("text", [*NO_HOSTS, *NO_NETWORKS])
def test_what_is_no_network_is_refused(text: str) -> None:
    assert problems_of([text]) == [f"{text!r} is not a network; write 10.0.0.0/8 or fd00::/8"]
    with pytest.raises(PreforkError, match="is not a network; write 10"):
        Bans().add(text, 1.0)


def test_a_long_mistake_is_cut_and_its_escapes_with_it() -> None:
    shown = problems_of(["\x1b" * 1_000_000])[0].partition(" is not")[0]
    assert shown == ("'" + "\\x1b" * 15)[:60]


def test_20_mistakes_are_told_and_the_others_counted(tmp_path: Path) -> None:
    (tmp_path / "bad").write_text("x\n" * 1000)
    problems = problems_of(["y"] * 5, [f"file:{tmp_path}/bad"])
    assert len(problems) == 21
    assert problems[4:6] == [
        "'y' is not a network; write 10.0.0.0/8 or fd00::/8",
        f"{tmp_path}/bad:1:1: 'x' is not a network; write 10.0.0.0/8 or fd00::/8",
    ]
    assert problems[-1] == "and 985 more"
    assert len(problems_of(["y"] * 20)) == 20


# --- files ---


def test_a_file_lists_networks_between_comments_and_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(b"\xef\xbb\xbf10.0.0.0/8 # caf\xe9\r\n\n  # none\r\n\tfd00::/8\n192.0.2.1")
    firewall = build_firewall([f"file:{tmp_path}/list"], [])
    assert len(firewall) == 3
    hosts = ("10.1.1.1", "fd00::1", "192.0.2.1", "192.0.2.2", "::1")
    assert [firewall.admits(packed(host)) for host in hosts] == [True, True, True, False, False]


def test_mistakes_in_a_file_are_told_with_their_places(tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(b"10.0.0.0/8\n  10.0.0.1/8 # x\n\n#\n\xff\x1b\nfile:x\n::/0 ::/1\n")
    path = f"{tmp_path}/list"
    cure = "is not a network; write 10.0.0.0/8 or fd00::/8"
    assert problems_of(["10.0.0.0"], ["::1", f"file:{path}"]) == [
        f"{path}:2:3: '10.0.0.1/8' has bits set beyond its prefix; write 10.0.0.0/8",
        rf"{path}:5:1: '\udcff\x1b' {cure}",
        f"{path}:6:1: 'file:x' {cure}",
        f"{path}:7:1: '::/0 ::/1' {cure}",
    ]


def test_an_empty_file_of_the_allowed_admits_nobody_and_one_of_the_denied_everybody(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    entries = [f"file:{tmp_path}/empty"]
    assert admitted(entries, [], "192.0.2.1", "::1") == [False, False]
    assert build_firewall([], entries).is_open


def test_relative_paths_are_looked_for_in_the_directories_in_their_order(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    for directory in (first, second):
        directory.mkdir()
        (directory / "both").write_text("::1\n" if directory is first else "::2\n")
    (second / "one").write_text("::3\n")
    (first / "lost").symlink_to("nowhere")
    (second / "lost").write_text("::4\n")
    directories = [str(first), str(second)]
    firewall = build_firewall(["file:both", "file:one", f"file:{second}/one"], [], directories)
    assert [firewall.admits(packed(f"::{n}")) for n in range(1, 5)] == [True, False, True, False]
    for name in ("none", "lost"):
        problems = problems_of([f"file:{name}"], [], directories)
        assert problems == [f"cannot read {first}/{name}: No such file or directory"]


def test_a_file_that_cannot_be_read_is_a_problem_among_others(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    names = ["none", "loop", "dangling", "fifo", "", "x\0"]
    assert problems_of([f"file:./{name}" for name in names], ["x"], [str(tmp_path)]) == [
        f"cannot read {tmp_path}/./none: No such file or directory",
        f"cannot read {tmp_path}/./loop: Too many levels of symbolic links",
        f"cannot read {tmp_path}/./dangling: No such file or directory",
        f"cannot read {tmp_path}/./fifo: it is not a regular file",
        f"cannot read {tmp_path}/./: Is a directory",
        f"cannot read {tmp_path}/./x\0: embedded null byte",
        "'x' is not a network; write 10.0.0.0/8 or fd00::/8",
    ]


def test_files_are_bounded(tmp_path: Path) -> None:
    lines, size = tmp_path / "lines", tmp_path / "size"
    lines.write_bytes(b"\n" * (MAX_FILE_LINES - 1) + b"::1\n")
    assert len(build_firewall([f"file:{lines}"], [])) == 1
    lines.write_bytes(b"\n" * MAX_FILE_LINES + b"::1")
    with size.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    assert problems_of([f"file:{lines}", f"file:{size}"]) == [
        f"cannot read {lines}: it has over 1000000 lines",
        f"cannot read {size}: it has over 64 MiB",
    ]


# --- bans ---


def test_a_ban_covers_its_network_until_it_is_lifted() -> None:
    bans = Bans()
    assert not bans.covers(packed("10.1.2.3"))
    bans.add("10.0.0.0/8", 5.0)
    bans.add("10.1.2.3", 9.0)
    bans.add("2001:db8::/32", math.inf)
    assert [bans.covers(packed(h)) for h in ("10.1.2.3", "11.0.0.0", "2001:db8::1")] == [True, False, True]
    assert bans.remove("10.0.0.0/8") is True
    assert bans.remove("10.0.0.0/8") is False
    assert [bans.covers(packed(h)) for h in ("10.1.2.3", "10.1.2.4")] == [True, False]
    assert bans.entries() == [("10.1.2.3/32", 9.0), ("2001:db8::/32", math.inf)]


def test_a_mapped_network_is_banned_as_that_of_ipv4() -> None:
    bans = Bans()
    bans.add("::ffff:192.0.2.1", 1.0)
    bans.add("192.0.2.1/32", 2.0)
    assert bans.entries() == [("192.0.2.1/32", 2.0)]
    bans.add("::/0", 1.0)
    assert [bans.covers(packed(h)) for h in ("192.0.2.1", "192.0.2.2", "::1")] == [True, False, True]


def test_bans_expire_at_their_end_and_a_later_ban_changes_it() -> None:
    bans = Bans()
    bans.add("192.0.2.1", 1.0)
    bans.add("192.0.2.2", 2.0)
    bans.add("192.0.2.3", 1.0)
    bans.add("192.0.2.3", 3.0)
    assert bans.covers(packed("192.0.2.1"))
    assert bans.expire(0.9) == []
    assert bans.expire(2.0) == ["192.0.2.1/32", "192.0.2.2/32"]
    assert [bans.covers(packed(f"192.0.2.{n}")) for n in (1, 2, 3)] == [False, False, True]


def test_there_are_at_most_4096_bans_and_those_can_still_be_changed() -> None:
    bans = Bans()
    for number in range(MAX_BANS):
        bans.add(str(ipaddress.IPv4Address(number << 8)), 1.0)
    with pytest.raises(PreforkError, match=r"^cannot ban ::1: 4096 networks are banned; lift one$"):
        bans.add("::1", 1.0)
    bans.add("0.0.0.0", 2.0)
    assert Bans.unpack(bans.pack()).entries() == bans.entries()
    assert bans.remove("0.0.0.0")
    bans.add("::1", 1.0)
    assert bans.covers(packed("::1"))


def test_a_wrong_network_is_neither_banned_nor_lifted() -> None:
    bans = Bans()
    for change in (lambda text: bans.add(text, 1.0), bans.remove):
        with pytest.raises(PreforkError, match=r"^'10\.0\.0\.1/8' has bits set .*; write 10\.0\.0\.0/8$"):
            change("10.0.0.1/8")
    assert bans.entries() == []


@given(st.dictionaries(networks(), st.floats(allow_nan=False), max_size=8))
@BOUNDED
def test_bans_that_are_packed_are_unpacked_the_same(ends: dict[str, float]) -> None:
    bans = Bans()
    for network, until in ends.items():
        bans.add(network, until)
    data = bans.pack()
    assert len(data) == 32 * len(bans.entries())
    again = Bans.unpack(data)
    assert again.entries() == bans.entries()
    assert {str(understood(network)) for network, _ in again.entries()} == {str(understood(n)) for n in ends}


def test_a_record_is_32_bytes_of_network_prefix_and_end() -> None:
    bans = Bans()
    bans.add("10.0.0.0/8", 1.0)
    assert bans.pack() == bytes(10) + b"\xff\xff\x0a" + bytes(3) + b"\x68" + bytes(7) + b"\x3f\xf0" + bytes(6)


@pytest.mark.parametrize(
    "data",
    [b"x", bytes(31), bytes(32 * (MAX_BANS + 1)), b"\xff" * 32, bytes(15) + b"\x01\x40" + bytes(15)],
    ids=["short", "cut", "many", "prefix", "bits"],
)
def test_what_are_no_records_is_refused(data: bytes) -> None:
    with pytest.raises(PreforkError, match=r"^cannot read bans: "):
        Bans.unpack(data)
