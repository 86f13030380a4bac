"""What the clients of the benchmark's load generator in Python send, and which answers they take."""

from __future__ import annotations

import socket

import pytest

from tools.benchmark.client import Client, Plan, WrongAnswer
from tools.benchmark.client_udp import SIZE, UDP_GRO, UdpClient, pieces, segment_size

EXCHANGE = Plan("exchange", 1, connections=2, size=64, piece_size=0)
LINES = Plan("exchange", 1, connections=2, size=64, piece_size=16)


class Idle(Client):
    """A client that is never connected."""

    def connect(self, source: str) -> socket.socket:
        raise NotImplementedError

    def send(self) -> None:
        self.stamp(0, self.plan.size)

    def take(self) -> bool:
        return False


def test_no_two_neighbours_and_no_two_requests_are_the_same() -> None:
    first, second = Idle(EXCHANGE, 0), Idle(EXCHANGE, 1)
    sent = set()
    for client in (first, second, first, second):
        client.send()
        sent.add(bytes(client.request))
    assert len(sent) == 4


def test_a_request_of_one_byte_has_its_number_too() -> None:
    client = Idle(Plan("connect", 1, connections=1, size=1, piece_size=0), 0)
    client.send()
    before = bytes(client.request)
    client.send()
    assert (len(before), len(client.request)) == (1, 1)
    assert client.request != before


def test_a_piece_ends_with_a_line_feed() -> None:
    request = Idle(LINES, 0).request
    assert [at for at, byte in enumerate(request) if byte == 10] == [15, 31, 47, 63]


@pytest.mark.parametrize("cuts", [[64], [1, 63], [63, 1], [1] * 64])
def test_an_answer_may_come_in_parts(cuts: list[int]) -> None:
    client = Idle(EXCHANGE, 0)
    client.send()
    outcomes, at = [], 0
    for cut in cuts:
        outcomes.append(client.compare(bytes(client.request[at : at + cut])))
        at += cut
    assert outcomes == [False] * (len(cuts) - 1) + [True]


@pytest.mark.parametrize("answer", [b"", b"!", b"more"], ids=["end of the stream", "another byte", "a byte more"])
def test_what_was_not_sent_is_a_wrong_answer(answer: bytes) -> None:
    client = Idle(EXCHANGE, 0)
    data = bytes(client.request) + b"." if answer == b"more" else answer
    with pytest.raises(WrongAnswer):
        client.compare(data)


def test_every_datagram_of_a_burst_is_another() -> None:
    client = UdpClient(Plan("exchange", 1, connections=1, size=1024, piece_size=64), 0)
    for at in range(0, 1024, 64):
        client.stamp(at, 64)
    assert len(set(pieces(bytes(client.request), 64))) == 16


def test_datagrams_that_came_together_are_told_apart() -> None:
    assert pieces(b"aabbc", 2) == [b"aa", b"bb", b"c"]
    assert pieces(b"", 0) == [b""]


def test_the_kernel_tells_the_size_of_datagrams_that_came_together() -> None:
    assert segment_size([(socket.IPPROTO_UDP, UDP_GRO, SIZE.pack(64))]) == 64
    assert segment_size([(socket.SOL_SOCKET, UDP_GRO, SIZE.pack(64))]) is None
    assert segment_size([]) is None
