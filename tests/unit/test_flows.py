"""The table of flows: even, stable when it grows; and the program for the kernel does what the table says."""

from __future__ import annotations

import ipaddress
import random
from collections import Counter
from collections.abc import Sequence
from functools import cache

import pytest

from prefork.config.model import MAX_WORKERS, Steer
from prefork.process.flows import BUCKETS, fill_buckets, spread_flows
from tests.bpf import Instruction, Packet, count_steps, datagram, run

BY_SOURCE = Steer()
MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS
STEERS = [BY_SOURCE, Steer(0, 4), Steer(3, 10), Steer(0, 1), Steer(0, 64), Steer(1023, 1024), Steer(960, 1024)]
FLOWS = 400
FEWEST, MOST = 75, 130  # of 400 flows over 4 workers


def random_packets(seed: int, count: int) -> list[Packet]:
    """Return datagrams of both versions, with payloads of 0 to 1100 bytes."""
    dice = random.Random(seed)
    packets = []
    for _ in range(count):
        size = dice.choice((0, 1, 3, 4, 5, 9, 10, 63, 64, 65, 1023, 1024, 1100))
        source = ipaddress.IPv6Address(dice.getrandbits(128)) if dice.random() < 0.5 else None
        source_text = str(source or ipaddress.IPv4Address(dice.getrandbits(32)))
        packets.append(datagram(source_text, dice.randint(1, 65_535), dice.randbytes(size)))
    return packets


@cache
def program_for(steer: Steer, count: int) -> list[Instruction]:
    return spread_flows(steer, count)


def chosen(program: Sequence[Instruction], packets: Sequence[Packet]) -> list[int]:
    return [run(program, packet) for packet in packets]


# --- the table ---


@pytest.fixture(scope="module")
def tables() -> dict[int, tuple[int, ...]]:
    """The tables for one socket to as many as there are buckets."""
    return {count: fill_buckets(count) for count in (*range(1, 34), 63, 64, 65, 127, 128, 254, 255, 256)}


def test_every_socket_has_its_share_of_the_buckets(tables: dict[int, tuple[int, ...]]) -> None:
    for count, table in tables.items():
        held = Counter(table)
        assert set(held) == set(range(count))
        assert len(table) == BUCKETS
        assert max(held.values()) - min(held.values()) <= 1, count


def test_one_more_socket_takes_its_share_and_no_bucket_moves_between_the_others(
    tables: dict[int, tuple[int, ...]],
) -> None:
    for count in sorted(tables):
        before, after = tables.get(count - 1), tables[count]
        if before is None:
            continue
        moved = [place for place in range(BUCKETS) if before[place] != after[place]]
        assert {after[place] for place in moved} == {count - 1}
        assert len(moved) == BUCKETS // count


def test_more_sockets_than_buckets_leave_the_table_whole() -> None:
    assert fill_buckets(MAX_WORKERS) == fill_buckets(BUCKETS)
    assert_well_formed(spread_flows(BY_SOURCE, MAX_WORKERS))


# --- the program ---


def assert_well_formed(program: Sequence[Instruction]) -> None:
    """Check what the kernel's own check wants, and that each way through ends in a return."""
    assert 0 < len(program) <= MAX_INSTRUCTIONS
    for place, (code, if_true, if_false, constant) in enumerate(program):
        assert 0 <= code <= 0xFFFF
        assert 0 <= constant <= 0xFFFFFFFF
        assert 0 <= if_true <= 255
        assert 0 <= if_false <= 255
        if code & 0x07 == 0x05:
            steps = (constant,) if code & 0xF0 == 0 else (if_true, if_false)
            assert all(place + 1 + step < len(program) for step in steps), place
    assert program[-1][0] & 0x07 == 0x06


@pytest.mark.parametrize("steer", STEERS, ids=str)
def test_the_kernel_can_take_a_program_for_any_number_of_sockets(steer: Steer) -> None:
    for count in (1, 2, 5, 31, BUCKETS):
        assert_well_formed(program_for(steer, count))


@pytest.mark.parametrize("steer", STEERS, ids=str)
def test_the_program_says_what_the_table_says(steer: Steer) -> None:
    """With as many sockets as buckets the program tells the bucket itself."""
    packets = random_packets(7, 800)
    full = fill_buckets(BUCKETS)
    assert sorted(full) == list(range(BUCKETS))
    buckets = [full.index(found) for found in chosen(program_for(steer, BUCKETS), packets)]
    assert len(set(buckets)) > BUCKETS * 0.6
    for count in (1, 2, 3, 4, 5, 8, 17, 64):
        table = fill_buckets(count)
        assert chosen(program_for(steer, count), packets) == [table[bucket] for bucket in buckets]


def test_any_socket_that_is_named_is_one_of_the_group() -> None:
    packets = random_packets(8, 300)
    for count in range(1, 40):
        assert set(chosen(program_for(BY_SOURCE, count), packets)) <= set(range(count))


def test_a_choice_takes_few_steps() -> None:
    """It is made for each datagram."""
    packets = random_packets(9, 50)
    program = program_for(BY_SOURCE, BUCKETS)
    assert max(count_steps(program, packet) for packet in packets) < 60


# --- by source ---


def test_a_source_keeps_its_socket_whatever_it_sends() -> None:
    program = program_for(BY_SOURCE, 7)
    for source in ("192.0.2.1", "2001:db8::1"):
        sizes = (0, 1, 4, 100, 1472)
        assert len({run(program, datagram(source, 4711, bytes([size & 255]) * size)) for size in sizes}) == 1


def test_options_in_the_header_of_ip_do_not_hide_the_port() -> None:
    program = program_for(BY_SOURCE, BUCKETS)
    for port in range(1000, 1100):
        plain = run(program, datagram("192.0.2.1", port))
        assert run(program, datagram("192.0.2.1", port, b"", b"\x94\x04\x00\x00")) == plain  # RFC 2113
        assert run(program, datagram("192.0.2.1", port, b"x", bytes(40))) == plain


@pytest.mark.parametrize("bit", range(0, 128, 3))
def test_each_bit_of_a_new_address_counts(bit: int) -> None:
    program = program_for(BY_SOURCE, BUCKETS)
    here = ipaddress.IPv6Address("2001:db8:1:2:3:4:5:6")
    there = ipaddress.IPv6Address(int(here) ^ (1 << bit))
    ports = range(5000, 5016)
    one, other = (chosen(program, [datagram(str(host), port) for port in ports]) for host in (here, there))
    assert sum(a != b for a, b in zip(one, other, strict=True)) >= 12


@pytest.mark.parametrize("bit", range(32))
def test_each_bit_of_an_old_address_counts(bit: int) -> None:
    program = program_for(BY_SOURCE, BUCKETS)
    here = ipaddress.IPv4Address("192.0.2.77")
    there = ipaddress.IPv4Address(int(here) ^ (1 << bit))
    ports = range(5000, 5016)
    one, other = (chosen(program, [datagram(str(host), port) for port in ports]) for host in (here, there))
    assert sum(a != b for a, b in zip(one, other, strict=True)) >= 12


CROWDS = {
    "ports in a row": [("127.0.0.1", 32_768 + n) for n in range(FLOWS)],
    "even ports in a row": [("127.0.0.1", 32_768 + 2 * n) for n in range(FLOWS)],
    "one port, hosts in a row": [(f"10.1.{n // 200}.{n % 200 + 1}", 5683) for n in range(FLOWS)],
    "one port, networks in a row": [(f"10.{n % 200}.{n // 200}.1", 5683) for n in range(FLOWS)],
    "new, ports in a row": [("::1", 40_000 + n) for n in range(FLOWS)],
    "new, hosts in a row": [(f"2001:db8::{n + 1:x}", 5683) for n in range(FLOWS)],
    "new, networks in a row": [(f"2001:db8:{n:x}::1", 5683) for n in range(FLOWS)],
}


@pytest.mark.parametrize("name", CROWDS)
def test_crowds_as_they_are_found_are_spread_evenly(name: str) -> None:
    found = Counter(chosen(program_for(BY_SOURCE, 4), [datagram(*flow) for flow in CROWDS[name]]))
    assert min(found.values()) >= FEWEST
    assert max(found.values()) <= MOST
    assert set(found) == set(range(4))


@pytest.mark.parametrize("name", CROWDS)
def test_a_fifth_worker_moves_at_most_a_quarter_of_a_crowd_and_only_to_itself(name: str) -> None:
    packets = [datagram(*flow) for flow in CROWDS[name]]
    before, after = (chosen(program_for(BY_SOURCE, count), packets) for count in (4, 5))
    moved = [to for was, to in zip(before, after, strict=True) if was != to]
    assert 0 < len(moved) <= FLOWS / 4
    assert set(moved) == {4}


# --- by payload ---


def test_a_device_keeps_its_socket_through_changes_of_its_address() -> None:
    program = program_for(Steer(2, 9), 8)
    dice = random.Random(10)
    for _ in range(100):
        device = dice.randbytes(7)
        sources = (("192.0.2.1", 1), ("198.51.100.7", 65_535), ("2001:db8::1", 5683))
        payloads = [dice.randbytes(2) + device + dice.randbytes(dice.randint(0, 50)) for _ in sources]
        packets = [datagram(*source, payload) for source, payload in zip(sources, payloads, strict=True)]
        assert len(set(chosen(program, packets))) == 1


@pytest.mark.parametrize("steer", [Steer(0, 4), Steer(1, 4), Steer(0, 7), Steer(5, 13), Steer(0, 64)], ids=str)
def test_each_byte_of_the_device_counts_and_no_other_does(steer: Steer) -> None:
    program = program_for(steer, BUCKETS)
    payload = bytes(range(100, 180))

    def differing(place: int) -> int:
        changed = [payload[:place] + bytes([value]) + payload[place + 1 :] for value in range(16)]
        return len(set(chosen(program, [datagram("192.0.2.1", 9, data) for data in changed])))

    for place in range(len(payload)):
        if steer.start <= place < steer.end:
            assert differing(place) > 8, place
        else:
            assert differing(place) == 1, place


@pytest.mark.parametrize("steer", STEERS[1:], ids=str)
def test_a_datagram_that_is_too_short_goes_by_its_source(steer: Steer) -> None:
    by_payload, by_source = program_for(steer, BUCKETS), program_for(BY_SOURCE, BUCKETS)
    for source in ("192.0.2.1", "2001:db8::1"):
        for size in {0, 1, steer.start, steer.end - 1} - {steer.end}:
            packets = [datagram(source, port, b"x" * size) for port in range(2000, 2050)]
            if size < steer.end:
                assert chosen(by_payload, packets) == chosen(by_source, packets), size
        packets = [datagram(source, port, b"x" * steer.end) for port in range(2000, 2050)]
        assert len(set(chosen(by_payload, packets))) == 1


DEVICES = {
    "numbers in a row": [n.to_bytes(4, "big") for n in range(FLOWS)],
    "numbers in a row, the low byte first": [n.to_bytes(4, "little") for n in range(FLOWS)],
    "text": [b"%04d" % n for n in range(FLOWS)],
    "by chance": [random.Random(n).randbytes(4) for n in range(FLOWS)],
}


@pytest.mark.parametrize("name", DEVICES)
def test_devices_are_spread_evenly(name: str) -> None:
    packets = [datagram("192.0.2.1", 5683, device + b" hello") for device in DEVICES[name]]
    found = Counter(chosen(program_for(Steer(0, 4), 4), packets))
    assert min(found.values()) >= FEWEST
    assert max(found.values()) <= MOST
