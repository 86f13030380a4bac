"""Attacks by bytes without a meaning: random datagrams, garbage and oversized frames to every framing.

Knows: what each framing must refuse, and where the server counts it.
Does not know: how datagrams are read, or frames are cut.
"""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tools.disorder import apps
from tools.disorder.attack_ground import Bounds, Ground, counters, listener, rss_kib, settings, worker_pids
from tools.disorder.attack_plan import Manner, Raid, Report
from tools.disorder.plan import Kind, Plan
from tools.disorder.queues import waiting_at
from tools.disorder.scene import Scene
from tools.disorder.server import Server, Settings

_SOURCES = 64
_MAX_FRAME = 1000
_RSS_SLACK_KIB = 1024  # per worker: arenas, and what the interpreter learns on the way
_SECONDS = 5.0  # that a refusal may take

DATAGRAMS = '''\
def echo(data, peer, reply):
    """Send back what comes."""
    reply(data)


async def streams(conn):
    """Send back what comes."""
    async for data in conn:
        await conn.send(data)
'''


def random_datagrams(scene: Scene) -> None:
    """A flood of random datagrams to an echo."""
    ground = Ground(scene)
    flood = listener("flood", "echo", "udp", socket={"receive_buffer": "4MiB"})
    server = ground.server(settings(flood, listener("echo", "streams"), module=DATAGRAMS))
    good = {"good": Plan(server.port(), Kind.LONG, 10, think=0.002, max_bytes=512)}
    calm = ground.calm(good, scene.duration(2, 8))
    number = scene.times(50_000, 1_000_000)
    pids = worker_pids(server)
    port = server.port("flood")
    raid = Raid(port, Manner.DATAGRAM, number, sources=_SOURCES, limit=200)

    def attack() -> Report:
        raiding = ground.raid(raid)
        raiding.wait_report()
        return raiding.finish()

    attacked, report = ground.beside(good, attack)
    ground.compare(calm, attacked, Bounds())
    _wait_read(port)
    counts, found = report.counts, counters(server)
    scene.note(f"the attackers: {dict(counts)}; read {found['datagrams']}, dropped {found['dropped']}")
    drops = sum(queue.drops for queue in waiting_at(port))
    scene.outcome.expect_equal("counters.dropped, and the kernel's", found["dropped"], drops)
    scene.note(f"unsent {found['unsent']}, rejected {found['rejected']}")
    scene.outcome.expect_equal("workers", sorted(worker_pids(server)), sorted(pids))
    scene.outcome.expect_equal("read and dropped", found["datagrams"] + found["dropped"], counts["sent"])
    scene.outcome.expect_at_most("answers that are no question's echo", counts["unasked"], 0)
    scene.outcome.expect_at_most("answers", counts["answered"], found["datagrams"])
    times = counts["received"] / max(1, counts["sent_bytes"])
    scene.outcome.expect_at_most("answered bytes per byte", times, 1)
    scene.outcome.expect_at_most("errors of the app", found["errors"], 0)
    scene.leave(server)


def _wait_read(port: int) -> None:
    """Wait until the server has read all that waits for it, and has told of it."""
    deadline = time.monotonic() + 10
    while any(queue.waiting_bytes for queue in waiting_at(port)) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)


# --- garbage ---

FRAMINGS: tuple[tuple[str, Any], ...] = (
    ("raw", "raw"),
    ("lines", {"lines": {"max": _MAX_FRAME}}),
    ("lines-skip", {"lines": {"max": _MAX_FRAME, "over": "skip"}}),
    ("length", {"length": {"max": _MAX_FRAME}}),
    ("length-skip", {"length": {"max": _MAX_FRAME, "over": "skip"}}),
    ("varint", {"varint": {"max": _MAX_FRAME}}),
    ("netstring", {"netstring": {"max": _MAX_FRAME}}),
    ("fixed", {"fixed": {"size": 100}}),
    ("json-lines", {"json-lines": {"max": _MAX_FRAME}}),
)


def spoilt(framing: str, chance: random.Random) -> Iterator[bytes]:
    """Yield texts in which a framing has to refuse exactly one thing each, if that is how it is made."""
    long = bytes(chance.choices(range(32, 127), k=_MAX_FRAME + 1))
    match framing:
        case "lines" | "lines-skip":
            yield long + b"\n"
            yield bytes(_MAX_FRAME * 3) + b"\n"
        case "length":
            yield b"\xff\xff\xff\xff"
            yield (_MAX_FRAME + 1).to_bytes(4) + long
        case "length-skip":
            yield (_MAX_FRAME + 1).to_bytes(4) + long
            yield (5 * _MAX_FRAME).to_bytes(4) + long[:1000] * 5
        case "varint":
            yield b"\xff" * 10
            yield b"\xe9\x07" + long
        case "netstring":
            yield b"x5:hello,"
            yield b"9999999999:"
            yield b"5:hello;"
        case "json-lines":
            yield b'{"a": ' + b"[" * 900 + b"\n"
            yield b"\xff\xfe not json\n"
            yield b'{"a": 1e999999, nan}\n'
            yield long + b"\n"


def garbage(scene: Scene) -> None:
    """Bytes without a meaning, frames over the limit, and ends in the middle."""
    ground = Ground(scene)
    server = ground.server(_all_framings())
    good = {"good": Plan(server.port("raw"), Kind.LONG, 10, think=0.002, max_bytes=512)}
    calm = ground.calm(good, scene.duration(2, 8))
    pids = worker_pids(server)
    _throw(server, 3, seed=0)  # so that all code has run once
    before = rss_kib(pids)

    def attack() -> list[str]:
        return _throw(server, scene.times(50, 1000), seed=1)

    attacked, complaints = ground.beside(good, attack)
    ground.compare(calm, attacked, Bounds())
    scene.outcome.expect_nothing("refusals that were not counted once", complaints)
    grown = (rss_kib(pids) - before) / len(pids)
    scene.outcome.expect_at_most("growth of a worker's RSS", grown, _RSS_SLACK_KIB, "KiB")
    scene.outcome.expect_equal("workers", sorted(worker_pids(server)), sorted(pids))
    found = counters(server)
    scene.note(f"broken {found['broken']}, skipped {found['skipped']}, errors {found['errors']}")
    scene.outcome.expect_at_most("errors of the app", found["errors"], 0)
    scene.leave(server)


def _all_framings() -> Settings:
    rows = [listener(name, "echo", framing=framing) for name, framing in FRAMINGS]
    return replace(settings(*rows, module=apps.ECHO), workers=4)


def _throw(server: Server, rounds: int, seed: int) -> list[str]:
    """Send all kinds of garbage to each framing; return where the counters tell another number of refusals."""
    chance, complaints = random.Random(seed), []
    ports = server.status().ports
    for framing, _ in FRAMINGS:
        before, wanted = _refusals(server), 0
        for _ in range(rounds):
            texts = list(spoilt(framing, chance))
            wanted += len(texts)
            for text in texts:
                _send(ports[framing], text)
        found = _wait_refusals(server, before + wanted) - before
        if found != wanted:
            complaints.append(f"{framing}: {found} counted of {wanted}")
        _send_chaff(ports[framing], rounds, chance)
    return complaints


def _refusals(server: Server) -> int:
    found = counters(server)
    return int(found["broken"] + found["skipped"])


def _wait_refusals(server: Server, wanted: int) -> int:
    deadline = time.monotonic() + _SECONDS
    while (found := _refusals(server)) < wanted and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def _send_chaff(port: int, rounds: int, chance: random.Random) -> None:
    """Send random bytes, of which nobody knows how many frames they are."""
    for _ in range(rounds):
        _send(port, chance.randbytes(chance.choice((1, 3, 10, 100, 5000, 70_000))))


def _send(port: int, text: bytes) -> None:
    """Send, then read until the server ends the connection, or has nothing more to say after our end."""
    with socket.create_connection(("127.0.0.1", port), timeout=_SECONDS) as sock:
        try:
            sock.sendall(text)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65_536):
                pass
        except OSError:
            pass  # it was ended with a reset, as it may be
