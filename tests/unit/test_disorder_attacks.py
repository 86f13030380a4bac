"""The parts of tools/chaos attack that need no server: raids, reports, frames, what is thrown at framings."""

from __future__ import annotations

import ipaddress
import random

import pytest

from prefork.errors import RemoteProtocolError
from prefork.framing import Framing, JsonLines, Length, Lines, Netstring, Over, Varint
from tools.disorder import attack_noise, attack_slowness, queues
from tools.disorder.attack_ground import Figures, listener, settings
from tools.disorder.attack_plan import Manner, Raid, Report
from tools.disorder.catalogue import GROUPS, SCENARIOS
from tools.disorder.command import main
from tools.disorder.outcome import Outcome
from tools.disorder.payloads import framed
from tools.disorder.tally import Ending, Tally

REFUSED: dict[str, Framing] = {
    "lines": Lines(1000),
    "lines-skip": Lines(1000, over=Over.SKIP),
    "length": Length(1000),
    "length-skip": Length(1000, Over.SKIP),
    "varint": Varint(1000),
    "netstring": Netstring(1000),
    "json-lines": JsonLines(1000),
}


TCP_TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:2329 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 7315 1
   1: 0100007F:2329 0100017F:9C41 01 002A0000:00000000 01:00000014 00000000     0        0 7316 2
   2: 0100017F:9C41 0100007F:2329 01 00000007:00000900 00:00000000 00000000     0        0 7317 2
"""


def refusals(framing: Framing, text: bytes) -> int:
    """Return how many things a framing refuses in a text."""
    decoder = framing.decoder()
    try:
        frames = decoder.feed(text)
    except RemoteProtocolError:
        return 1
    return sum(type(frame) is not bytes for frame in frames) + (decoder.refusal is not None)


def test_a_raid_survives_its_journey_as_json() -> None:
    raid = Raid(4001, Manner.SIP, 50, rate=12.5, texts=("00ff", ""))
    assert Raid.from_json(raid.to_json()) == raid


def test_a_report_survives_its_journey_as_json() -> None:
    report = Report(lives=[1.5, 2.5])
    report.counts.update({"connected": 2, "ended": 2})
    assert Report.from_json(report.to_json()) == report


def test_each_source_of_a_raid_is_an_address_of_its_own_within_127() -> None:
    raid = Raid(4001, Manner.HOLD, sources=5000, net=9)
    sources = {ipaddress.ip_address(raid.source(index)) for index in range(10_000)}
    assert len(sources) == 5000
    assert all(source in ipaddress.ip_network("127.9.0.0/16") for source in sources)


def test_a_good_clients_payload_is_one_frame() -> None:
    payload = b"a\nb\r\n"
    assert framed(payload, "raw") == payload
    assert Lines().decoder().feed(framed(payload, "lines")) == [b"a.b.."]
    assert Length().decoder().feed(framed(payload, "length")) == [payload]


def test_half_a_hello_begins_a_handshake_and_is_not_whole() -> None:
    half = attack_slowness.half_a_hello()
    content, size = half[0], int.from_bytes(half[3:5])
    assert content == 22  # a handshake, RFC 8446 section 5.1
    assert 5 < len(half) < 5 + size


@pytest.mark.parametrize("name", [name for name, _ in attack_noise.FRAMINGS if name in REFUSED])
def test_each_spoilt_text_holds_exactly_one_thing_to_refuse(name: str) -> None:
    texts = list(attack_noise.spoilt(name, random.Random(1)))
    assert texts
    assert [refusals(REFUSED[name], text) for text in texts] == [1] * len(texts)


def test_the_config_of_an_attack_has_listeners_with_limits_of_their_own() -> None:
    rows = listener("a", "echo", limits={"per_ip": 1}), listener("b", "echo", "tls", tls={})
    assert settings(*rows).extra["listeners"] == [
        {"name": "a", "bind": "tcp://127.0.0.1:0", "app": "chaos_app:echo", "limits": {"per_ip": 1}},
        {"name": "b", "bind": "tls://127.0.0.1:0", "app": "chaos_app:echo", "tls": {}},
    ]


def test_the_figures_of_a_good_client_are_of_its_answers() -> None:
    tally = Tally(latencies=[1000, 2000, 3000, 9000])
    tally.counts.update({Ending.OK: 4, Ending.EOF: 1})
    assert Figures.of(tally, 2.0) == Figures(p50=2.0, p99=9.0, rate=2.0, failed=1)


def test_ratios_and_shares_of_a_cpu_are_what_a_busy_machine_can_spoil() -> None:
    outcome = Outcome("x", "y")
    outcome.expect_at_most("p99", 1.5, 2, "x")
    outcome.expect_at_least("rate", 80, 75, "%")
    assert outcome.passed
    assert [check.timing for check in outcome.checks] == [True, True]


def test_a_group_names_scenarios_and_the_help_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(GROUPS["attack"]) < set(SCENARIOS)
    with pytest.raises(SystemExit):
        main(["--help"])
    told = capsys.readouterr().out
    assert "groups: attack" in told
    assert all(name in told for name in SCENARIOS)


def test_the_kernels_table_tells_what_the_peers_of_a_port_have_not_taken() -> None:
    assert queues.parse_unsent(TCP_TABLE, 0x2329) == [0x2A0000]
    assert queues.parse_unsent(TCP_TABLE, 9002) == []
