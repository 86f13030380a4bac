"""Log records as text and as JSON: one line each, whatever a peer has put into them."""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import sys
from pathlib import Path
from typing import Any

import pytest

from prefork.log import MAX_DETAIL, MAX_LINES, Fields, JsonFormatter, LineHandler, TextFormatter

NASTY = "one\ntwo\rthree\x1b[31m\x00 \u2028 \u202e end"


def record(message: str, *arguments: object, level: int = logging.INFO, **more: Any) -> logging.LogRecord:
    made = logging.LogRecord("prefork.echo", level, __file__, 1, message, arguments, None)
    made.__dict__.update(more)
    return made


def failure() -> tuple[Any, Any, Any]:
    try:
        raise ValueError("on purpose")
    except ValueError:
        return sys.exc_info()


def test_text_is_one_line_with_time_level_process_logger_and_message() -> None:
    line = TextFormatter().format(record("hello %s", "world", who="worker 1 g3", process=4711))
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} info    worker 1 g3 \(4711\) prefork\.echo: hello world", line)


def test_text_stays_on_its_line_whatever_the_message_says() -> None:
    line = TextFormatter().format(record("%s", NASTY))
    assert line.isprintable()
    assert r"one\ntwo\rthree\x1b[31m\x00 \u2028 \u202e end" in line


def test_text_shows_letters_of_any_script_as_they_are() -> None:
    assert TextFormatter().format(record("grüße 你好 🙂")).endswith("grüße 你好 🙂")


def test_text_has_a_traceback_below_its_line() -> None:
    first, *rest = TextFormatter().format(record("failed", exc_info=failure())).splitlines()
    assert first.endswith("failed")
    assert rest[-1] == "  ValueError: on purpose"


def test_text_has_a_detail_below_its_line() -> None:
    assert TextFormatter().format(record("the stack:", detail="a\nb")).splitlines()[1:] == ["  a", "  b"]


def test_a_detail_of_many_lines_keeps_its_begin_and_its_end() -> None:
    """An exception may tell what a peer has said."""
    many = "\n".join(map(str, range(10_000)))
    lines = TextFormatter().format(record("the stack:", detail=many)).splitlines()[1:]
    assert len(lines) == MAX_LINES + 1
    assert (lines[0], lines[-1]) == ("  0", "  9999")
    assert lines[MAX_LINES // 2] == f"  … ({10_000 - MAX_LINES} more lines)"


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_a_long_detail_is_cut_in_its_middle(formatter: logging.Formatter) -> None:
    text = formatter.format(record("the stack:", detail="begin " + "x" * 1_000_000 + " end"))
    assert len(text) < MAX_DETAIL + 1000
    assert "begin x" in text
    assert "more characters" in text
    assert isinstance(formatter, TextFormatter) or "x end" in text


def test_json_is_one_object_on_one_line_with_the_fields_that_are_there() -> None:
    line = JsonFormatter().format(
        record("%s", NASTY, slot=1, generation=3, conn="echo-1", process=7, created=0.25)
    )
    assert "\n" not in line
    assert json.loads(line) == {
        "ts": "1970-01-01T00:00:00.250000Z",
        "level": "info",
        "logger": "prefork.echo",
        "msg": NASTY,
        "pid": 7,
        "slot": 1,
        "generation": 3,
        "conn": "echo-1",
    }


def test_json_keeps_a_traceback_on_its_line() -> None:
    line = JsonFormatter().format(record("failed", exc_info=failure()))
    assert len(line.splitlines()) == 1
    assert json.loads(line)["detail"].endswith("ValueError: on purpose")


def test_json_takes_any_value_of_a_field() -> None:
    assert json.loads(JsonFormatter().format(record("x", peer=object())))["peer"].startswith("<object")


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_half_a_surrogate_pair_from_a_peer_can_be_written(formatter: logging.Formatter) -> None:
    line = formatter.format(record("%s", b"\xff\xfe".decode("utf-8", "surrogateescape")))
    assert line.encode("utf-8", "backslashreplace")


def test_fields_of_the_process_are_added_and_do_not_hide_those_of_the_record() -> None:
    fields = Fields(slot=1, who="worker")
    bare, own = record("x"), record("x", slot=9)
    assert fields.filter(bare)
    assert fields.filter(own)
    assert (bare.__dict__["slot"], own.__dict__["slot"], own.__dict__["who"]) == (1, 9, "worker")


def test_records_that_found_no_room_are_counted_and_a_torn_line_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "log"
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    handler = LineHandler(fd)
    handler.setFormatter(JsonFormatter())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler.emit(record("first"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, hard))
    try:
        for number in range(3):
            handler.emit(record("lost %d", number))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    handler.emit(record("last"))
    os.close(fd)
    first, torn, notice, last = path.read_text().splitlines()
    assert len(torn) == 20
    told = [json.loads(line)["msg"] for line in (first, notice, last)]
    assert told == ["first", "3 records before this one could not be written", "last"]
