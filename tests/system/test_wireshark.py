"""Captures are read by Wireshark without a complaint, and it gives back the bytes and the comments."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from prefork.pcapng import Close, Datagrams, Stream, header

pytestmark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")

SECOND = 1_000_000_000
AT = 1_795_380_035 * SECOND + 123_456_789
CHECKED = [f"-o{layer}.check_checksum:TRUE" for layer in ("ip", "tcp", "udp")]
ENDS: list[tuple[Any, Any]] = [
    (("192.0.2.7", 50_000), ("192.0.2.1", 9000)),
    (("2001:db8::7", 50_001, 0, 0), ("2001:db8::1", 9000, 0, 0)),
    (None, "/run/echo.sock"),
]
NAMES = ["IPv4", "IPv6", "unix"]


def tshark(path: Path, *options: str) -> str:
    """Return what it prints; what it says of a user who is root is not about the file."""
    done = subprocess.run(
        ["tshark", "-n", *CHECKED, "-r", str(path), *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "HOME": str(path.parent), "LC_ALL": "C.UTF-8"},
    )
    lines = [line for line in done.stderr.splitlines() if not line.startswith("Running as user")]
    assert (done.returncode, lines) == (0, [])
    return done.stdout


def fields(path: Path, *names: str) -> list[list[str]]:
    told = tshark(path, "-T", "fields", *(f"-e{name}" for name in names))
    return [line.split("\t") for line in told.splitlines()]


def write(folder: Path, *parts: bytes) -> Path:
    path = folder / "x.pcapng"
    path.write_bytes(header("0.1.0", ["echo", "other"]) + b"".join(parts))
    return path


def converse(peer: Any, local: Any, seed: int) -> tuple[bytes, list[tuple[bool, bytes]]]:
    """Return a connection, and what was said on it."""
    dice = random.Random(seed)
    said = [(dice.random() < 0.5, dice.randbytes(dice.choice([1, 2, 99, 1024, 150_000]))) for _ in range(40)]
    flow = Stream(seed & 1, peer, local, f"slot {seed}; echo-{seed}", seed)
    parts = [flow.opened(AT)]
    for place, (is_received, data) in enumerate(said, start=1):
        parts.append((flow.received if is_received else flow.sent)(AT + place, data))
    how = Close.RESET_BY_PEER if seed == 2 else Close.FINISHED
    return b"".join([*parts, flow.closed(AT + SECOND, "broken", how)]), said


def followed(path: Path, number: int) -> list[tuple[bool, bytes]]:
    """Return what Wireshark says was said; it indents what the second side said."""
    told = tshark(path, "-q", "-z", f"follow,tcp,raw,{number}")
    rows = re.findall(r"^(\t?)([0-9a-f]+)$", told, re.MULTILINE)
    return [(not tab, bytes.fromhex(text)) for tab, text in rows]


def both_sides(said: list[tuple[bool, bytes]]) -> tuple[bytes, bytes]:
    received, sent = (b"".join(data for is_in, data in said if is_in is side) for side in (True, False))
    return received, sent


@pytest.mark.parametrize("seed", range(3), ids=NAMES)
def test_a_connection_is_followed_byte_by_byte_and_nothing_is_wrong(tmp_path: Path, seed: int) -> None:
    written, said = converse(*ENDS[seed], seed)
    path = write(tmp_path, written)
    assert both_sides(followed(path, 0)) == both_sides(said)
    assert "Malformed" not in tshark(path)
    names = ("ip.checksum.status", "tcp.checksum.status", "_ws.expert.severity", "tcp.analysis.flags")
    rows = fields(path, *names)
    assert {(row[0], row[1]) for row in rows} <= {("1", "1"), ("", "1")}  # 1: good
    severities = {int(one) for row in rows for one in row[2].split(",") if one}
    assert max(severities) <= (0x0060_0000 if seed == 2 else 0x0040_0000)  # a note; of a reset a warning
    assert {row[3] for row in rows} == {""}


def test_comments_interfaces_directions_and_times_are_seen(tmp_path: Path) -> None:
    path = write(tmp_path, converse(*ENDS[1], 1)[0])
    rows = fields(
        path, "frame.comment", "frame.interface_name", "frame.packet_flags_direction", "frame.time_epoch"
    )
    assert rows[0] == ["slot 1; echo-1", "other", "0x00000001", "1795380035.123456789"]
    assert [row[0] for row in rows[1:] if row[0]] == ["broken"]
    assert {row[2] for row in rows} == {"0x00000001", "0x00000002"}
    assert "/run/echo.sock" in fields(write(tmp_path, converse(*ENDS[2], 2)[0]), "frame.comment")[0][0]


def test_connections_that_take_turns_and_that_follow_one_another_are_kept_apart(tmp_path: Path) -> None:
    said: list[tuple[bool, bytes]] = [(True, b"question"), (False, b"answer")]
    flows = [Stream(0, ("192.0.2.7", 50_000 + n % 2), ("192.0.2.1", 9000), "slot 1", n) for n in range(4)]
    parts = []
    for at_ns, pair in ((AT, flows[:2]), (AT + SECOND, flows[2:])):
        parts += [flow.opened(at_ns) for flow in pair]
        parts += [flow.received(at_ns, said[0][1]) + flow.sent(at_ns, said[1][1]) for flow in pair]
        parts += [flow.closed(at_ns, "done") for flow in pair]
    path = write(tmp_path, *parts)
    assert sorted({row[0] for row in fields(path, "tcp.stream")}) == ["0", "1", "2", "3"]
    for number in range(4):
        assert both_sides(followed(path, number)) == both_sides(said)


@pytest.mark.parametrize("ends", [(ENDS[0][0], ENDS[0][1]), (ENDS[1][0], ENDS[1][1])], ids=NAMES[:2])
def test_datagrams_are_seen_with_good_checksums(tmp_path: Path, ends: tuple[Any, Any]) -> None:
    flow = Datagrams(0, *ends, "slot 1", 3)
    texts = [random.Random(size).randbytes(size) for size in (1, 2, 1000, 65_507)]
    path = write(tmp_path, *(flow.datagram(AT, text, bool(n & 1)) for n, text in enumerate(texts)))
    rows = fields(path, "udp.checksum.status", "udp.payload", "frame.comment")
    assert [row[0] for row in rows] == ["1"] * 4
    assert [bytes.fromhex(row[1].replace(":", "")) for row in rows] == texts
    assert [row[2] for row in rows] == ["slot 1", "", "", ""]
