"""`prefork top` without a terminal: differences of two looks, sorting, keys, answers."""

from __future__ import annotations

from typing import Any

import pytest

from prefork.client import UsageError
from prefork.overview import Overview, Sample, Stage, measure
from prefork.screen import CONNECTION_COLUMNS, WORKER_COLUMNS, Line, arrange, layout
from prefork.top import parse_interval
from tests.unit.top_samples import status, worker


def told(overview: Overview, now: float = 0.0) -> str:
    return overview.picture(now).foot[0]


def asked(overview: Overview) -> list[tuple[str, dict[str, Any]]]:
    return [(question.command, dict(question.arguments)) for question in overview.take_questions()]


# --- sorting and differences ---


@pytest.mark.parametrize(
    ("key", "wanted"),
    [("slot", [0, 1, 2, 3]), ("connections", [1, 3, 0, 2]), ("busy", [2, 0, 1, 3]), ("rss", [0, 1, 2, 3])],
)
def test_rows_are_sorted_by_any_column_and_what_is_missing_is_last(key: str, wanted: list[int]) -> None:
    rows = [
        worker(3, connections=5, busy=None),
        worker(1, connections=9, busy=0.1),
        worker(0, connections=5, busy=0.2),
        worker(2, connections="?", busy=0.9),
    ]
    rows.sort(key=lambda row: -row["slot"] if key == "connections" else row["slot"])
    (column,) = [column for column in WORKER_COLUMNS if column.key == key]
    assert [row["slot"] for row in arrange(rows, column)] == wanted


def test_texts_are_sorted_behind_numbers() -> None:
    rows: list[dict[str, Any]] = [{"peer": "b"}, {"peer": 3}, {}, {"peer": "a"}, {"peer": 1}]
    (column,) = [column for column in CONNECTION_COLUMNS if column.key == "peer"]
    assert [row.get("peer") for row in arrange(rows, column)] == [1, 3, "a", "b", None]


@pytest.mark.parametrize(
    ("old", "new", "elapsed", "rate"),
    [
        (100, 150, 2.0, 25.0),
        (100, 100, 2.0, 0.0),
        (100, 99, 2.0, None),
        (100, 150, 0.0, None),
        ("x", 150, 2.0, None),
    ],
)
def test_a_rate_is_a_difference_over_a_time(old: object, new: object, elapsed: float, rate: float | None) -> None:
    before, after = (status(counters={"accepted": value}) for value in (old, new))
    assert measure(Sample(before, 5.0), Sample(after, 5.0 + elapsed))["rates"]["accepted"] == rate


def test_a_worker_that_took_over_a_slot_has_no_rate_yet() -> None:
    before, after = status(), status(workers=[worker(0, accepted=60), worker(1, pid=500, accepted=60)])
    rows = measure(Sample(before, 1.0), Sample(after, 2.0))["workers"]
    assert [row["accepts"] for row in rows] == [10.0, None]


def test_the_first_status_has_no_rates() -> None:
    assert set(measure(None, Sample(status(), 1.0))["rates"].values()) == {None}


# --- keys and answers ---


def watching(**more: Any) -> Overview:
    overview = Overview()
    overview.tick(0.0)
    assert asked(overview) == [("status", {})]
    overview.take("status", status(**more), 0.0)
    return overview


def test_a_question_is_not_asked_again_while_its_answer_is_under_way() -> None:
    overview = Overview()
    overview.tick(0.0)
    overview.tick(1.0)
    assert asked(overview) == [("status", {})]
    assert "no answer" not in told(overview, 2.9)
    assert told(overview, 3.0) == "no answer for 3.0s"
    overview.take("status", status(), 3.0)
    assert "no answer" not in told(overview, 3.0)


def test_events_are_asked_for_from_the_last_one_on_where_the_status_has_none() -> None:
    overview = watching()
    overview.tick(1.0)
    assert asked(overview) == [("status", {}), ("events", {"since": 0})]
    overview.take("status", status(), 1.0)
    overview.take("events", [{"id": 4, "msg": "a"}, {"id": 5, "msg": "b"}], 1.0)
    overview.tick(2.0)
    assert asked(overview)[1] == ("events", {"since": 5})
    overview.refuse("events", "there is no command 'events'")
    overview.take("status", status(), 2.0)
    overview.tick(3.0)
    assert asked(overview) == [("status", {})]
    assert "refused" not in told(overview)
    overview = watching(events=[{"msg": "c"}])
    overview.tick(1.0)
    assert asked(overview) == [("status", {})]
    assert overview.picture(1.0).events == [{"msg": "c"}]


def test_s_goes_through_the_columns_and_begins_anew() -> None:
    overview = watching()
    seen = []
    for _ in range(8):
        seen.append(overview.picture(0.0).sort.title)
        overview.press("s", 0.0)
    assert seen == ["SLOT", "CONNS", "ACC/S", "BUSY", "TURN", "RSS", "UPTIME", "SLOT"]
    assert "s sort (conns)" in told(overview)


def test_keys_that_come_faster_than_answers_are_added_up() -> None:
    overview = watching()
    for key in "+++-+":
        overview.press(key, 0.0)
    assert asked(overview) == [("scale", {"count": "+1"})]
    overview.take("scale", {"change": "workers 2→3"}, 0.1)
    assert told(overview) == "workers 2→3"
    assert asked(overview) == [("scale", {"count": "+2"})]
    overview.press("-", 0.2)
    overview.refuse("scale", "the most is 3")
    assert asked(overview) == []
    assert told(overview) == "scale refused: the most is 3"


def test_a_reload_is_waited_for_and_its_verdict_is_told() -> None:
    overview = watching()
    overview.press("r", 10.0)
    overview.press("r", 11.0)
    assert asked(overview) == [("reload", {})]
    assert told(overview, 12.5) == "reloading for 2.5s"
    overview.take("reload", {"verdict": "refused", "reason": "x.yaml:1:\n\x1b[31mno", "changes": []}, 13.0)
    assert told(overview, 13.0) == "reload refused: x.yaml:1: ?[31mno"
    overview.press("s", 14.0)
    assert told(overview).startswith("s sort")


@pytest.mark.parametrize("key", ["n", "q", "d", "Y", "\r"])
def test_a_stop_that_is_not_confirmed_is_none(key: str) -> None:
    overview = watching()
    overview.press("d", 0.0)
    assert told(overview).startswith("stop the server")
    overview.press(key, 0.0)
    assert overview.stage.value == Stage.WATCHING.value
    assert asked(overview) == []


def test_a_stop_that_is_confirmed_is_asked_for_once() -> None:
    overview = watching()
    for key in "dydy":
        overview.press(key, 0.0)
    assert asked(overview) == [("stop", {})]
    assert overview.stage.value == Stage.STOPPING.value
    overview.press("q", 0.0)
    assert overview.stage.value == Stage.LEFT.value


def test_a_refused_stop_leaves_the_reader_where_they_were() -> None:
    overview = watching()
    for key in "dy":
        overview.press(key, 0.0)
    overview.refuse("stop", "no")
    assert (overview.stage, told(overview)) == (Stage.WATCHING, "stop refused: no")


def test_c_shows_connections_and_goes_back() -> None:
    overview = watching()
    overview.press("c", 0.0)
    assert asked(overview) == [("conns", {"limit": 1000, "order": "age"})]
    overview.take("conns", [{"id": "a", "peer": "1.2.3.4:5", "age": 60, "received": 3}, "nonsense"], 0.1)
    shown = [line.text for line in layout(overview.picture(0.2), 100, 10)]
    assert "PEER" in shown[2]
    assert "1.2.3.4:5" in shown[3]
    overview.tick(1.0)
    assert "conns" in [command for command, _ in asked(overview)]
    overview.press("c", 1.0)
    overview.take("conns", [{"id": "late"}], 1.1)
    assert overview.picture(1.2).connections is None


def test_a_server_without_a_list_of_connections_is_told_of() -> None:
    overview = watching()
    overview.press("c", 0.0)
    overview.refuse("conns", "there is no command 'conns'; there are status")
    assert told(overview) == "conns refused: there is no command 'conns'; there are status"
    assert overview.picture(0.0).connections is None
    overview.take_questions()
    overview.tick(1.0)
    assert "conns" not in [command for command, _ in asked(overview)]


def test_a_lost_connection_is_told_of_and_everything_can_be_asked_again() -> None:
    overview = watching()
    for key in "cr":
        overview.press(key, 0.0)
    overview.lose()
    assert told(overview).endswith("not answered: conns, reload")
    overview.press("r", 1.0)
    overview.tick(1.0)
    assert [command for command, _ in asked(overview)] == ["reload", "status", "events"]


@pytest.mark.parametrize("result", [None, [], 7, "x", {"verdict": []}, {"change": {}}, [[1]]])
def test_answers_that_make_no_sense_harm_nothing(result: object) -> None:
    overview = watching()
    for command in ("status", "events", "conns", "reload", "scale", "stop", "unheard"):
        overview.press("c", 0.0)
        overview.take(command, result, 1.0)
        lines = layout(overview.picture(1.0), 80, 24)
        assert len(lines) == 24
        assert all(isinstance(line, Line) for line in lines)


@pytest.mark.parametrize(
    ("text", "seconds"), [("1s", 1), ("500ms", 0.5), ("0.25", 0.25), ("2m", 120), ("0.1s", 0.1)]
)
def test_an_interval_is_a_time(text: str, seconds: float) -> None:
    assert parse_interval(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "0", "99ms", "61m", "1 s", "-1", "1h", "nan", "1e3", "9" * 400])
def test_an_interval_out_of_bounds_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="write a time from 100ms to 60m"):
        parse_interval(text)
