"""The limits of a listener: what a stranger may use up, each with a default for the open internet.

Knows: keys, defaults, bounds. Does not know: who holds them, YAML.
"""

from __future__ import annotations

from dataclasses import dataclass

from prefork.config.key import MAX_INTEGER, Kind, setting

TRIALS = (
    *("connections", "per_ip", "per_ip_rate", "rate", "handshake", "handshakes", "idle", "message", "min_rate"),
    *("life", "buffer", "buffers", "amplification"),
)
MAX_RATE = 500_000  # of a counter of 20 bits, over two windows


@dataclass(frozen=True, slots=True)
class Limits:
    connections: int = setting(
        10_000,
        Kind.INTEGER,
        "open connections of this listener per worker; what happens to more, see when_full",
        minimum=1,
        trial=True,
    )
    when_full: str = setting(
        "wait",
        Kind.STRING,
        "beyond connections: wait in the kernel, refuse, or close the oldest idle connection",
        choices=("wait", "refuse", "oldest"),
    )
    goodbye: str | None = setting(None, Kind.STRING, "line that a plain client is told when it is refused")
    per_ip: int | None = setting(
        None,
        Kind.AUTO,
        "open connections per source over all workers; 0 = no limit; auto = 256, private networks have none",
        minimum=0,
        maximum=MAX_INTEGER,
        trial=True,
    )
    per_ip_rate: int = setting(
        0,
        Kind.INTEGER,
        "new connections per second and source; 0 = no limit",
        minimum=0,
        maximum=MAX_RATE,
        trial=True,
    )
    rate: int = setting(
        0,
        Kind.INTEGER,
        "new connections per second over all workers; 0 = no limit",
        minimum=0,
        maximum=MAX_RATE,
        trial=True,
    )
    prefix_v4: int = setting(32, Kind.INTEGER, "bits of an IPv4 address that make a source", minimum=1, maximum=32)
    prefix_v6: int = setting(
        64, Kind.INTEGER, "bits of an IPv6 address that make a source", minimum=1, maximum=128
    )
    handshake: float = setting(
        10.0,
        Kind.DURATION,
        "time for the TLS handshake, and for a PROXY header; 0 = no limit",
        minimum=0,
        trial=True,
    )
    handshakes: int = setting(
        1000,
        Kind.INTEGER,
        "TLS handshakes and PROXY headers under way at once per worker; the oldest gives way",
        minimum=1,
        trial=True,
    )
    idle: float = setting(
        300.0,
        Kind.DURATION,
        "a connection without a byte for this long is closed; 0 = never",
        minimum=0,
        trial=True,
    )
    message: float = setting(
        60.0,
        Kind.DURATION,
        "time from the first byte of a frame to its last; 0 = no limit",
        minimum=0,
        trial=True,
    )
    min_rate: int = setting(
        240,
        Kind.INTEGER,
        "bytes per second, after 5 s, that a peer must take of what waits for it, and send of a frame; 0 = none",
        minimum=0,
        trial=True,
    )
    life: float = setting(
        0.0,
        Kind.DURATION,
        "a connection of this age, or up to a tenth more, ends behind its next answer, within a tenth; 0 = never",
        minimum=0,
        trial=True,
    )
    frame: int = setting(65_536, Kind.SIZE, "largest frame", minimum=1)
    buffer: int = setting(
        1_048_576,
        Kind.SIZE,
        "most bytes that wait for a slow reader; beyond, the connection is cut",
        minimum=65_536,
        trial=True,
    )
    buffers: int = setting(
        268_435_456,
        Kind.SIZE,
        "most bytes that wait for all slow readers of a worker; beyond, the slowest are cut",
        minimum=65_536,
        trial=True,
    )
    lag: float = setting(
        0.25,
        Kind.DURATION,
        "a worker with a longer turn of its loop gets no new connections; 0 = never",
        minimum=0,
    )
    amplification: int = setting(
        3,
        Kind.INTEGER,
        "answers to a datagram are at most so many times its size with headers, until reply.trust(); 0 = no limit",
        minimum=0,
        trial=True,
    )
    dry_run: tuple[str, ...] = setting(
        (),
        Kind.STRINGS,
        "limits that only count what they would refuse; {value: 256, dry_run: true} says the same",
        pattern=f"^({'|'.join(TRIALS)})$",
        form=f"one of {', '.join(TRIALS)}",
    )
