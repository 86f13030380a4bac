"""Messages of json-lines that are models of msgspec or pydantic: checked, and sent as they are read."""

from __future__ import annotations

import datetime
import json
from typing import Any, Optional

import pytest

from prefork import JsonLines
from prefork.framing.checks import build_check
from tests.unit.framing_samples import outcome_of, told_by


def test_a_struct_of_msgspec_checks_messages_and_is_sent_as_it_is_read() -> None:
    msgspec: Any = pytest.importorskip("msgspec")
    inner = msgspec.defstruct("Inner", [("count", int)])
    fields = [("name", str), ("at", datetime.datetime), ("inner", Optional[inner], None)]  # noqa: UP045
    message = msgspec.defstruct("Message", fields, rename="camel", forbid_unknown_fields=True)
    wire = {"name": "a", "at": "2024-01-02T03:04:05", "inner": {"count": 1}}
    value = outcome_of(message, wire)
    assert value == message("a", datetime.datetime(2024, 1, 2, 3, 4, 5), inner(1))
    assert json.loads(JsonLines().encode(value)) == wire
    assert "count" in told_by(message, {**wire, "inner": {"count": "1"}})
    assert "name" in told_by(message, {"at": wire["at"]})
    assert "colour" in told_by(message, {**wire, "colour": 1})
    assert told_by(message, [1])


@pytest.mark.parametrize("options", [{"rename": "camel"}, {"tag": "order"}, {"array_like": True}, {}])
def test_what_was_read_as_a_struct_is_read_again_when_it_is_sent(options: dict[str, Any]) -> None:
    msgspec: Any = pytest.importorskip("msgspec")
    message = msgspec.defstruct("Message", [("item_count", int), ("is_new", bool, True)], **options)
    framing = JsonLines(check=build_check(message, "app:Message"))
    value = message(5, False)
    assert framing.decoder().feed(framing.encode(value)) == [value]
    assert framing.decoder().feed(framing.encode([value])[1:-2] + b"\n") == [value]


def test_a_model_of_pydantic_checks_messages_and_is_sent_as_it_is_read() -> None:
    pydantic: Any = pytest.importorskip("pydantic")
    inner = pydantic.create_model("Inner", count=(int, ...))
    message = pydantic.create_model(
        "Message",
        __config__=pydantic.ConfigDict(extra="forbid"),
        name=(str, pydantic.Field(max_length=5)),
        at=(datetime.datetime, ...),
        inner=(inner | None, None),
    )
    wire = {"name": "a", "at": "2024-01-02T03:04:05", "inner": {"count": 1}}
    value = outcome_of(message, wire)
    assert type(value) is message
    assert value.inner.count == 1
    assert json.loads(JsonLines().encode(value)) == wire
    assert "name" in told_by(message, {**wire, "name": "abcdef"})
    assert "count" in told_by(message, {**wire, "inner": {"count": "one"}})
    assert "colour" in told_by(message, {**wire, "colour": 1})
    assert told_by(message, [1])


def test_what_was_read_as_a_model_with_aliases_is_read_again_when_it_is_sent() -> None:
    pydantic: Any = pytest.importorskip("pydantic")
    message = pydantic.create_model("Message", item_count=(int, pydantic.Field(alias="itemCount")))
    framing = JsonLines(check=build_check(message, "app:Message"))
    value = message(itemCount=5)
    assert framing.decoder().feed(framing.encode(value)) == [value]
