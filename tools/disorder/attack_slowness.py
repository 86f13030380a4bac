"""Attacks by slowness: frames that never end, answers that are hardly read, TLS handshakes that stick.

Knows: which clock of `limits` has to end which of them, and when.
Does not know: how the attackers do it.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping

from tools.disorder import apps
from tools.disorder.attack_ground import (
    Bounds,
    Ground,
    Raiding,
    counters,
    listener,
    rss_kib,
    settings,
    worker_pids,
)
from tools.disorder.attack_plan import Manner, Raid, Report
from tools.disorder.certificate import FILES, certify
from tools.disorder.plan import Kind, Plan
from tools.disorder.queues import unsent_at
from tools.disorder.scene import Scene
from tools.disorder.server import Server
from tools.disorder.tally import percentile

_SOURCES = 500
_HEADER = b"GET / HTTP/1.1 " + b"x" * 2000
_BODY = (2000).to_bytes(4) + b"x" * 2000
_MESSAGE_SHORT, _MESSAGE = 3.0, 10.0  # limits.message of a request/answer protocol
_HANDSHAKE_SHORT, _HANDSHAKE = 3.0, 10.0
_OPEN_SECONDS_SHORT, _OPEN_SECONDS = 1.0, 5.0
_LATE = 1.0
_GRACE = 8.0  # after which attackers that should be gone are counted as left
_RATE_SECONDS = 15.0  # in which min_rate must have ended a reader
_GIVEN_BYTES = 65_536  # that a reader's connection may cost beside limits.buffer
_BUFFER = 1 << 20
_FILL_SECONDS = 3.0  # until all readers have what the kernel has room for

LARGE = (
    apps.ECHO
    + '''

PIECE = bytes(65536)


async def large(conn):
    """Answer each request with 8 MiB."""
    async for _ in conn:
        for _ in range(128):
            await conn.send(PIECE)
'''
)


def header(scene: Scene) -> None:
    """A line that never ends."""
    _slowloris(scene, "lines", _HEADER, begin=4)


def body(scene: Scene) -> None:
    """A frame whose length is told, and whose bytes do not come."""
    _slowloris(scene, "length", _BODY, begin=4)


def _slowloris(scene: Scene, framing: str, text: bytes, begin: int) -> None:
    ground = Ground(scene)
    message = _MESSAGE_SHORT if scene.short else _MESSAGE
    limits = {"message": f"{message:g}s", "per_ip": 256}
    server = ground.server(settings(listener("echo", "echo", framing=framing, limits=limits)))
    good = Plan(server.port(), Kind.LONG, 10, think=0.002, framing=framing, max_bytes=512)
    calm = ground.calm({"good": good}, scene.duration(2, 8))
    number = scene.times(1000, 10_000)
    spread = _OPEN_SECONDS_SHORT if scene.short else _OPEN_SECONDS
    raid = Raid(
        server.port(),
        Manner.HOLD,
        number,
        rate=number / spread,
        sources=_SOURCES,
        texts=(text.hex(),),
        begin=begin,
        every=1.0 if scene.short else 5.0,
    )
    most = [0]

    def attack() -> Report:
        raiding = ground.raid(raid)
        raiding.wait_for(lambda report: _all_came(report, number), within=spread + 5)
        most.append(server.status().connections)
        raiding.wait_for(lambda report: report.counts["ended"] >= number, within=spread + message + _GRACE)
        return raiding.finish()

    attacked, report = ground.beside({"good": good}, attack)
    scene.note(f"{max(most)} connections at once; the attackers: {dict(report.counts)}")
    ground.compare(calm, attacked, Bounds(ratio=2, percent=75))
    expect_ended(scene, report, number, message + _LATE)
    scene.outcome.expect_equal("counted", counters(server)["rejected"].get("message", 0), number)
    scene.leave(server)


def _all_came(report: Report, number: int) -> bool:
    counts = report.counts
    return counts["connected"] + counts["refused"] + counts["local"] >= number


def expect_ended(scene: Scene, report: Report, number: int, within: float) -> None:
    """Check that the server has ended all attackers, and how soon after their first byte, or coming."""
    lives = sorted(report.lives)
    scene.note(
        f"kept for {percentile(lives, 0):.0f} … {percentile(lives, 0.5):.0f} … {percentile(lives, 1):.0f} ms"
    )
    scene.outcome.expect_equal("ended", len(lives), number)
    scene.outcome.expect_at_most("the last of them after", percentile(lives, 1) / 1000, within, "s")


def slow_read(scene: Scene) -> None:
    """Readers of 10 B/s of a large answer."""
    ground = Ground(scene)
    rows = listener("echo", "echo"), listener("large", "large", limits={"buffer": _BUFFER, "per_ip": 256})
    server = ground.server(settings(*rows, module=LARGE))
    good = {"good": Plan(server.port(), Kind.LONG, 10, think=0.002, max_bytes=512)}
    calm = ground.calm(good, scene.duration(2, 8))
    number = scene.times(50, 200)
    pids = worker_pids(server)
    before = rss_kib(pids)
    raid = Raid(
        server.port("large"),
        Manner.SIP,
        number,
        rate=number,
        sources=_SOURCES,
        texts=(b"give".hex(),),
        receive_buffer=4096,
    )

    def attack() -> tuple[Report, int]:
        raiding = ground.raid(raid)
        raiding.wait_for(lambda report: _all_came(report, number), within=10)
        time.sleep(_FILL_SECONDS)
        unsent = unsent_at(raid.port)
        scene.note(f"in the kernel, per reader: {sum(unsent) / number / 1024:.0f} KiB that it has not taken")
        grown = _most_grown(raiding, pids, number, before)
        return raiding.finish(), grown

    attacked, (report, grown) = ground.beside(good, attack)
    ground.compare(calm, attacked, Bounds())
    scene.note(f"the attackers: {dict(report.counts)}")
    expect_ended(scene, report, number, _RATE_SECONDS)
    scene.outcome.expect_equal("counted", counters(server)["rejected"].get("min_rate", 0), number)
    limit = (_GIVEN_BYTES + _BUFFER) / 1024
    scene.outcome.expect_at_most("RSS per connection", max(0.0, grown / number), limit, "KiB")
    scene.leave(server)


def _most_grown(raiding: Raiding, pids: list[int], number: int, before: int) -> int:
    """Wait until all are ended; return the growth of the RSS at its most, in KiB."""
    grown, deadline = 0, time.monotonic() + 2 * _RATE_SECONDS
    while time.monotonic() < deadline and raiding.look().counts["ended"] < number:
        grown = max(grown, rss_kib(pids) - before)
        time.sleep(0.2)
    return grown


def stuck_handshakes(scene: Scene) -> None:
    """Half a ClientHello, or nothing, and then silence."""
    ground = Ground(scene)
    authority = str(certify(scene.directory))
    timeout = _HANDSHAKE_SHORT if scene.short else _HANDSHAKE
    pair: Mapping[str, str] = dict(zip(("cert", "key"), FILES, strict=True))
    row = listener("echo", "echo", "tls", tls=pair, limits={"handshake": f"{timeout:g}s"})
    server = ground.server(settings(row))
    good = {"good": Plan(server.port(), Kind.CYCLE, 8, think=0.05, authority=authority, resume=0.0, timeout=20)}
    calm = ground.calm(good, scene.duration(3, 8))
    number = 1000
    halves = (half_a_hello().hex(), "")
    raid = Raid(server.port(), Manner.HOLD, number, rate=number, sources=_SOURCES, texts=halves)

    def attack() -> Report:
        raiding = ground.raid(raid)
        _wait_connections(server, number, within=5)
        raiding.wait_for(lambda report: report.counts["ended"] >= number, within=timeout + _GRACE)
        return raiding.finish()

    attacked, report = ground.beside(good, attack)
    ground.compare(calm, attacked, Bounds(ratio=2))
    scene.note(f"the attackers: {dict(report.counts)}")
    expect_ended(scene, report, number, timeout)
    found = counters(server)
    scene.outcome.expect_equal("counted", found["rejected"].get("handshake", 0), number)
    scene.note(f"unsecured {found['unsecured']}, timed out {found['timed_out']}")
    scene.leave(server)


def _wait_connections(server: Server, number: int, within: float) -> None:
    server.wait_for(lambda status: status.connections >= number, within)


def half_a_hello() -> bytes:
    """Return the first half of what a TLS client says."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        pass  # it has said its hello
    hello = outgoing.read()
    return hello[: len(hello) // 2]
