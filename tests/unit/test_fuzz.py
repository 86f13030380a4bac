"""tools/fuzz: no target finds anything in a moment, and what is planted is found, told, and found again.

Knows: `tools.fuzzing`. Does not know: the parsers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tools.fuzzing import command
from tools.fuzzing.attack import Attack, input_of
from tools.fuzzing.catalogue import build_targets
from tools.fuzzing.costs import Costs
from tools.fuzzing.mutation import MAX_BYTES, Mutator
from tools.fuzzing.target import Broken, Finding, Target

SEED = 4
NAMES = (
    *("config", "flags", "address", "duration", "size", "percent", "firewall", "arguments"),
    *("lines", "length-1", "length-2", "length-4", "length-8", "varint", "netstring", "fixed", "json-lines"),
    *("proxy", "hello", "control", "messages", "bans", "log-text", "log-json"),
)


@pytest.fixture
def targets(tmp_path: Path) -> dict[str, Target]:
    return build_targets(tmp_path)


def test_each_parser_has_a_target(targets: dict[str, Target]) -> None:
    assert (*targets,) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_target_finds_nothing_in_a_moment(name: str, targets: dict[str, Target]) -> None:
    result = Attack(targets[name], SEED).run(0.3)
    assert result.inputs
    assert not result.findings, "\n".join(map(str, result.findings))


@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_the_same_for_the_same_seed_and_bounded(name: str, targets: dict[str, Target]) -> None:
    first, again, other = ([input_of(targets[name], seed, n) for n in range(60)] for seed in (1, 1, 2))
    assert first == again != other
    assert len(set(first)) > 20
    assert max(map(len, first)) <= 70_000


# --- what is planted ---


def planted(call: Callable[[bytes], None]) -> Target:
    make = Mutator((b"hello world", b"12:34"), (b"!",)).make
    return Target("planted", "a parser with a bug", make, call, (ValueError,))


def find(call: Callable[[bytes], None], seconds: float = 5.0) -> list[Finding]:
    """Attack until there is something, or the time is over."""
    attack = Attack(planted(call), SEED)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        result = attack.run(0.1)
        if result.findings:
            return result.findings
    return []


def raise_on_mark(data: bytes) -> None:
    if b"!" in data:
        raise KeyError("it is not expected")
    if b":" in data:
        raise ValueError("refused, as it may")


def test_an_error_that_is_not_allowed_is_found_and_its_input_made_small() -> None:
    (finding,) = find(raise_on_mark)
    assert finding.problem.startswith("KeyError in test_fuzz.py:")
    assert finding.data == b"!"
    with pytest.raises(KeyError):
        raise_on_mark(input_of(planted(raise_on_mark), finding.seed, finding.number))


def break_a_rule(data: bytes) -> None:
    if len(data) > 100:
        raise Broken("more than a hundred")


def test_a_broken_rule_is_found() -> None:
    (finding,) = find(break_a_rule)
    assert finding.problem == "broken: more than a hundred"
    assert len(finding.data) == 101


def burn(data: bytes) -> None:
    end = time.process_time() + 0.08
    while b"!" in data and time.process_time() < end:
        pass


def test_an_input_that_takes_too_long_is_found() -> None:
    (finding,) = find(burn)
    assert "ms of CPU" in finding.problem
    assert b"!" in finding.data


def hoard(data: bytes) -> None:
    assert bytearray(8 << 20 if b"!" in data else 10)


def test_an_input_that_takes_too_much_memory_is_found() -> None:
    (finding,) = find(hoard)
    assert "KiB of memory" in finding.problem
    assert b"!" in finding.data


def refuse_nothing(data: bytes) -> None:
    """Take any input."""


def test_what_is_found_is_told_with_its_seed_and_ends_with_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    good = Target("good", "", Mutator((b"x",)).make, refuse_nothing)
    targets = {"good": good, "planted": planted(raise_on_mark)}
    assert command.run(targets, ["good"], 0.05, SEED) == 0
    assert "nothing found, seed 4" in capsys.readouterr().out
    assert command.run(targets, ["good", "planted"], 0.5, SEED) == 1
    told = capsys.readouterr().out
    assert "FOUND KeyError in test_fuzz.py:" in told
    assert "(seed 4, input " in told
    assert "b'!'" in told
    assert "1 findings, seed 4" in told


def test_the_targets_are_listed_and_a_wrong_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [*NAMES]
    with pytest.raises(SystemExit) as caught:
        command.main(["nobody"])
    assert caught.value.code == 2


def test_a_cost_is_too_much_beside_the_median_of_its_size_and_never_below_the_least() -> None:
    costs = Costs(0.05)
    for _ in range(20):
        costs.add(100, 0.001)
        costs.add(5000, 0.01)
    assert costs.is_excess(100, 0.11)
    assert not costs.is_excess(100, 0.09)
    assert not costs.is_excess(5000, 0.9)
    assert costs.usual(100_000) == 0.01  # of the smaller ones, as there are none so large
    cheap = Costs(0.05)
    cheap.add(1, 0.000001)
    assert not cheap.is_excess(1, 0.05)


def test_changes_of_nothing_are_inputs_too() -> None:
    make, random = Mutator((b"",)).make, Random(1)
    assert max(len(make(random)) for _ in range(2000)) <= MAX_BYTES
