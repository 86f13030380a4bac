"""Frames of `prefork top` in all sizes, and texts of a hostile server, without a terminal."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest

from prefork.glyphs import cut, number, pad, printable, show_bytes, show_count, show_share, show_span, width_of
from prefork.overview import Sample, measure
from prefork.screen import CONNECTION_COLUMNS, WORKER_COLUMNS, Look, Picture, layout
from tests.unit.top_samples import status, worker

SIZES = [(1, 1), (20, 5), (80, 24), (300, 100), (3, 50), (500, 2), (80, 3), (10, 7)]
EVIL = (
    "\x1b[2J\x1b]0;owned\x07\r\n\t\x9b31m\u202eabc\u2028\u200b\ud800\x00日本語" + "a\u0301" * 5 + "Z\u0336" * 300
)


def lay(now: dict[str, Any] | None, width: int = 120, height: int = 24, **more: Any) -> list[str]:
    return [line.text for line in layout(Picture(now, WORKER_COLUMNS[0], **more), width, height)]


def squeeze(text: str) -> str:
    return " ".join(text.split())


# --- text ---


@pytest.mark.parametrize("text", [EVIL, "\x1b", "\u009b0m", "\u2066x", "\ufeff", "\ue000"])
def test_a_printable_text_has_nothing_that_a_terminal_obeys(text: str) -> None:
    assert printable(text).isprintable()
    printable(text).encode()


def test_no_text_is_wider_than_its_column() -> None:
    dice = random.Random(1)
    letters = "ab日🙂e\u0301\u0336…ﾊﾝ"
    for _ in range(3000):
        text = "".join(dice.choice(letters) for _ in range(dice.randrange(40)))
        width = dice.randrange(20)
        short = cut(text, width)
        assert width_of(short) <= width
        assert len(short) <= 4 * width + 1
        assert width_of(pad(text, width)) == width
        assert short == text or short in ("", "…") or (short[-1] == "…" and text.startswith(short[:-1]))


def test_a_wide_letter_that_fits_by_half_is_left_out() -> None:
    assert cut("日本語", 6) == "日本語"
    assert cut("日本語", 5) == "日本…"
    assert cut("日本語", 4) == "日…"
    assert pad("日本語", 4, is_right=True) == " 日…"


@pytest.mark.parametrize(
    ("show", "values", "wanted"),
    [
        (show_count, (0, 0.5, 9.96, 17, 999.4, 1200, 12_345, 10**9), "0 0.5 10 17 999 1.2k 12k 1G"),
        (show_bytes, (0, 999, 1000, 1500, 23 << 20, 5 << 40), "0 999 1.0k 1.5k 23M 5T"),
        (show_share, (0, 0.254, 1, 2.5), "0% 25% 100% 250%"),
        (show_span, (0, 0.0004, 0.0123, 0.9999, 1, 59.94, 59.96), "0ms 0.4ms 12ms 1.0s 1.0s 59.9s 1m00s"),
        (show_span, (307, 3599.4, 8040, 86_399, 86_400, 788_400), "5m07s 59m59s 2h14m 23h59m 1d00h 9d03h"),
    ],
)
def test_numbers_are_written_short(show: Callable[[object], str], values: tuple[float, ...], wanted: str) -> None:
    assert " ".join(map(show, values)) == wanted


@pytest.mark.parametrize("value", [None, "7", True, [], {}, float("nan"), float("inf"), 10**400, -(10**19)])
def test_what_is_no_measurement_is_shown_as_a_dash(value: object) -> None:
    assert number(value) is None
    assert {show(value) for show in (show_count, show_bytes, show_share, show_span)} == {"-"}


# --- frames ---


def test_a_frame_has_the_server_its_workers_its_listeners_and_what_happened() -> None:
    before, after = status(), status(counters={"accepted": 120, "closed": 86}, rejected={"per_ip": 13, "ban": 0})
    after["workers"] = [worker(0, accepted=60), worker(1, state="starting")]
    after["listeners"] = [{**before["listeners"][0], "accepted": 120, "sent_bytes": 6096}]
    events = [{"ts": "2026-11-22T20:00:01.5Z", "level": "error", "msg": "worker 1 died"}]
    shown = lay(measure(Sample(before, 1.0), Sample(after, 3.0)), events=events, foot=["keys"])
    assert len(shown) == 24
    assert shown[0] == "pid 99, generation 3, 1 of 2 workers, running, up 2h00m, ready"
    assert shown[1].startswith(
        "per second: accepts 10, closes 0, in -, out -, datagrams -, errors -, rejected 5 (per_ip 13)"
    )
    assert squeeze(shown[2]) == "SLOT PID GEN STATE CONNS ACC/S BUSY TURN RSS UPTIME"
    assert squeeze(shown[3]) == "0 100 1 ready 7 5 25% 12ms 23M 1m01s"
    assert squeeze(shown[4]) == "1 101 1 starting 7 0 25% 12ms 23M 1m01s"
    assert squeeze(shown[6]) == "echo 14 10 0 2k tcp://127.0.0.1:9000"
    assert shown[7:9] == ["reload committed: workers 1→2", "20:00:01 error worker 1 died"]
    assert shown[-1] == "keys"


def test_a_server_that_is_not_ready_says_why_and_is_marked() -> None:
    (line, *_) = layout(Picture(status(ready=False, why=["slot 1 has no worker", "x"]), WORKER_COLUMNS[0]), 200)
    assert line.text.endswith("not ready: slot 1 has no worker; x")
    assert line.look is Look.BAD


@pytest.mark.parametrize(
    "value", [{}, {"workers": [{}], "listeners": [{}]}, {"workers": 7, "why": 5, "ready": False}]
)
def test_a_status_of_another_version_is_shown_as_far_as_it_goes(value: dict[str, Any]) -> None:
    shown = lay(measure(Sample(value, 1.0), Sample(value, 2.0)), foot=["keys"])
    assert shown[0].startswith("pid None")
    assert "no reload yet" in shown
    assert shown[-1] == "keys"


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("is_evil", [False, True])
def test_a_frame_keeps_within_its_terminal(width: int, height: int, is_evil: bool) -> None:
    text: Any = EVIL if is_evil else "word"
    many = [worker(slot, state=text, pid=text) for slot in range(40)]
    now = status(
        workers=many,
        state=text,
        why=[text],
        ready=False,
        rejected={text: 1},
        last_reload={"verdict": text, "reason": text},
    )
    now["listeners"] = [{"name": text, "bind": text}] * 9
    rows = [{column.key: text for column in CONNECTION_COLUMNS}] * 40
    for connections in (None, rows, []):
        picture = Picture(
            measure(None, Sample(now, 0.0)),
            CONNECTION_COLUMNS[1],
            [{"ts": text, "level": text, "msg": text}] * 90,
            connections,
            [text, "keys"],
        )
        lines = layout(picture, width, height)
        assert 0 < len(lines) <= height
        for line in lines:
            assert line.text.isprintable()
            assert width_of(line.text) <= width
            assert not {unicodedata.category(c) for c in line.text} & {"Cc", "Cf", "Cs"}
    if height > 4:
        assert len(lines) == height


def test_every_event_and_listener_finds_room_on_a_large_terminal_and_workers_go_last_on_a_small_one() -> None:
    events = [{"ts": "", "level": "info", "msg": f"number {n}"} for n in range(200)]
    now = measure(None, Sample(status(), 0.0))
    large = lay(now, 300, 100, events=events, foot=["keys"])
    assert "number 199" in large[-2]
    assert sum("number" in text for text in large) == 100 - 2 - 3 - 2 - 1 - 1
    small = lay(now, 20, 5, events=events, foot=["keys"])
    assert small[2].startswith("SLOT")
    assert small[3].split()[:2] == ["0", "100"]


def test_rows_that_find_no_room_are_counted() -> None:
    now = measure(None, Sample(status(workers=[worker(slot) for slot in range(50)]), 0.0))
    shown = lay(now, 80, 20, foot=["keys"])
    (more,) = [text for text in shown if text.startswith("…")]
    rows = [text for text in shown if "ready" in text and "1m01s" in text]
    assert more == f"… {50 - len(rows)} more"


def test_before_the_first_answer_the_frame_says_so() -> None:
    assert lay(None, 80, 4, foot=["keys"]) == ["asking the server …", "", "", "keys"]
