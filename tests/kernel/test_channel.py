"""The channel between the master and a child: whole messages, descriptors, full buffers, the end."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from prefork.errors import ChannelError
from prefork.process.channel import Channel, open_pair
from prefork.process.messages import Fact, Failed, Order, Ready, Spawn, Spawned

Pair = tuple[Channel, Channel]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = open_pair()
    other = Channel(theirs)
    yield ours, other
    ours.close()
    other.close()


def words(messages: list[tuple[Fact | Order, list[int]]] | None) -> list[Fact | Order]:
    return [message for message, _ in messages or ()]


def test_messages_arrive_whole_and_in_order(pair: Pair) -> None:
    ours, theirs = pair
    sent: list[Fact | Order] = [Ready(), Spawned(7), Failed("why", "x" * 20_000)]
    for message in sent:
        theirs.send(message)
    assert words(ours.receive()) == sent
    assert ours.receive() == []


def test_descriptors_arrive_with_their_message_and_work(pair: Pair) -> None:
    ours, theirs = pair
    read_end, write_end = os.pipe()
    ours.send(Spawn(1, 2), [read_end, write_end])
    os.close(read_end)
    os.close(write_end)
    ((message, fds),) = theirs.receive() or []
    assert message == Spawn(1, 2)
    os.write(fds[1], b"through")
    assert os.read(fds[0], 100) == b"through"
    assert [os.get_inheritable(fd) for fd in fds] == [False, False]
    for fd in fds:
        os.close(fd)


def test_the_end_of_the_other_side_is_told_after_its_last_words_and_again(pair: Pair) -> None:
    ours, theirs = pair
    theirs.send(Failed("last words"))
    theirs.close()
    assert words(ours.receive()) == [Failed("last words")]
    assert ours.receive() is None
    assert ours.receive() is None


def test_the_end_is_told_though_our_messages_were_never_read(pair: Pair) -> None:
    ours, theirs = pair
    ours.send(Spawn(0, 0))
    theirs.send(Ready())
    theirs.close()
    assert words(ours.receive()) in ([Ready()], [])
    assert ours.receive() is None


def test_a_message_to_a_side_that_is_gone_is_no_error(pair: Pair) -> None:
    ours, theirs = pair
    theirs.close()
    ours.send(Spawn(0, 0))
    assert not ours.is_blocked
    assert ours.receive() is None


def test_what_does_not_fit_waits_and_leaves_in_order_with_its_descriptors(pair: Pair) -> None:
    ours, theirs = pair
    fd = os.open(os.devnull, os.O_RDONLY)
    count = 0
    while not ours.is_blocked:
        ours.send(Spawn(count, 0), [fd])
        count += 1
    for _ in range(50):
        ours.send(Spawn(count, 0), [fd])
        count += 1
    os.close(fd)
    got: list[Fact | Order] = []
    while len(got) < count:
        for message, fds in theirs.receive() or ():
            got.append(message)
            for received in fds:
                os.close(received)
        ours.flush()
    assert got == [Spawn(number, 0) for number in range(count)]
    assert not ours.is_blocked


def test_descriptors_that_wait_are_closed_with_the_channel(pair: Pair) -> None:
    ours, _ = pair
    before = len(os.listdir("/proc/self/fd"))
    while not ours.is_blocked:
        ours.send(Spawn(0, 0), [0])
    ours.send(Spawn(0, 0), [0])
    assert len(os.listdir("/proc/self/fd")) == before + 2
    ours.close()
    assert len(os.listdir("/proc/self/fd")) == before - 1


def test_a_packet_that_is_no_message_is_an_error() -> None:
    ours, theirs = open_pair()
    with theirs:
        theirs.send(b"junk")
        with pytest.raises(ChannelError, match="cannot understand"):
            ours.receive()
    ours.close()


def test_waiting_blocks_until_a_message_or_the_end(pair: Pair) -> None:
    ours, theirs = pair
    ours.send(Spawn(1, 1))
    assert theirs.wait() == (Spawn(1, 1), [])
    ours.close()
    assert theirs.wait() is None


def test_a_failure_with_the_longest_detail_arrives(pair: Pair) -> None:
    ours, theirs = pair
    theirs.send(Failed("r" * 2000, "d" * 20_000))
    assert words(ours.receive()) == [Failed("r" * 2000, "d" * 20_000)]


def test_a_channel_does_not_block_its_process() -> None:
    ours, theirs = open_pair()
    assert ours.receive() == []
    with theirs:
        assert theirs.type == socket.SOCK_SEQPACKET
    ours.close()
