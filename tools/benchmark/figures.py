"""Samples, medians, ratios, and the tables that show them.

Knows: arithmetic and Markdown.
Does not know: what was measured, or how.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

NOTHING = "-"
TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement of one server in one round.

    Attributes:
        round: counted from 0.
        costs: figures by the heading of their column; the first is the one that ratios are made of.
    """

    round: int
    costs: Mapping[str, float]


@dataclass(slots=True)
class Row:
    """One server in one table.

    Attributes:
        against: for each ratio, by its heading, the name of the row to compare with.
        absence: why there are no figures, when there are none.
        is_failed: whether the server was there and did not do what it should.
    """

    name: str
    against: Mapping[str, str] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    absence: str | None = None
    is_failed: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of one measurement.

    Attributes:
        figures: headings of the columns with medians, and how many decimals each shows.
        ratios: headings of the columns with ratios, to be found in `Row.against`.
    """

    name: str
    title: str
    figures: Mapping[str, int]
    ratios: Sequence[str]
    rows: Sequence[Row]

    def row(self, name: str) -> Row | None:
        return next((row for row in self.rows if row.name == name), None)


def median(row: Row, figure: str) -> float | None:
    """Return the median of a figure over the rounds."""
    values = [sample.costs[figure] for sample in row.samples if figure in sample.costs]
    return statistics.median(values) if values else None


def ratio(row: Row, other: Row | None, figure: str) -> float | None:
    """Return the median of the quotients of two rows, each taken within one round."""
    if other is None:
        return None
    divisors = {sample.round: sample.costs[figure] for sample in other.samples}
    quotients = [
        sample.costs[figure] / divisors[sample.round]
        for sample in row.samples
        if divisors.get(sample.round, 0.0) > 0.0
    ]
    return statistics.median(quotients) if quotients else None


def ratios(table: Table, row: Row) -> dict[str, float | None]:
    """Return the ratios of a row by their headings."""
    figure = next(iter(table.figures))
    peers = {heading: row.against.get(heading) for heading in table.ratios}
    return {
        heading: ratio(row, table.row(name), figure) if name is not None else None
        for heading, name in peers.items()
    }


def _number(value: float | None, decimals: int) -> str:
    return NOTHING if value is None else f"{value:,.{decimals}f}"


def _outcome(row: Row) -> str | None:
    if row.absence is None:
        return None
    return "failed" if row.is_failed else "skipped"


def _cells(table: Table, row: Row) -> list[str]:
    first, *others = table.figures.items()
    compared = ratios(table, row)
    cells = [row.name, _outcome(row) or _number(median(row, first[0]), first[1])]
    cells += [_number(compared[heading], 2) for heading in table.ratios]
    return cells + [_number(median(row, heading), decimals) for heading, decimals in others]


def headings(table: Table) -> list[str]:
    """Return the headings in the order in which a table shows them: the cost, its ratios, the rest."""
    first, *others = table.figures
    return ["server", first, *table.ratios, *others]


def markdown(table: Table) -> str:
    """Return the table as aligned Markdown, without its title, and below it why figures are absent."""
    lines = [headings(table), *(_cells(table, row) for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])])
    shown = ["| " + " | ".join(_aligned(line, widths)) + " |" for line in lines]
    reasons = [f"- {row.name}: {_outcome(row)}, {row.absence}" for row in table.rows if row.absence]
    notes = ["", *reasons] if reasons else []
    return "\n".join([shown[0], f"|{rule}|", *shown[1:], *notes])


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    rest = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
    return [cells[0].ljust(widths[0]), *rest]


def plain(table: Table) -> dict[str, Any]:
    """Return all that is known of a table, as JSON can hold it."""
    rows = [
        {
            "server": row.name,
            "absence": row.absence,
            "failed": row.is_failed,
            "medians": {figure: median(row, figure) for figure in table.figures},
            "ratios": ratios(table, row),
            "samples": [{"round": sample.round, **sample.costs} for sample in row.samples],
        }
        for row in table.rows
    ]
    return {"name": table.name, "title": table.title, "cost": next(iter(table.figures)), "rows": rows}
