"""An app's own metrics: what can be declared and counted, and what is said of what cannot."""

from __future__ import annotations

from typing import Any

import pytest

from prefork.errors import LocalProtocolError
from prefork.metrics import Counter, Registry


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.mark.parametrize(
    ("name", "kind", "cure"),
    [
        ("jobs done_total", "counter", "write letters, digits and _"),
        ("prefork_jobs_total", "counter", "begin the server's own names"),
        ("process_jobs_total", "counter", "begin the server's own names"),
        ("jobs", "counter", "names of counters, and no others, end with _total"),
        ("jobs_total", "gauge", "names of counters, and no others, end with _total"),
    ],
)
def test_a_name_that_cannot_be_is_refused_with_the_reason(
    registry: Registry, name: str, kind: str, cure: str
) -> None:
    with pytest.raises(LocalProtocolError, match=cure):
        registry.declare(name, kind, "", 1)
    assert registry.declared == []


@pytest.mark.parametrize("twin", ["h", "h_count", "h_sum", "h_bucket"])
def test_no_two_metrics_have_a_series_of_one_name(registry: Registry, twin: str) -> None:
    registry.declare("h", "histogram", "", 3, (1.0,))
    with pytest.raises(LocalProtocolError, match="declared already"):
        registry.declare(twin, "gauge", "", 1)


def test_a_histogram_whose_series_are_taken_is_refused(registry: Registry) -> None:
    registry.declare("h_sum", "gauge", "", 1)
    with pytest.raises(LocalProtocolError, match=r"h_sum, which has .* is declared already"):
        registry.declare("h", "histogram", "", 3, (1.0,))


def test_a_metric_that_is_declared_when_the_worker_serves_is_refused(registry: Registry) -> None:
    registry.is_closed = True
    with pytest.raises(LocalProtocolError, match="declare it at import"):
        registry.declare("late_total", "counter", "", 1)


@pytest.mark.parametrize(("number", "kind"), [(-5, ValueError), (-0.5, ValueError), (2.5, TypeError)])
def test_a_counter_counts_whole_numbers_upwards_and_names_itself(
    registry: Registry, number: Any, kind: type[Exception]
) -> None:
    counter = Counter(registry, registry.declare("jobs_total", "counter", "", 1), "jobs_total")
    counter.inc()
    counter.inc(41)
    with pytest.raises(kind, match=f"cannot count {number} in jobs_total"):
        counter.inc(number)
    assert registry.cells[0] == 42
