"""The words around a run of the benchmark: options, outcomes, status documents, the machine."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest

from tools.benchmark.catalogue import MEASUREMENTS, Options, bursts, handshake, tls, workers
from tools.benchmark.certificate import Certificate
from tools.benchmark.command import duration, measurement_names, parser, positive, worker_counts
from tools.benchmark.figures import TIMES
from tools.benchmark.load import GENERATORS, Outcome, parse_outcome
from tools.benchmark.machine import machine_line, parse_cpu_model
from tools.benchmark.measurement import RESUMED
from tools.benchmark.server import ECHO, ECHO_UDP, Prefork, Running, found, prefork_conf
from tools.benchmark.workshop import HERE, Program, last_line

STATUS = {
    "pid": 10,
    "workers": [
        {"pid": 12, "slot": 0, "state": "ready"},
        {"pid": 13, "slot": 1, "state": "draining"},
        {"pid": 14, "slot": 1, "state": "ready"},
    ],
    "listeners": [{"name": "bench", "bind": "tcp://127.0.0.1:43211"}],
}


def test_without_options_everything_is_measured() -> None:
    asked = parser().parse_args([])
    assert asked.only == ["echo", "connect", "memory", "lines", "workers", "tls", "handshake", "udp", "bursts"]
    assert asked.workers == [1, 2, 4, 8, 16]


def test_lists_are_given_with_commas() -> None:
    assert measurement_names("echo, lines") == ["echo", "lines"]
    assert worker_counts("1,16") == [1, 16]


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (measurement_names, "speed"),
        (measurement_names, ""),
        (worker_counts, "1,x"),
        (worker_counts, "0"),
        (worker_counts, ""),
        (positive, "0"),
        (positive, "-1"),
        (positive, "1.5"),
        (duration, "0"),
        (duration, "nan"),
        (duration, "1e9"),
        (duration, "long"),
    ],
)
def test_a_value_that_makes_no_sense_is_wrong_usage(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        parse(text)


def test_a_row_of_every_measurement_is_compared_with_rows_of_the_same_table() -> None:
    for create in MEASUREMENTS.values():
        table = create(Options(rounds=1, seconds=1.0, workers=[2, 4])).table()
        names = [row.name for row in table.rows]
        assert len(set(names)) == len(names)
        assert {peer for row in table.rows for peer in row.against.values()} <= set(names)


def test_workers_are_compared_with_the_fewest_of_the_same_server() -> None:
    table = workers(Options(rounds=1, seconds=1.0, workers=[4, 2])).table()
    assert table.ratios == [f"{TIMES} 2 workers"]
    four = table.row("C epoll, 4 workers")
    assert four is not None
    assert list(four.against.values()) == ["C epoll, 2 workers"]


def test_a_resumed_handshake_is_compared_with_the_full_one_of_the_same_server() -> None:
    table = handshake(Options(rounds=1, seconds=1.0, workers=[1])).table()
    full, resumed = table.row("prefork callback, full"), table.row("prefork callback, resumed")
    assert full is not None
    assert resumed is not None
    assert list(full.against.values()) == ["uvloop protocol, full"]
    assert list(resumed.against.values()) == ["uvloop protocol, resumed", "prefork callback, full"]


def test_only_handshakes_show_how_many_were_resumed() -> None:
    tables = {name: create(Options(1, 1.0, [1])).table() for name, create in MEASUREMENTS.items()}
    assert [name for name, table in tables.items() if RESUMED in table.figures] == ["handshake"]


def test_answers_of_one_size_are_compared_with_those_of_the_same_size() -> None:
    table = tls(Options(rounds=1, seconds=1.0, workers=[1])).table()
    assert len(table.rows) == 8
    assert all(
        peer.rpartition(", ")[2] == row.name.rpartition(", ")[2]
        for row in table.rows
        for peer in row.against.values()
    )


def test_a_burst_costs_by_the_datagram() -> None:
    measurement = bursts(Options(rounds=1, seconds=1.0, workers=[1]))
    assert next(iter(measurement.figures)) == "µs per datagram"


def test_a_line_of_the_load_is_an_outcome() -> None:
    assert parse_outcome("138436 2 1.000323 7\n") == Outcome(138_436, 2, 1.000323, 7)


@pytest.mark.parametrize("program", [ECHO, ECHO_UDP, *GENERATORS.values()], ids=lambda program: program.name)
def test_the_sources_of_every_program_are_there(program: Program) -> None:
    assert [source for source in program.sources if not (HERE / source).exists()] == []


def test_only_ready_workers_serve_and_all_others_stand_beside() -> None:
    assert found(STATUS, [10, 11, 12, 13, 14]) == Running(43211, [12, 14], [10, 11, 13])


def test_the_configuration_names_what_is_measured() -> None:
    lines = prefork_conf(Prefork("x", "prefork.apps.echo:echo", "lines", 4), Path("/run/a b.sock")).splitlines()
    assert lines[0] == "workers: 4"
    assert "    framing: lines" in lines
    assert 'control: "/run/a b.sock"' in lines


def test_a_listener_with_tls_is_given_the_certificate() -> None:
    certificate = Certificate(Path("/run/a b/cert.pem"), Path("/run/a b/key.pem"))
    server = Prefork("x", "prefork.apps.echo:Echo", transport="tls")
    lines = prefork_conf(server, Path("/run/x.sock"), certificate).splitlines()
    assert "    bind: tls://127.0.0.1:0" in lines
    assert '    tls: {cert: "/run/a b/cert.pem", key: "/run/a b/key.pem"}' in lines


def test_a_listener_for_datagrams_has_neither_framing_nor_tls() -> None:
    conf = prefork_conf(Prefork("x", "prefork.apps.echo:datagram", transport="udp"), Path("/run/x.sock"))
    assert "    bind: udp://127.0.0.1:0" in conf.splitlines()
    assert "framing" not in conf
    assert "tls" not in conf


def test_the_model_of_the_cpu_is_told_or_its_architecture() -> None:
    assert parse_cpu_model("processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\n") == "Some CPU @ 3 GHz"
    assert parse_cpu_model("processor : 0\n")


def test_versions_in_the_machine_line_have_their_names() -> None:
    assert machine_line({"cpu": "Some CPU", "uvloop": "0.22"}) == "Some CPU · uvloop 0.22"


def test_the_last_words_of_a_server_are_its_last_line_that_is_not_empty() -> None:
    assert last_line("Traceback\n  x\nOSError: no\n\n") == "OSError: no"
    assert last_line("") == "no message"
