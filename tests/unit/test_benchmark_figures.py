"""The figures of the benchmark: medians, ratios within a round, and the tables that show them."""

from __future__ import annotations

import json

import pytest

from tools.benchmark.figures import TIMES, Row, Sample, Table, markdown, median, plain, ratio

COST = "µs per request"
AGAINST = f"{TIMES} b"


def row(name: str, *costs: float) -> Row:
    samples = [Sample(number, {COST: cost, "requests/s": 1e6 / cost}) for number, cost in enumerate(costs)]
    return Row(name, {AGAINST: "b"}, samples)


def table(*rows: Row) -> Table:
    return Table("echo", "Echo", {COST: 2, "requests/s": 0}, [AGAINST], rows)


def test_the_median_is_over_the_rounds() -> None:
    assert median(row("a", 3.0, 1.0, 2.0), COST) == 2.0


def test_a_row_without_samples_has_no_median() -> None:
    assert median(Row("a"), COST) is None


def test_a_figure_that_only_some_servers_have_is_left_out_for_the_others() -> None:
    assert median(row("a", 1.0), "master + mold µs") is None


def test_a_ratio_compares_within_each_round() -> None:
    # The quotient of the medians would be 10 / 10; in every round but one a needs half as much as b.
    a, b = row("a", 5.0, 10.0, 100.0), row("b", 10.0, 20.0, 10.0)
    assert ratio(a, b, COST) == 0.5


def test_a_round_that_only_one_of_two_has_finished_does_not_count() -> None:
    assert ratio(row("a", 1.0, 9.0), row("b", 2.0), COST) == 0.5


@pytest.mark.parametrize("other", [None, Row("b"), row("c")])
def test_there_is_no_ratio_to_a_server_without_figures(other: Row | None) -> None:
    assert ratio(row("a", 1.0), other, COST) is None


def test_the_table_is_aligned_markdown() -> None:
    assert markdown(table(row("a", 5.0), row("b", 10.0))).splitlines() == [
        f"| server | µs per request |  {TIMES} b | requests/s |",
        "|--------|---------------:|-----:|-----------:|",
        "| a      |           5.00 | 0.50 |    200,000 |",
        "| b      |          10.00 | 1.00 |    100,000 |",
    ]


def test_why_a_row_is_empty_stands_below_the_table() -> None:
    absent = Row("b", absence="uvloop is not installed")
    broken = Row("c", absence="did not start", is_failed=True)
    lines = markdown(table(row("a", 5.0), absent, broken)).splitlines()
    assert [line.split("|")[2].strip() for line in lines[2:5]] == ["5.00", "skipped", "failed"]
    assert lines[5:] == ["", "- b: skipped, uvloop is not installed", "- c: failed, did not start"]


def test_the_plain_form_holds_every_sample_and_is_json() -> None:
    document = json.loads(json.dumps(plain(table(row("a", 5.0, 7.0), row("b", 10.0, 10.0)))))
    first = document["rows"][0]
    assert [sample[COST] for sample in first["samples"]] == [5.0, 7.0]
    assert first["medians"][COST] == 6.0
    assert first["ratios"] == {AGAINST: pytest.approx(0.6)}
