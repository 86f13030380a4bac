"""Which socket of a UDP group a flow goes to: a stable table of buckets, as a program for the kernel.

A flow is a source address, or some bytes of the payload; it keeps its socket when sockets are added, but for
the share that the new ones need.

Knows: BPF instructions, headers of IP. Does not know: sockets, workers.
"""

from __future__ import annotations

from collections.abc import Sequence

from prefork.config.model import Steer

BUCKETS = 256
LOAD_WORD, LOAD_HALF, LOAD_BYTE = 0x20, 0x28, 0x30  # BPF_LD | BPF_W, _H, _B | BPF_ABS
LOAD_LENGTH = 0x80  # BPF_LD | BPF_W | BPF_LEN: of the payload
LOAD_HALF_BEHIND = 0x48  # BPF_LD | BPF_H | BPF_IND
HEADER_LENGTH_TO_X = 0xB1  # BPF_LDX | BPF_B | BPF_MSH: four times the low half of a byte
LOAD_CONSTANT = 0x00  # BPF_LD | BPF_IMM
X_FROM_MEMORY, STORE, A_TO_X = 0x61, 0x02, 0x07
MULTIPLY, SHIFT_RIGHT, XOR_X = 0x24, 0x74, 0xAC
JUMP, JUMP_EQUAL, JUMP_AT_LEAST, RETURN = 0x05, 0x15, 0x35, 0x06
NETWORK = 0xFFF00000  # SKF_NET_OFF, linux/filter.h: from there on the IP header is read
IPV4_SOURCE, IPV6_SOURCE, IPV6_HEADER_BYTES = 12, 8, 40  # RFC 791, RFC 8200
GOLDEN, MIXER = 0x9E3779B1, 0x85EBCA6B  # multipliers of Knuth's and of MurmurHash3's mixing
BUCKET_SHIFT = 24  # the upper 8 bits of 32 are the best mixed

Instruction = tuple[int, int, int, int]


def fill_buckets(count: int) -> tuple[int, ...]:
    """Return the socket of each bucket, for so many sockets.

    The table for one more socket differs from this one by the buckets that the new socket gets, and they are
    taken in turn from whoever has the most.
    """
    buckets = [list(range(BUCKETS))]  # of each socket
    for newcomer in range(1, min(count, BUCKETS)):
        share: list[int] = []
        for _ in range(BUCKETS // (newcomer + 1)):
            richest = max(range(newcomer), key=lambda owner: len(buckets[owner]))
            share.append(buckets[richest].pop())
        buckets.append(sorted(share))
    owners = {bucket: owner for owner, held in enumerate(buckets) for bucket in held}
    return tuple(owners[bucket] for bucket in range(BUCKETS))


def spread_flows(steer: Steer, count: int) -> list[Instruction]:
    """Return a program that gives each flow one of the first `count` sockets of a group."""
    by_source = _hash_source()
    program = by_source
    if not steer.is_by_source:
        by_payload = _hash_payload(steer)
        # A datagram that is too short for the bytes goes by its source.
        choice = [(LOAD_LENGTH, 0, 0, 0), (JUMP_AT_LEAST, 1, 0, steer.end), (JUMP, 0, 0, len(by_payload) + 1)]
        program = [*choice, *by_payload, (JUMP, 0, 0, len(by_source)), *by_source]
    return [*program, *_to_bucket(), *_choose(fill_buckets(count), 0)]


def _hash_source() -> list[Instruction]:
    """Hash address and port of the sender into the accumulator."""
    old = [
        (LOAD_WORD, 0, 0, NETWORK + IPV4_SOURCE),
        (MULTIPLY, 0, 0, MIXER),
        (STORE, 0, 0, 0),
        (HEADER_LENGTH_TO_X, 0, 0, NETWORK),
        (LOAD_HALF_BEHIND, 0, 0, NETWORK),
    ]
    new = [(LOAD_CONSTANT, 0, 0, 0), (STORE, 0, 0, 0)]
    for word in range(4):
        new += _mixed((LOAD_WORD, 0, 0, NETWORK + IPV6_SOURCE + 4 * word))
    new += [(LOAD_HALF, 0, 0, NETWORK + IPV6_HEADER_BYTES)]
    version = [(LOAD_BYTE, 0, 0, NETWORK), (SHIFT_RIGHT, 0, 0, 4), (JUMP_EQUAL, 0, len(new) + 1, 6)]
    return [*version, *new, (JUMP, 0, 0, len(old)), *old, (X_FROM_MEMORY, 0, 0, 0), (XOR_X, 0, 0, 0)]


def _hash_payload(steer: Steer) -> list[Instruction]:
    program: list[Instruction] = [(LOAD_CONSTANT, 0, 0, 0), (STORE, 0, 0, 0)]
    at = steer.start
    while at < steer.end:
        size, load = next((n, load) for n, load in _LOADS if at + n <= steer.end)
        program += _mixed((load, 0, 0, at))
        at += size
    return program


_LOADS = ((4, LOAD_WORD), (2, LOAD_HALF), (1, LOAD_BYTE))


def _mixed(load: Instruction) -> list[Instruction]:
    """Mix what is loaded into what is in memory, and leave it in both."""
    return [load, (X_FROM_MEMORY, 0, 0, 0), (XOR_X, 0, 0, 0), (MULTIPLY, 0, 0, MIXER), (STORE, 0, 0, 0)]


def _to_bucket() -> list[Instruction]:
    return [
        (MULTIPLY, 0, 0, GOLDEN),
        (A_TO_X, 0, 0, 0),
        (SHIFT_RIGHT, 0, 0, 15),
        (XOR_X, 0, 0, 0),
        (MULTIPLY, 0, 0, MIXER),
        (SHIFT_RIGHT, 0, 0, BUCKET_SHIFT),
    ]


def _choose(owners: Sequence[int], first: int) -> list[Instruction]:
    """Return a tree of comparisons: eight steps, where a list of them would take 128 on the average."""
    if len(set(owners)) == 1:
        return [(RETURN, 0, 0, owners[0])]
    middle = len(owners) // 2
    low, high = _choose(owners[:middle], first), _choose(owners[middle:], first + middle)
    return [(JUMP_AT_LEAST, 0, 1, first + middle), (JUMP, 0, 0, len(low)), *low, *high]
