"""The words between the master and its children: there and back, and what is none of them."""

from __future__ import annotations

import dataclasses
import random

import pytest

from prefork.errors import ChannelError
from prefork.process import messages
from prefork.process.channel import PACKET_BYTES
from prefork.process.loading import describe_failure
from prefork.process.messages import KINDS, Fact, Order, decode, encode
from prefork.watch import Watch

VALUES = {
    "str": "line\nwith “words”",
    "int": 7,
    "float": 0.25,
    "bool": True,
    "Watch": Watch.SECOND,
    "int | None": 3,
    "list[Any]": ["jobs_total", 1, [0.5, None]],
    "dict[str, Any]": {"peer": "10.0.0.0/8", "limit": 5},
}


def example(kind: type[Fact | Order]) -> Fact | Order:
    """Make a message of a kind, with a value for each of its fields."""
    return kind(**{field.name: VALUES[str(field.type)] for field in dataclasses.fields(kind)})


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_kind_comes_back_as_it_was_sent(kind: type[Fact | Order]) -> None:
    assert decode(encode(example(kind))) == example(kind)


def test_every_message_of_the_module_is_known() -> None:
    leaves = [c for base in (Fact, Order) for c in base.__subclasses__()]
    assert {c.__name__: c for c in leaves} == KINDS


def test_messages_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        messages.Spawned(1).pid = 2  # type: ignore[misc]


JUNK = [
    b"", b"\xff", b"null", b"1", b"{}", b"[]", b'["Ready"]', b'["Ready", null]', b'["Ready", []]',
    b'["Ready", {"x": 1}]', b'["Nothing", {}]', b'["Spawned", {}]', b'["Spawned", {"pid": 1, "x": 2}]',
    b'[["Ready"], {}]', b"[{}, {}]", b'["Cover", {"listener": "a", "slot": 0, "watch": "sometimes"}]',
    b'["Cover", {"watch": []}]', b"[" * 100_000, b'["Ready", {}] trailing', b'["Ready", "watch"]', b'["Ready", 5]',
]  # fmt: skip


@pytest.mark.parametrize("packet", JUNK, ids=range(len(JUNK)))
def test_what_is_no_message_is_a_channel_error(packet: bytes) -> None:
    with pytest.raises(ChannelError):
        decode(packet)


def test_random_damage_is_a_message_or_a_channel_error_and_nothing_else() -> None:
    dice = random.Random(5)
    whole = [encode(example(kind)) for kind in KINDS.values()]
    for _ in range(5000):
        packet = bytearray(dice.choice(whole))
        packet[dice.randrange(len(packet))] = dice.randrange(256)
        try:
            decode(bytes(packet))
        except ChannelError:  # the only one that is allowed
            pass


@pytest.mark.parametrize("letter", ["x", "ж", "\U0001f600", "\0"], ids=["ascii", "cyrillic", "emoji", "control"])
def test_the_longest_failure_fits_into_one_packet_in_any_script(letter: str) -> None:
    """Else it is cut on its way, and the reason why nothing boots is lost."""
    try:
        raise ValueError(letter * 100_000)
    except ValueError as error:
        packet = encode(describe_failure(error))
    assert len(packet) <= PACKET_BYTES
    assert isinstance(decode(packet), messages.Failed)
