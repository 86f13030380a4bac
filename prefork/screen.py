"""One frame of `prefork top`: what is known, laid out as lines for so many columns and rows.

Pure: the same picture gives the same lines. Every text of the server is made printable and cut here.

Knows: tables, what is left out when room is short. Does not know: terminals, keys, where a picture comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from prefork.glyphs import cut, number, pad, printable, show_bytes, show_count, show_share, show_span, width_of

Row = Mapping[str, Any]

RISING, FALLING, UNSORTED = 1, -1, 0
MAX_COLUMN = 40
TITLE_AND_MORE = 4  # rows of a table from which on it says how many are not shown
ROOM_FOR_RELOAD = 7
ALL_ROWS = 100_000


class Look(Enum):
    """How a line is drawn."""

    PLAIN = "plain"
    STRONG = "strong"
    TITLE = "title"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the screen."""

    text: str
    look: Look = Look.PLAIN


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    title: str
    key: str
    show: Callable[[Any], str] = printable
    order: int = UNSORTED  # in which it is sorted, if it can be
    is_right: bool = True


WORKER_COLUMNS = (
    Column("SLOT", "slot", order=RISING),
    Column("PID", "pid"),
    Column("GEN", "generation"),
    Column("STATE", "state", is_right=False),
    Column("CONNS", "connections", show_count, FALLING),
    Column("ACC/S", "accepts", show_count, FALLING),
    Column("BUSY", "busy", show_share, FALLING),
    Column("TURN", "lag", show_span, FALLING),
    Column("RSS", "rss", show_bytes, FALLING),
    Column("UPTIME", "uptime", show_span, FALLING),
)
LISTENER_COLUMNS = (
    Column("LISTENER", "name", is_right=False),
    Column("CONNS", "connections", show_count),
    Column("ACC/S", "accepts", show_count),
    Column("IN/S", "receives", show_bytes),
    Column("OUT/S", "sends", show_bytes),
    Column("ADDRESS", "bind", is_right=False),
)
CONNECTION_COLUMNS = (
    Column("ID", "id"),
    Column("LISTENER", "listener", order=RISING, is_right=False),
    Column("SLOT", "slot", order=RISING),
    Column("PEER", "peer", order=RISING, is_right=False),
    Column("AGE", "age", show_span, FALLING),
    Column("IDLE", "idle", show_span, FALLING),
    Column("IN", "received", show_bytes, FALLING),
    Column("OUT", "sent", show_bytes, FALLING),
    Column("WAITING", "waiting", show_bytes, FALLING),
)
TOTALS = (
    ("accepts", "accepted", show_count),
    ("closes", "closed", show_count),
    ("in", "received_bytes", show_bytes),
    ("out", "sent_bytes", show_bytes),
    ("datagrams", "datagrams", show_count),
    ("errors", "errors", show_count),
    ("rejected", "rejected", show_count),
)


@dataclass(frozen=True, slots=True)
class Picture:
    """What is to be seen.

    Attributes:
        status: the server's, with `rates` and the rates of its rows; None: it has not answered yet.
        connections: None: the workers are shown.
        sort: a column of the table that is shown.
        foot: lines for the bottom of the screen, the most important first.
    """

    status: Row | None
    sort: Column
    events: Sequence[Row] = ()
    connections: Sequence[Row] | None = None
    foot: Sequence[str] = ()


def rows_of(value: object) -> list[Row]:
    """Return the mappings of a list; whatever else it is, or has, is left out."""
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def layout(picture: Picture, width: int, height: int = ALL_ROWS) -> list[Line]:
    """Return a frame: at most `height` lines, none wider than `width`."""
    foot = [Line(printable(text)) for text in picture.foot[: max(0, (height - 2) // 2)]]
    if picture.status is None:
        head, body = [Line("asking the server …", Look.STRONG)], []
    else:
        head = [_describe_server(picture.status), Line(_describe_rates(picture.status))][: max(1, height - 1)]
        room = height - len(head) - len(foot)
        if picture.connections is None:
            body = _lay_all(picture, room)
        else:
            body = _lay_table(CONNECTION_COLUMNS, arrange(picture.connections, picture.sort), room)
    lines = head + body
    if foot:
        lines += [Line("")] * (height - len(lines) - len(foot))
    return [_fit(line, width) for line in (lines + foot)[:height]]


def _fit(line: Line, width: int) -> Line:
    is_title = line.look is Look.TITLE
    return Line(pad(line.text, width) if is_title else cut(line.text, width), line.look)


# --- head ---


def _describe_server(status: Row) -> Line:
    ready = sum(row.get("state") == "ready" for row in rows_of(status.get("workers")))
    words = [
        f"pid {status.get('pid')}",
        f"generation {status.get('generation')}",
        f"{ready} of {status.get('target')} workers",
        f"{status.get('state')}",
    ]
    if "uptime" in status:
        words.append(f"up {show_span(status['uptime'])}")
    is_bad = status.get("ready") is False
    if is_bad:
        why = status.get("why")
        words.append("not ready: " + "; ".join(map(str, why if isinstance(why, list) else [why])))
    elif status.get("ready"):
        words.append("ready")
    held = status.get("held") or {}
    words += [f"slot {slot} drained" for slot in held.get("slots", ())]
    words += [f"listener {name} drained" for name in held.get("listeners", ())]
    return Line(printable(", ".join(words)), Look.BAD if is_bad else Look.STRONG)


def _describe_rates(status: Row) -> str:
    rates = status.get("rates", {})
    words = "per second: " + ", ".join(f"{name} {show(rates.get(key))}" for name, key, show in TOTALS)
    rules = status.get("rejected")
    if not isinstance(rules, dict):
        return words
    broken = sorted(((count, rule) for rule, value in rules.items() if (count := number(value))), reverse=True)
    named = ", ".join(f"{printable(rule)} {show_count(count)}" for count, rule in broken)
    return f"{words} ({named})" if named else words


# --- body ---


def _lay_all(picture: Picture, room: int) -> list[Line]:
    """Lay out workers, listeners, the last reload, events; when room is short, the later goes first."""
    status = picture.status or {}
    workers, listeners = rows_of(status.get("workers")), rows_of(status.get("listeners"))
    reload = [_describe_reload(status.get("last_reload"))] if room >= ROOM_FOR_RELOAD else []
    left = room - len(reload)
    for_workers = min(len(workers) + 1, left - min(len(listeners) + 1, left // 3))
    for_listeners = left - for_workers
    lines = _lay_table(WORKER_COLUMNS, arrange(workers, picture.sort), for_workers)
    lines += _lay_table(LISTENER_COLUMNS, listeners, for_listeners) if for_listeners > 1 else []
    lines += reload
    events = picture.events[-(room - len(lines)) :] if room > len(lines) else ()
    return lines + [_describe_event(event) for event in events]


def arrange(rows: Sequence[Row], column: Column) -> list[Row]:
    """Sort rows by a column; those that have nothing there come last, and equal ones stay as they are."""

    def rank(row: Row) -> tuple[int, float, str]:
        value = row.get(column.key)
        amount = number(value)
        if amount is not None:
            return 0, amount * column.order, ""
        return (2, 0.0, "") if value is None else (1, 0.0, printable(value))

    return sorted(rows, key=rank)


def _lay_table(columns: Sequence[Column], rows: Sequence[Row], room: int) -> list[Line]:
    """Lay out a title and as many rows as find room; where it can be, the last line counts the others."""
    shown = rows[: max(0, room - 1)]
    if len(shown) < len(rows) and room >= TITLE_AND_MORE:
        shown = shown[:-1]
    table = [[printable(column.show(row.get(column.key))) for column in columns] for row in shown]
    named = [[column.title for column in columns], *table]
    widths = [min(MAX_COLUMN, max(width_of(cells[place]) for cells in named)) for place in range(len(columns))]
    texts = [
        "  ".join(pad(c, w, column.is_right) for c, w, column in zip(cells, widths, columns, strict=True))
        for cells in named
    ]
    lines = [Line(text, Look.PLAIN if place else Look.TITLE) for place, text in enumerate(texts)]
    if len(shown) < len(rows):
        lines.append(Line(f"… {len(rows) - len(shown)} more"))
    return lines[: max(0, room)]


def _describe_reload(last: object) -> Line:
    if not isinstance(last, dict) or not last.get("verdict"):
        return Line("no reload yet")
    return Line(describe_verdict(last), Look.PLAIN if last["verdict"] == "committed" else Look.BAD)


def describe_verdict(verdict: Row) -> str:
    """Return how a reload ended, and why or with which changes."""
    changes = verdict.get("changes")
    changed = "; ".join(map(str, changes)) if isinstance(changes, list) else ""
    what = verdict.get("reason") or changed or "the config has not changed"
    return printable(f"reload {verdict.get('verdict')}: {what}")


def _describe_event(event: Row) -> Line:
    level, at = printable(event.get("level")), printable(event.get("ts"))
    clock = at[11:19] if len(at) > 19 else at  # of RFC 3339: the day is today's
    is_bad = level in ("error", "critical")
    return Line(f"{clock} {level} {printable(event.get('msg'))}", Look.BAD if is_bad else Look.PLAIN)
