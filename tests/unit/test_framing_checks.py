"""Messages of json-lines are checked before a handler sees them: by a function, a dataclass, msgspec, pydantic."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import time
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, Optional, Protocol, TypedDict

import pytest

from prefork import JsonLines
from prefork.errors import ConfigError
from prefork.framing import Complaint
from prefork.framing.checks import build_check
from tests.unit.framing_samples import outcome_of, told_by


@dataclass
class Item:
    name: str
    price: float
    count: int = 1


@dataclass
class Order:
    item: Item
    note: str | None = None
    other: Item | None = None
    more: list[Item] = field(default_factory=list)
    by_name: dict[str, Item] = field(default_factory=dict)
    is_paid: bool = False
    kind: Literal["new", "old", 3] = "new"
    anything: Any = None
    amount: int | float | None = None
    named: str | list[str] | dict[str, str] | None = None
    untyped: list = field(default_factory=list)  # type: ignore[type-arg]
    limit: ClassVar[int] = 5


@dataclass
class Perhaps:
    anything: Any | None
    whatever: object | None = None
    one_of: Literal["a", "b"] | float | None = None


@dataclass
class Node:
    value: int
    next: Node | None = None


@dataclass
class Tree:
    left: Tree | list[Tree] | int | None
    right: Tree | list[Tree] | int | None


@dataclass
class Positive:
    number: int

    def __post_init__(self) -> None:
        if self.number <= 0:
            raise ValueError("the number is not positive")


@dataclass
class Old:
    text: Optional[str] = None  # noqa: UP045  # the old spelling is met too
    derived: int = field(init=False, default=7)


PEN: dict[str, Any] = {"name": "pen", "price": 1.5}
GOOD: list[tuple[Any, Any, Any]] = [
    (Item, PEN, Item("pen", 1.5)),
    (Item, {**PEN, "price": 2}, Item("pen", 2)),
    (Item, {**PEN, "count": 7}, Item("pen", 1.5, 7)),
    (Order, {"item": PEN}, Order(Item("pen", 1.5))),
    (Order, {"item": PEN, "note": None}, Order(Item("pen", 1.5))),
    (Order, {"item": PEN, "note": "now"}, Order(Item("pen", 1.5), "now")),
    (Order, {"item": PEN, "other": PEN}, Order(Item("pen", 1.5), None, Item("pen", 1.5))),
    (Order, {"item": PEN, "other": None}, Order(Item("pen", 1.5))),
    (Order, {"item": PEN, "more": [PEN, PEN]}, Order(Item("pen", 1.5), more=[Item("pen", 1.5)] * 2)),
    (Order, {"item": PEN, "by_name": {"a": PEN}}, Order(Item("pen", 1.5), by_name={"a": Item("pen", 1.5)})),
    (Order, {"item": PEN, "kind": 3, "is_paid": True}, Order(Item("pen", 1.5), kind=3, is_paid=True)),
    (Order, {"item": PEN, "anything": [1, {"a": None}]}, Order(Item("pen", 1.5), anything=[1, {"a": None}])),
    (Perhaps, {"anything": [1], "whatever": 2}, Perhaps([1], 2)),
    (Perhaps, {"anything": None, "one_of": "a"}, Perhaps(None, None, "a")),
    (Order, {"item": PEN, "amount": 1.5}, Order(Item("pen", 1.5), amount=1.5)),
    (Order, {"item": PEN, "amount": 2}, Order(Item("pen", 1.5), amount=2)),
    (Order, {"item": PEN, "named": ["a"]}, Order(Item("pen", 1.5), named=["a"])),
    (Order, {"item": PEN, "untyped": [1, "a"]}, Order(Item("pen", 1.5), untyped=[1, "a"])),
    (Node, {"value": 1, "next": {"value": 2, "next": None}}, Node(1, Node(2))),
    (Tree, {"left": 1, "right": {"left": [], "right": None}}, Tree(1, Tree([], None))),
    (Positive, {"number": 1}, Positive(1)),
    (Old, {}, Old()),
    (Old, {"text": "a"}, Old("a")),
]


@pytest.mark.parametrize(("check", "value", "wanted"), GOOD)
def test_a_good_message_becomes_the_dataclass(check: Any, value: Any, wanted: Any) -> None:
    assert outcome_of(check, value) == wanted


BAD: list[tuple[Any, Any, str]] = [
    (Item, None, "null"),
    (Item, [], "list"),
    (Item, "pen", "string"),
    (Item, 1, "number"),
    (Item, {}, "name"),
    (Item, {"name": "pen"}, "price"),
    (Item, {**PEN, "colour": "red"}, "unknown key 'colour'"),
    (Item, {**PEN, "limit": 1}, "unknown key 'limit'"),
    (Item, {**PEN, "": 1}, "unknown key ''"),
    (Item, {**PEN, "__class__": 1}, "unknown key '__class__'"),
    (Item, {**PEN, "self": 1}, "unknown key 'self'"),
    (Item, {**PEN, "name": 1}, "name"),
    (Item, {**PEN, "name": None}, "name"),
    (Item, {**PEN, "price": "1.5"}, "price"),
    (Item, {**PEN, "price": True}, "price"),
    (Item, {**PEN, "count": 1.0}, "count"),
    (Item, {**PEN, "count": True}, "count"),
    (Item, {**PEN, "count": "1"}, "count"),
    (Item, {**PEN, "count": [1]}, "count"),
    (Order, {"item": "pen"}, "item"),
    (Order, {"item": {"name": "pen"}}, "price"),
    (Order, {"item": {**PEN, "colour": 1}}, "colour"),
    (Order, {"item": PEN, "note": 5}, "note"),
    (Order, {"item": PEN, "other": {"name": "pen"}}, "other"),
    (Order, {"item": PEN, "other": []}, "other"),
    (Order, {"item": PEN, "more": [{"name": 1, "price": 1}]}, "more"),
    (Order, {"item": PEN, "more": [1]}, "more"),
    (Order, {"item": PEN, "more": PEN}, "more"),
    (Order, {"item": PEN, "by_name": {"a": 1}}, "by_name"),
    (Order, {"item": PEN, "is_paid": 1}, "is_paid"),
    (Order, {"item": PEN, "is_paid": None}, "is_paid"),
    (Order, {"item": PEN, "kind": "older"}, "kind"),
    (Order, {"item": PEN, "kind": 3.0}, "kind"),
    (Order, {"item": PEN, "limit": 6}, "limit"),
    (Node, {"value": 1, "next": {"value": "2"}}, "next"),
    (Positive, {"number": 0}, "the number is not positive"),
    (Old, {"derived": 8}, "derived"),
]


@pytest.mark.parametrize(("check", "value", "word"), BAD)
def test_a_bad_message_is_told_with_the_name_of_what_is_wrong(check: Any, value: Any, word: str) -> None:
    assert word in told_by(check, value)


def test_an_unknown_key_of_any_length_is_told_in_short() -> None:
    assert len(told_by(Item, {**PEN, "x" * 100_000: 1})) <= 200
    assert len(told_by(Item, {**PEN, "\n\x00\U0001f600" * 1000: 1})) <= 200


def test_a_message_as_deep_as_json_goes_is_a_frame_or_a_complaint() -> None:
    for depth in (10, 300, 800):
        found = outcome_of(Node, json.loads('{"value":1,"next":' * depth + "null" + "}" * depth))
        assert type(found) in (Node, Complaint)


def test_the_time_for_a_bad_message_grows_with_its_depth_and_no_faster() -> None:
    """Else forty brackets of a stranger stop a worker."""
    took = []
    check = build_check(Tree, "app:Tree")
    for depth in (8, 64):
        value = json.loads('{"right":1,"left":' * depth + '"x"' + "}" * depth)
        before = time.thread_time()
        for _ in range(10):
            with pytest.raises((ValueError, TypeError)):
                check(value)
        took.append(time.thread_time() - before)
    assert took[1] < 100 * took[0] + 0.02, took


# --- what cannot check is refused when it is built ---


class Colour(enum.Enum):
    RED = "red"


class Shape(TypedDict):
    sides: int


class Pair(NamedTuple):
    one: int
    two: int


class Sized(Protocol):
    size: int


@dataclass
class WithTuple:
    pair: tuple[int, int]


@dataclass
class WithEnum:
    colour: Colour


@dataclass
class WithTime:
    at: datetime.datetime


@dataclass
class WithBytes:
    data: bytes = b""


@dataclass
class WithProtocol:
    thing: Sized


@dataclass
class WithNumbers:
    by_number: dict[int, str]


@dataclass
class WithTwo:
    """Of what kind an object is, nothing in it says; to try them all takes exponential time."""

    either: WithTwo | Item | int


@dataclass
class WithTwoLists:
    either: list[int] | list[str]


@dataclass
class WithUnknown:
    thing: Nowhere  # type: ignore[name-defined]  # noqa: F821  # as of an import for types alone


async def a_coroutine(value: Any) -> Any:
    return value


def of_nothing() -> Any:
    return None


def of_two(one: Any, two: Any) -> Any:
    return one, two


UNFIT: list[Any] = [
    5,
    "text",
    None,
    {"a": 1},
    Item("pen", 1.5),
    a_coroutine,
    of_nothing,
    of_two,
    Shape,
    Pair,
    WithTuple,
    WithEnum,
    WithTime,
    WithBytes,
    WithProtocol,
    WithNumbers,
    WithTwo,
    WithTwoLists,
    WithUnknown,
]


@pytest.mark.parametrize("target", UNFIT, ids=lambda target: getattr(target, "__name__", repr(target)))
def test_what_cannot_check_is_refused_with_its_name(target: Any) -> None:
    with pytest.raises(ConfigError, match="cannot check messages with app:check: ") as raised:
        build_check(target, "app:check")
    assert len(raised.value.problems) == 1
    assert "\n" not in str(raised.value)


# --- functions ---


def test_what_a_function_returns_is_the_frame() -> None:
    assert outcome_of(lambda value: (value, 1), [1]) == ([1], 1)
    assert outcome_of(int, "17") == 17


def strict(value: Any) -> Any:
    return {"name": value["name"], "first": value["list"][0], "number": 1 / value["number"]}


STRICT = {"name": "a", "list": [1], "number": 1}


@pytest.mark.parametrize("value", [{}, [], None, 5, {**STRICT, "list": []}, {**STRICT, "number": 0}])
def test_a_function_that_stumbles_over_a_message_costs_its_sender_that_message_alone(value: Any) -> None:
    decoder = JsonLines(check=build_check(strict, "app:strict")).decoder()
    good = json.dumps(STRICT).encode() + b"\n"
    one, bad, two = decoder.feed(good + json.dumps(value).encode() + b"\n" + good)
    assert one == two == {"name": "a", "first": 1, "number": 1.0}
    assert type(bad) is Complaint
    assert "error" in json.loads(bad.answer)


def test_a_function_that_recurses_over_a_deep_message_costs_its_sender_that_message_alone() -> None:
    def depth(value: Any) -> int:
        return 1 + depth(value[0]) if value else 0

    decoder = JsonLines(check=depth).decoder()
    deep = b"[" * 900 + b"]" * 900 + b"\n"
    one, bad, two = decoder.feed(b"[[]]\n" + deep + b"[]\n")
    assert (one, two) == (1, 0)
    assert type(bad) is Complaint or type(bad) is int


def test_a_dataclass_is_sent_as_it_is_read() -> None:
    framing = JsonLines(check=build_check(Order, "app:Order"))
    order = Order(Item("pen", 1.5), "now", Item("cap", 0.5), [Item("a", 1.0)], {"b": Item("b", 2.0)}, True, 3)
    assert framing.decoder().feed(framing.encode(order)) == [order]
    assert dataclasses.asdict(order) == json.loads(framing.encode(order))
