"""The text that Prometheus scrapes: names, labels and values, in the format 0.0.4 of its exposition.

Knows: what the numbers of a census are called. Does not know: where they come from, HTTP.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from prefork.config.limits import TRIALS
from prefork.net.loop import TURN_BOUNDS
from prefork.process.tolls import START_BOUNDS
from prefork.scoreboard import (
    DURATION,
    DURATION_BOUNDS,
    ENDS,
    FRAME_BOUNDS,
    FRAMES,
    HANDSHAKE,
    HANDSHAKE_BOUNDS,
    REJECTED,
    TRIED,
    Count,
    End,
    Rule,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FREQUENT = frozenset({End.DONE, End.ERROR, End.CUT, End.BROKEN, End.IDLE})  # told before they have happened
PLAIN = {
    "connections_accepted_total": (Count.ACCEPTED, "Connections that were accepted."),
    "connections_turned_away_total": (Count.REFUSED, "Connections told to go: no descriptor was left."),
    "received_bytes_total": (Count.RECEIVED_BYTES, "Bytes from clients."),
    "sent_bytes_total": (Count.SENT_BYTES, "Bytes to clients that the kernel has taken."),
    "frames_skipped_total": (Count.SKIPPED, "Frames over the limit or not good that were passed over."),
    "datagrams_received_total": (Count.DATAGRAMS, "Datagrams that were read."),
    "datagrams_unsent_total": (Count.UNSENT, "Datagrams that could not be sent."),
}

REASONS = tuple((f'reason="{end.word}"', int(ENDS + end), end in FREQUENT) for end in End)
RULES = tuple(
    (f'rule="{rule.key}",dry_run="{"true" if is_dry else "false"}"', int((TRIED if is_dry else REJECTED) + rule))
    for rule in Rule
    for is_dry in ((False, True) if rule.key in TRIALS else (False,))
)
LABELS = 4096  # that are kept as they are written
Cells = Sequence[int]  # of a listener in a slot, as `Count` has them


class Page:
    """Lines of metrics, each family under its help and type."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def family(self, name: str, kind: str, text: str, samples: Iterable[tuple[str, float]]) -> None:
        """Add a family.

        Args:
            samples: labels as they are written within braces, empty for none, and the value.
        """
        self._lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        for labels, value in samples:
            number = value if value.__class__ is int else f"{value:.17g}"
            self._lines.append(f"{name}{{{labels}}} {number}" if labels else f"{name} {number}")

    def histograms(self, name: str, text: str, bounds: Sequence[float], rows: Iterable[Any]) -> None:
        """Add a family of histograms.

        Args:
            rows: labels, a count for each bound and one for the rest, the sum in seconds.
        """
        self._lines += [f"# HELP {name} {text}", f"# TYPE {name} histogram"]
        for labels, counts, seconds in rows:
            total, comma = 0, "," if labels else ""
            for bound, count in zip([*map(repr, bounds), "+Inf"], counts, strict=True):
                total += count
                self._lines.append(f'{name}_bucket{{{labels}{comma}le="{bound}"}} {total}')
            braces = f"{{{labels}}}" if labels else ""
            self._lines += [f"{name}_sum{braces} {seconds:.9g}", f"{name}_count{braces} {total}"]

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"


@lru_cache(maxsize=LABELS)
def label(name: str, value: object) -> str:
    """Return a label, its value escaped."""
    text = str(value).replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
    return f'{name}="{text}"'


def expose(census: Mapping[str, Any]) -> str:
    """Return the metrics of a census."""
    page = Page()
    _add_listeners(page, census)
    _add_slots(page, census)
    _add_server(page, census)
    _add_yields(page, census["yields"])
    return page.text()


def _where(row: Sequence[Any]) -> str:
    return _place(row[0], row[1])


@lru_cache(maxsize=LABELS)
def _place(listener: str, slot: int) -> str:
    return f"{label('listener', listener)},{label('slot', slot)}"


def _add_listeners(page: Page, census: Mapping[str, Any]) -> None:
    rows = census["listeners"]
    page.family("prefork_connections", "gauge", "Open connections.", [(_where(r), r[2][Count.OPEN]) for r in rows])
    for name, (count, text) in PLAIN.items():
        page.family(f"prefork_{name}", "counter", text, [(_where(row), row[2][count]) for row in rows])
    page.family("prefork_connections_closed_total", "counter", "Connections that ended, by reason.", _ends(rows))
    page.family(
        "prefork_connections_rejected_total",
        "counter",
        "What ran against a rule of limits, by rule.",
        _rejections(rows),
    )
    page.family("prefork_tls_handshakes_total", "counter", "TLS handshakes, by result.", _handshakes(rows))
    for name, text, first, bounds in (
        ("connection_duration_seconds", "Age of connections at their end.", DURATION, DURATION_BOUNDS),
        ("frame_seconds", "From a frame's coming until its handler waits for the next.", FRAMES, FRAME_BOUNDS),
        ("tls_handshake_seconds", "Time of TLS handshakes.", HANDSHAKE, HANDSHAKE_BOUNDS),
    ):
        size = len(bounds) + 1
        page.histograms(
            f"prefork_{name}",
            text,
            bounds,
            [(_where(r), r[2][first : first + size], r[2][first + size] / 1e9) for r in rows],
        )
    queues = census["queues"].items()
    page.family(
        "prefork_accept_queue_length",
        "gauge",
        "Connections that wait to be accepted.",
        [(label("listener", name), length) for name, length in queues],
    )


def _ends(rows: Iterable[Any]) -> Iterable[tuple[str, float]]:
    for row in rows:
        where, cells = _where(row), row[2]
        for named, cell, is_frequent in REASONS:
            if is_frequent or cells[cell]:
                yield f"{where},{named}", cells[cell]


def _rejections(rows: Iterable[Any]) -> Iterable[tuple[str, float]]:
    for row in rows:
        where, cells = _where(row), row[2]
        for named, cell in RULES:
            yield f"{where},{named}", cells[cell]


def _handshakes(rows: Iterable[Any]) -> Iterable[tuple[str, float]]:
    for row in rows:
        resumed = row[2][Count.RESUMED]
        full = max(0, row[2][Count.HANDSHAKES] - resumed)
        results = {"full": full, "resumed": resumed, "failed": row[2][Count.UNSECURED]}
        yield from ((f"{_where(row)},{label('result', result)}", number) for result, number in results.items())


def _add_slots(page: Page, census: Mapping[str, Any]) -> None:
    slots = census["slots"]

    def of(name: str) -> list[tuple[str, float]]:
        return [(label("slot", row["slot"]), row[name]) for row in slots]

    page.family("prefork_loop_utilization_ratio", "gauge", "Share of the last second at work.", of("load"))
    page.family("prefork_loop_longest_turn_seconds", "gauge", "Longest turn in the last second.", of("lag"))
    page.family("process_resident_memory_bytes", "gauge", "Resident memory, of all workers of a slot.", of("rss"))
    cpu = [(label("slot", row["slot"]), row["cpu"] / 1e9) for row in slots]
    page.family("process_cpu_seconds_total", "counter", "CPU time of all workers of a slot, ever.", cpu)
    for name, text in (
        ("process_open_fds", "Open descriptors."),
        ("process_pss_bytes", "Memory, what is shared counted in parts."),
    ):
        page.family(name, "gauge", text, [(label("slot", row["slot"]), row[name]) for row in slots if name in row])
    page.histograms(
        "prefork_loop_turn_seconds",
        "Time between two looks at the descriptors.",
        TURN_BOUNDS,
        [(label("slot", row["slot"]), row["turns"], row["busy"] / 1e9) for row in slots],
    )


def _add_yields(page: Page, yields: Iterable[Mapping[str, Any]]) -> None:
    """Add the app's own metrics."""
    for metric in yields:
        text = metric["text"].replace("\\", "\\\\").replace("\n", "\\n")
        rows = [(label("slot", slot), numbers) for slot, numbers in metric["rows"]]
        if metric["kind"] == "histogram":
            parts = [(where, list(map(int, numbers[:-1])), numbers[-1]) for where, numbers in rows]
            page.histograms(metric["name"], text, metric["bounds"], parts)
        else:
            page.family(metric["name"], metric["kind"], text, [(where, numbers[0]) for where, numbers in rows])


def _add_server(page: Page, census: Mapping[str, Any]) -> None:
    def by(name: str, numbers: Mapping[str, int]) -> list[tuple[str, float]]:
        return [(label(name, key), number) for key, number in numbers.items()]

    exits = [(f"{label('how', how)},{label('code', code)}", number) for how, code, number in census["exits"]]
    ends = [
        (f"{label('listener', one['listener'])},{label('subject', one['subject'])}", one["ends_at"])
        for one in census["certificates"]
        if one["ends_at"] is not None
    ]
    page.family("prefork_workers", "gauge", "Workers, by state.", by("state", census["states"]))
    held = [(label("slot", slot), 1) for slot in census["held"]["slots"]]
    held += [(label("listener", name), 1) for name in census["held"]["listeners"]]
    page.family("prefork_drained", "gauge", "What an operator lets accept nobody new.", held)
    page.family("prefork_workers_wanted", "gauge", "How many there are to be.", [("", census["target"])])
    page.family(
        "prefork_generation", "gauge", "Number of the generation that serves.", [("", census["generation"])]
    )
    page.family(
        "prefork_worker_spawns_total", "counter", "Workers that were spawned.", by("reason", census["spawns"])
    )
    page.family("prefork_worker_exits_total", "counter", "Workers that ended, by exit code or signal.", exits)
    page.family(
        "prefork_config_reload_success",
        "gauge",
        "1 if the last reload was committed, or there was none.",
        [("", int(census["is_reload_good"]))],
    )
    page.family(
        "prefork_listen_overflows_total",
        "counter",
        "Full accept queues, of all listening sockets of this network.",
        [("", census["overflows"])],
    )
    page.family(
        "prefork_datagrams_dropped_total",
        "counter",
        "Datagrams that a socket had no room for.",
        [("", census["dropped"])],
    )
    page.family("prefork_tls_certificate_expiry_timestamp_seconds", "gauge", "When a certificate ends.", ends)
    page.histograms(
        "prefork_worker_start_seconds",
        "From the order to the first ready word.",
        START_BOUNDS,
        [("", census["starts"], census["start_seconds"])],
    )
