"""Durations, sizes and percentages.

Knows: `prefork.config.units`. Does not know: YAML, keys.
"""

from __future__ import annotations

import random

import pytest

from prefork.config.units import (
    format_duration,
    format_percent,
    format_size,
    parse_duration,
    parse_percent,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30.0),
        ("5m", 300.0),
        ("2h", 7200.0),
        ("500ms", 0.5),
        ("1d", 86400.0),
        ("7", 7.0),
        ("1.5s", 1.5),
    ],
)
def test_a_duration_is_parsed_into_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "s", "-1s", "5 m", "1h30m", "1w", "0600", "1e3", "\uff15s", "5m\n", "1:30", "inf", "nan", "9" * 99],
)
def test_what_is_no_duration_is_refused_with_a_cure(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_duration(text)
    assert repr(text) in str(caught.value)
    assert "write 500ms, 30s, 5m, 2h or 1d" in str(caught.value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (60.0, "60s"),
        (300.0, "5m"),
        (0.0, "0s"),
        (0.5, "500ms"),
        (90.0, "90s"),
        (172800.0, "2d"),
        (7200.0, "2h"),
    ],
)
def test_a_duration_is_written_with_the_largest_unit_of_which_it_is_a_plural(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("64KiB", 65536),
        ("1MiB", 1 << 20),
        ("1GiB", 1 << 30),
        ("2TiB", 2 << 40),
        ("10MB", 10**7),
        ("7", 7),
        ("3B", 3),
    ],
)
def test_a_size_is_parsed_into_bytes(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "64kb", "64K", "1.5MiB", "-1", "0600", "1 KiB", "1_000", "٣", "9" * 99])
def test_what_is_no_size_is_refused_with_a_cure(text: str) -> None:
    with pytest.raises(ValueError, match="write 64KiB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(65536, "64KiB"), (1 << 20, "1MiB"), (10**7, "10MB"), (1001, "1001"), (0, "0")]
)
def test_a_size_is_written_with_the_largest_unit_of_which_it_is_a_whole_number(size_bytes: int, text: str) -> None:
    assert format_size(size_bytes) == text


@pytest.mark.parametrize(("text", "fraction"), [("10%", 0.1), ("0%", 0.0), ("12.5%", 0.125), ("100%", 1.0)])
def test_a_percentage_is_a_fraction_and_comes_back(text: str, fraction: float) -> None:
    assert parse_percent(text) == fraction
    assert format_percent(fraction) == text


@pytest.mark.parametrize("text", ["10", "%", "-1%", "10 %", "010%"])
def test_what_is_no_percentage_is_refused_with_a_cure(text: str) -> None:
    with pytest.raises(ValueError, match="such as 10%"):
        parse_percent(text)


def test_what_was_written_is_parsed_back_to_the_same_value() -> None:
    dice = random.Random(20)
    for _ in range(5000):
        milliseconds = dice.randrange(10 ** dice.randrange(1, 11))
        assert parse_duration(format_duration(milliseconds / 1000)) == milliseconds / 1000
        size_bytes = dice.randrange(10 ** dice.randrange(1, 16))
        assert parse_size(format_size(size_bytes)) == size_bytes
        fraction = dice.randrange(1001) / 1000
        assert parse_percent(format_percent(fraction)) == pytest.approx(fraction, abs=1e-12)
