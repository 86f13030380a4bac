"""JSON lines under attack: what is no JSON, what Python takes for it, and what an error tells."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork import JsonLines, LocalProtocolError, Over
from prefork.framing import Complaint
from tests.unit.framing_samples import BOUNDED, each_byte

MOST_ANSWERED = 300  # bytes: an error must not make much of little

NO_JSON = {
    "a word": b"hello",
    "half an object": b'{"a": 1',
    "two values": b"1 2",
    "two values without a space": b"{}{}",
    "a comma too many": b"[1,]",
    "single quotes": b"{'a': 1}",
    "a comment": b"1 // one",
    "a leading zero": b"01",
    "a plus": b"+1",
    "hexadecimal": b"0x10",
    "a tab in a string": b'"a\tb"',
    "a NUL in a string": b'"a\0b"',
    "NUL": b"\0",
    "NaN": b"NaN",
    "Infinity": b"Infinity",
    "negative Infinity": b"-Infinity",
    "NaN below": b'{"a": [1, NaN]}',
    "a number beyond floats": b"1e400",
    "a negative number beyond floats": b'{"a": [-1e999]}',
    "an integer of 5,000 digits": b"9" * 5000,
    "a hundred thousand brackets": b"[" * 100_000,
    "nesting of 50,000": b"[" * 50_000 + b"]" * 50_000,
    "objects nested 20,000 deep": b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    "a byte that UTF-8 does not have": b'"\xff"',
    "half a character": b'"\xc3"',
    "an overlong form": b'"\xc0\xaf"',
    "half of a surrogate pair in UTF-8": b'"\xed\xa0\x80"',
    "UTF-16": "{}".encode("utf-16-le"),
    "UTF-16 with a mark": "{}".encode("utf-16"),
    "UTF-32": "1".encode("utf-32-be"),
    "a byte order mark": b"\xef\xbb\xbf{}",
}


def outcome(line: bytes, **more: Any) -> Any:
    (frame,) = JsonLines(200_000, **more).decoder().feed(line + b"\n")
    return frame


@pytest.mark.parametrize("name", NO_JSON)
@pytest.mark.parametrize("over", Over)
def test_what_is_no_json_is_told_to_its_sender_and_the_next_line_is_read(name: str, over: Over) -> None:
    decoder = JsonLines(200_000, over=over).decoder()
    one, bad, two = decoder.feed(b"1\n" + NO_JSON[name] + b"\n2\n")
    assert (one, two) == (1, 2)
    assert type(bad) is Complaint
    assert json.loads(bad.answer) == {"error": "this is no JSON"}
    assert decoder.pending == 0


GOOD: list[tuple[bytes, Any]] = [
    (b"null", None),
    (b"false", False),
    (b"0", 0),
    (b'""', ""),
    (b"[]", []),
    (b"{}", {}),
    (b" 1 \r", 1),
    (b"-0", 0),
    (b"1E2", 100.0),
    (b"1e-999", 0.0),
    (b'"\xc3\xa9"', "\u00e9"),
    (b'"\\u00e9\\ud83d\\ude00"', "\u00e9\U0001f600"),
    (b'"\\u2028\\n\\u0000"', "\u2028\n\0"),
    (b"9" * 300, int("9" * 300)),
    (b'{"a": {"b": [1, 2.5, null]}}', {"a": {"b": [1, 2.5, None]}}),
    (b"[" * 200 + b"]" * 200, json.loads("[" * 200 + "]" * 200)),
]


@pytest.mark.parametrize(("line", "value"), GOOD)
def test_every_value_of_json_is_a_frame(line: bytes, value: Any) -> None:
    found = outcome(line)
    assert found == value
    assert type(found) is type(value)


def test_empty_lines_are_no_frames_and_a_crlf_ends_a_line() -> None:
    decoder = JsonLines().decoder()
    assert decoder.feed(b"\n\r\n  \n1\r\n\n\n2\n\t\r\n") == [1, 2]
    assert decoder.pending == 0


def test_a_hundred_thousand_empty_lines_are_nothing() -> None:
    assert JsonLines().decoder().feed(b"\n" * 100_000) == []


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(values, max_size=5))
@BOUNDED
def test_what_was_encoded_is_decoded(frames: list[Any]) -> None:
    framing = JsonLines(1_000_000)
    stream = b"".join(map(framing.encode, frames))
    assert stream.count(b"\n") == len(frames)
    assert framing.decoder().feed(stream) == frames
    decoder = framing.decoder()
    assert [frame for byte in each_byte(stream) for frame in decoder.feed(byte)] == frames


@given(st.binary(max_size=60))
@BOUNDED
def test_any_line_is_a_frame_or_a_complaint_and_a_frame_can_be_sent_back(line: bytes) -> None:
    framing = JsonLines()
    for frame in framing.decoder().feed(line + b"\n"):
        if type(frame) is not Complaint:
            assert framing.decoder().feed(framing.encode(frame)) == [frame]


@pytest.mark.parametrize("line", [b'"\\ud800"', b'{"\\udfff": 1}', b'["\\ude00\\ud83d"]', b'"a\\ud83d\\nb"'])
def test_half_of_a_surrogate_pair_is_refused_or_can_be_sent_back(line: bytes) -> None:
    """It is good JSON (RFC 8259, 8.2): an echo must not fail by it."""
    framing = JsonLines()
    (frame,) = framing.decoder().feed(line + b"\n")
    if type(frame) is not Complaint:
        assert framing.decoder().feed(framing.encode(frame)) == [frame]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, {"a": [math.nan]}])
def test_what_json_does_not_have_is_never_sent(value: Any) -> None:
    with pytest.raises(LocalProtocolError, match="cannot send a"):
        JsonLines().encode(value)


@pytest.mark.parametrize("value", [{1, 2}, b"bytes", object(), {"a": {(1, 2): 3}}, {"a": 1j}, int])
def test_a_value_without_a_form_in_json_is_the_users_fault(value: Any) -> None:
    with pytest.raises(LocalProtocolError, match="cannot send a"):
        JsonLines().encode(value)


def test_a_value_that_holds_itself_or_is_too_deep_is_the_users_fault() -> None:
    circle: list[Any] = []
    circle.append(circle)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    try:
        for value in (circle, deep):
            with pytest.raises(LocalProtocolError, match="cannot send a list"):
                JsonLines().encode(value)
    finally:
        while deep:  # else the collector takes it apart by recursion
            deep = deep.pop()


# --- what an error tells ---

HOSTILE = [
    "x" * 10_000,
    "\U0001f600" * 10_000,
    "\x00" * 10_000,
    "\x1b[2J" * 1000,
    '"' * 10_000,
    "\\" * 10_000,
    '\\"' * 5000,
    "\u2028\u2029\x85" * 1000,
    "\ud800" * 10_000,
    "line one\nline two\r\n{}\n" * 100,
    "",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("kind", [ValueError, TypeError, KeyError])
def test_an_error_is_one_short_line_whatever_a_check_says(text: str, kind: type[Exception]) -> None:
    def check(value: Any) -> Any:
        raise kind(text)

    complaint = outcome(b"1", check=check)
    assert type(complaint) is Complaint
    assert len(complaint.answer) <= MOST_ANSWERED
    assert complaint.answer.endswith(b"\n")
    assert complaint.answer.count(b"\n") == 1
    assert complaint.answer[:-1].decode("ascii").isprintable()
    told = json.loads(complaint.answer)
    assert list(told) == ["error"]
    assert type(told["error"]) is str
    assert told["error"]
    assert complaint.reason.isascii()
    assert complaint.reason.isprintable()
    assert len(complaint.reason) < MOST_ANSWERED


@given(st.text())
@BOUNDED
def test_an_error_is_one_frame_of_json_lines_itself(text: str) -> None:
    def check(value: Any) -> Any:
        raise ValueError(value)

    framing = JsonLines(1_000_000, check=check)
    (complaint,) = framing.decoder().feed(framing.encode(text))
    assert len(complaint.answer) <= MOST_ANSWERED
    (told,) = JsonLines(MOST_ANSWERED).decoder().feed(complaint.answer)
    assert list(told) == ["error"]


@pytest.mark.parametrize("over", [Over.SKIP, Over.ERROR])
def test_a_line_over_the_limit_is_told_only_by_the_policy_error(over: Over) -> None:
    decoder = JsonLines(100, over=over).decoder()
    one, bad = decoder.feed(b"1\n" + b"x" * 200)
    assert one == 1
    assert decoder.feed(b"xxx\n2\n") == [2]
    if over is Over.ERROR:
        assert json.loads(bad.answer) == {"error": "line is too long"}
    else:
        assert bad.answer == b""
