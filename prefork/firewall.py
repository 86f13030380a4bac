"""Who may connect: networks allowed and denied, read from the config and from files; networks banned for a while.

A network is one number, its rank: first address (IPv4 as mapped into IPv6), prefix bits of 128, deny. So ranks
sort outer networks before inner ones, allow before deny. What is admitted is kept flat, as the addresses where
it begins and ends by turns: a lookup is a bisection however networks nest, in arrays that stay shared by forks.

Knows: addresses, prefixes, lists in files. Does not know: sockets, connections, the clock, who writes the bans.
"""

from __future__ import annotations

import os
import stat
import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from prefork.errors import ConfigError, PreforkError

MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_FILE_LINES = 1_000_000
MAX_TOLD = 20  # problems: a file of another kind would be told line by line
MAX_BANS = 4096
BAN_BYTES = 32

_FILE = "file:"
_DENY = 1
_MAPPED = 0xFFFF  # RFC 4291, 2.5.5.2: the bits before an address of IPv4, as a socket of IPv6 tells it
_MAPPED_BITS = 96
_MAPPED_BYTES = _MAPPED.to_bytes(12)
_PREFIXES = {str(bits): bits for bits in range(129)}
_BAN = struct.Struct(">16sB7xd")  # first address, prefix bits of 128, padding, until
_HALVES = struct.Struct(">QQ")


def pack_host(host: str) -> bytes | None:
    """Return the address of a peer as accept(2) tells it: "192.0.2.1", "fe80::1%eth0", "::ffff:192.0.2.1".

    Returns:
        4 bytes of IPv4, also if mapped into IPv6; 16 of IPv6, without its zone; None if it is neither.
    """
    try:
        if ":" not in host:
            return inet_pton(AF_INET, host)
        packed = inet_pton(AF_INET6, host.partition("%")[0] if "%" in host else host)
    except (OSError, ValueError):
        return None
    return packed[12:] if packed.startswith(_MAPPED_BYTES) else packed


def source_of(packed: bytes, v4_bits: int, v6_bits: int) -> bytes:
    """Return the network that counts as one source: the address with zeros after its prefix.

    Args:
        packed: as `pack_host` returns it; as many bytes are returned.
        v4_bits: 0 to 32, which is the address itself.
        v6_bits: 0 to 128; 64 leaves out the interface's own bits (RFC 4291, 2.5.4).
    """
    size, bits = (32, v4_bits) if len(packed) == 4 else (128, v6_bits)
    if bits == size:
        return packed
    if bits == 64:
        return packed[:8] + b"\0" * 8
    return (int.from_bytes(packed) >> size - bits << size - bits).to_bytes(size // 8)


def build_firewall(allow: Sequence[str], deny: Sequence[str], directories: Sequence[str] = ()) -> Firewall:
    """Read both lists.

    Args:
        allow: networks such as "10.0.0.0/8", "fd00::/8", "192.0.2.1"; or "file:PATH", a text with a network in
            each line and comments after `#`. If it names only files that list nothing, it admits nobody.
        deny: the same.
        directories: where a relative PATH is looked for, in this order; if none, in the current directory.

    Raises:
        ConfigError: networks or files cannot be read; the first 20 mistakes are told, the others counted.
    """
    reader = _Reader(directories)
    reader.read(allow, 0)
    reader.read(deny, _DENY)
    if reader.mistakes:
        untold = reader.mistakes - len(reader.problems)
        raise ConfigError(reader.problems + ([f"and {untold} more"] if untold else []))
    return Firewall(reader.ranks, is_rest_admitted=not allow)


def build_network(network: str) -> Firewall:
    """Return what admits one network alone, such as "10.0.0.0/8" or "192.0.2.1".

    Raises:
        PreforkError: it is not a network.
    """
    return Firewall([_parse(network)], is_rest_admitted=False)


_SIZES = struct.Struct("=3Q")


class Firewall:
    """Admits an address by the longest prefix that holds it; if that is allowed and denied, deny wins.

    The rest are the addresses that no network holds. A network of IPv6 holds none of IPv4, unless it is one of
    mapped addresses: then it is of IPv4 itself.
    """

    __slots__ = ("_count", "_v4", "_v6_high", "_v6_low", "is_open")

    def __init__(self, ranks: Iterable[int], is_rest_admitted: bool) -> None:
        ranks = sorted(ranks)
        # No prefix shorter than that of all IPv4 begins within IPv4: its networks are one slice.
        begin, end = (bisect_left(ranks, mapped << 41) for mapped in (_MAPPED, _MAPPED + 1))
        v4 = _turns(ranks[begin:end], _MAPPED << 32, _MAPPED + 1 << 32, is_rest_admitted)
        v6 = _turns(ranks[:begin] + ranks[end:], 0, 1 << 128, is_rest_admitted)
        # Everybody is admitted, so that nobody needs to ask.
        self.is_open = v4 == [_MAPPED << 32] and v6 == [0]
        self._count = len(ranks)
        self._v4 = array("I", [turn & 0xFFFF_FFFF for turn in v4])
        self._v6_high = array("Q", [turn >> 64 for turn in v6])
        self._v6_low = array("Q", [turn & 0xFFFF_FFFF_FFFF_FFFF for turn in v6])

    def __len__(self) -> int:
        """Return how many networks were listed."""
        return self._count

    def __eq__(self, other: object) -> bool:
        """Whether both admit the same addresses."""
        return isinstance(other, Firewall) and self.turns == other.turns

    __hash__ = None  # type: ignore[assignment]

    @property
    def turns(self) -> tuple[array[int], array[int], array[int]]:
        """The addresses from which on it is the other way round: of IPv4, and both halves of those of IPv6."""
        return self._v4, self._v6_high, self._v6_low

    def pack(self) -> bytes:
        """Return it as another process reads it."""
        return b"".join([_SIZES.pack(*map(len, self.turns)), *map(array.tobytes, self.turns)])

    @classmethod
    def unpack(cls, data: bytes) -> Firewall:
        """Return what was packed; it does not know how many networks were listed."""
        sizes = _SIZES.unpack_from(data)
        wall, at = cls((), is_rest_admitted=True), _SIZES.size
        for turns, size in zip(wall.turns, sizes, strict=True):
            del turns[:]
            turns.frombytes(data[at : at + size * turns.itemsize])
            at += size * turns.itemsize
        wall.is_open = False
        return wall

    def admits(self, packed: bytes) -> bool:
        """Return whether this address, as `pack_host` returns it, may connect."""
        if len(packed) == 4:
            return bisect_right(self._v4, int.from_bytes(packed)) & 1 == 1
        high, low = _HALVES.unpack(packed)
        highs = self._v6_high
        place = bisect_right(highs, high)
        if place and highs[place - 1] == high and self._v6_low[place - 1] > low:
            place = bisect_right(self._v6_low, low, bisect_left(highs, high, 0, place), place)
        return place & 1 == 1


class Bans:
    """Networks with an end. An end is a second of the caller's clock; none comes by itself."""

    __slots__ = ("_firewall", "_untils")

    def __init__(self, untils: dict[int, float] | None = None) -> None:
        self._untils = {} if untils is None else untils  # by rank
        self._firewall: Firewall | None = None  # built when it is asked: many changes at once cost one

    @classmethod
    def unpack(cls, data: bytes) -> Bans:
        """Return the bans that `pack` wrote, of which data holds no byte more: zeros are a ban of all IPv6.

        Raises:
            PreforkError: these are no records, such as when they were read while they were written.
        """
        if len(data) % BAN_BYTES or len(data) > MAX_BANS * BAN_BYTES:
            raise PreforkError(f"cannot read bans: {len(data)} bytes are not up to {MAX_BANS} records")
        untils = {}
        for packed, bits, until in _BAN.iter_unpack(data):
            first = int.from_bytes(packed)
            if bits > 128 or first & (1 << 128 - bits) - 1:
                raise PreforkError(f"cannot read bans: {packed.hex()}/{bits} is not a network")
            untils[first << 9 | bits << 1] = until
        return cls(untils)

    def pack(self) -> bytes:
        """Return 32 bytes for each ban: first address (IPv4 as mapped), prefix bits of 128, padding, until."""
        return b"".join(_BAN.pack((r >> 9).to_bytes(16), r >> 1 & 0xFF, t) for r, t in self._untils.items())

    def add(self, network: str, until: float) -> None:
        """Ban a network; if it is banned, change the end.

        Raises:
            PreforkError: it is not a network, or 4096 others are banned.
        """
        rank = _parse(network)
        if rank not in self._untils:
            if len(self._untils) >= MAX_BANS:
                raise PreforkError(f"cannot ban {network}: {MAX_BANS} networks are banned; lift one")
            self._firewall = None
        self._untils[rank] = until

    def remove(self, network: str) -> bool:
        """Lift the ban of exactly this network; return whether there was one.

        Raises:
            PreforkError: it is not a network.
        """
        if self._untils.pop(_parse(network), None) is None:
            return False
        self._firewall = None
        return True

    def expire(self, now: float) -> list[str]:
        """Lift the bans whose end is not after now; return their networks."""
        ended = [rank for rank, until in self._untils.items() if until <= now]
        for rank in ended:
            del self._untils[rank]
            self._firewall = None
        return [_written(rank) for rank in ended]

    def entries(self) -> list[tuple[str, float]]:
        """Return the networks, each with its prefix, and their ends, in the order in which they were added."""
        return [(_written(rank), until) for rank, until in self._untils.items()]

    def covers(self, packed: bytes) -> bool:
        """Return whether a banned network holds this address, as `pack_host` returns it."""
        if self._firewall is None:
            self._firewall = Firewall([rank | _DENY for rank in self._untils], is_rest_admitted=True)
        return not self._firewall.admits(packed)


def _turns(ranks: list[int], begin: int, end: int, is_rest_admitted: bool) -> list[int]:
    """Return where admission begins and ends by turns.

    Prefixes nest or are apart: those around the place where another begins are a stack, and end in its order.
    """
    verdict: int = is_rest_admitted
    verdicts = {begin: verdict}  # from where on; in ascending order, the last word on one place counts
    around: list[tuple[int, int]] = []  # where each ends, and the verdict that follows it
    for rank in ranks:
        first = rank >> 9
        while around and around[-1][0] <= first:
            at, verdict = around.pop()
            verdicts[at] = verdict
        around.append((first + (1 << 128 - (rank >> 1 & 0xFF)), verdict))
        verdict = verdicts[first] = ~rank & 1
    verdicts.update(reversed(around))
    turns: list[int] = []
    for at, verdict in verdicts.items():
        if verdict != len(turns) & 1 and at != end:
            turns.append(at)
    return turns


class _Reader:
    """Reads lists of networks, and counts the mistakes in them."""

    def __init__(self, directories: Sequence[str]) -> None:
        self._directories = directories or ("",)
        self.ranks: list[int] = []
        self.problems: list[str] = []  # as many as are told
        self.mistakes = 0

    def read(self, entries: Sequence[str], deny: int) -> None:
        for entry in entries:
            if entry.startswith(_FILE) and entry != _FILE:
                self._read_file(entry.removeprefix(_FILE), deny)
            else:
                self._take(entry, deny, "")

    def _read_file(self, path: str, deny: int) -> None:
        places = [os.path.join(directory, path) for directory in self._directories]
        path = next(filter(os.path.lexists, places), places[0])
        try:
            lines = _read_lines(path)
        except (OSError, ValueError) as error:
            cause = error.strerror if isinstance(error, OSError) else None
            self._note(f"cannot read {path}: {cause or error}")
            return
        for number, line in enumerate(lines, 1):
            if text := line.partition("#")[0].strip():
                self._take(text, deny, f"{path}:{number}:{line.index(text) + 1}: ")

    def _take(self, text: str, deny: int, place: str) -> None:
        try:
            self.ranks.append(_parse(text) | deny)
        except PreforkError as error:
            self._note(f"{place}{error}")

    def _note(self, problem: str) -> None:
        self.mistakes += 1
        if self.mistakes <= MAX_TOLD:
            self.problems.append(problem)


def _read_lines(path: str) -> list[str]:
    # fifo(7): opening one for reading waits for a writer, unless O_NONBLOCK is given.
    with open(path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is not a regular file")
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"it has over {MAX_FILE_BYTES >> 20} MiB")
    if data.count(b"\n", 0, -1) >= MAX_FILE_LINES:
        raise ValueError(f"it has over {MAX_FILE_LINES} lines")
    return data.decode("utf-8-sig", "surrogateescape").split("\n")


def _parse(text: str) -> int:
    host, slash, prefix = text.partition("/")
    family, lead, mapped = (AF_INET6, 0, 0) if ":" in host else (AF_INET, _MAPPED_BITS, _MAPPED << 32)
    bits = lead + _PREFIXES.get(prefix, 999) if slash else 128
    try:
        first = int.from_bytes(inet_pton(family, host)) | mapped
    except (OSError, ValueError):
        bits = 999
    if bits > 128:
        raise PreforkError(f"{text[:60]!r:.60} is not a network; write 10.0.0.0/8 or fd00::/8")
    spilt = first & (1 << 128 - bits) - 1
    rank = first - spilt << 9 | bits << 1
    if spilt:
        raise PreforkError(f"{text[:60]!r:.60} has bits set beyond its prefix; write {_written(rank)}")
    return rank


def _written(rank: int) -> str:
    packed, bits = (rank >> 9).to_bytes(16), rank >> 1 & 0xFF
    if packed.startswith(_MAPPED_BYTES):
        return f"{inet_ntop(AF_INET, packed[12:])}/{bits - _MAPPED_BITS}"
    return f"{inet_ntop(AF_INET6, packed)}/{bits}"


@dataclass(frozen=True, slots=True)
class Firewalls:
    """What a listener asks of addresses.

    Attributes:
        clients: who may connect.
        balancers: whose connections begin with a PROXY header; None: nobody's.
    """

    clients: Firewall
    balancers: Firewall | None = None


OPEN_TO_ALL = Firewalls(Firewall((), is_rest_admitted=True))
