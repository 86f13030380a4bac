"""Attackers that keep no connection: those that connect and reset at once, and those that send random datagrams.

Knows: how to do that cheaply, and what of a server's answers to look at.
Does not know: the server's processes, goals.
"""

from __future__ import annotations

import os
import random
import select
import socket
import struct
import time
from collections import Counter

from tools.disorder.attack_plan import Raid, Report

_CONTROL_FD = 0
_NO_LINGER = struct.pack("ii", 1, 0)
_IP_BIND_ADDRESS_NO_PORT = 24
_BATCH = 64
_MAX_BYTES = 65_536
_SIZES = (0, 1, 2, 4, 8, 16, 64, 256, 512, 1200, 1472)  # of most datagrams: up to what an Ethernet frame holds
_LARGE_SHARE, _LARGE_BYTES = 0.002, 60_000
_POOL_BYTES = 1 << 20
_LAST_SECONDS = 1.0  # for the answers that are on their way


def bound(raid: Raid, index: int, kind: socket.SocketKind) -> socket.socket:
    """Return a socket of the source of attacker `index`."""
    sock = socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK)
    if kind == socket.SOCK_STREAM:
        sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
    sock.bind((raid.source(index), 0))
    return sock


def has_word() -> bool:
    """Whether the standard input has a line, or its end."""
    return bool(select.select([_CONTROL_FD], [], [], 0)[0])


class Storm:
    """Connects and resets, one after the other: no connection is ever waited for."""

    def __init__(self, raid: Raid) -> None:
        self._raid = raid
        self._report = Report()

    def run(self) -> Report:
        begun, index = time.monotonic(), 0
        while time.monotonic() - begun < self._raid.limit:
            if has_word():
                if not os.read(_CONTROL_FD, 100):
                    break
                print(self._report.to_json(), flush=True)
            for _ in range(_BATCH):
                index += 1
                self._strike(index)
        return self._report

    def _strike(self, index: int) -> None:
        counts = self._report.counts
        try:
            sock = bound(self._raid, index, socket.SOCK_STREAM)
        except OSError:
            counts["local"] += 1
            return
        with sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            sock.connect_ex(("127.0.0.1", self._raid.port))
        counts["sent"] += 1


class Datagrams:
    """Sends random datagrams from many sources, and looks at each answer: it must be a question of that source."""

    def __init__(self, raid: Raid) -> None:
        self._raid = raid
        self._report = Report()
        self._random = random.Random(raid.seed)
        self._pool = self._random.randbytes(_POOL_BYTES)
        self._socks = [bound(raid, index, socket.SOCK_DGRAM) for index in range(raid.sources)]
        self._open: list[Counter[int]] = [Counter() for _ in self._socks]
        for sock in self._socks:
            sock.connect(("127.0.0.1", raid.port))

    def run(self) -> Report:
        counts, begun = self._report.counts, time.monotonic()
        while counts["sent"] < self._raid.number and time.monotonic() - begun < self._raid.limit:
            place = int(self._random.random() * len(self._socks))
            for _ in range(min(_BATCH, self._raid.number - counts["sent"])):
                self._send(place)
            self._take(place)
        until = time.monotonic() + _LAST_SECONDS
        while time.monotonic() < until:
            for place in range(len(self._socks)):
                self._take(place)
        print(self._report.to_json(), flush=True)
        os.read(_CONTROL_FD, 100)
        return self._report

    def _send(self, place: int) -> None:
        chance = self._random.random
        size = int(chance() * _LARGE_BYTES) if chance() < _LARGE_SHARE else _SIZES[int(chance() * len(_SIZES))]
        at = int(chance() * (_POOL_BYTES - size))
        text = self._pool[at : at + size]
        try:
            self._socks[place].send(text)
        except OSError:  # this side's buffer is full, or an earlier one could not be delivered
            self._report.counts["local"] += 1
            return
        self._open[place][hash(text)] += 1
        self._report.counts["sent"] += 1
        self._report.counts["sent_bytes"] += size

    def _take(self, place: int) -> None:
        counts, asked = self._report.counts, self._open[place]
        while True:
            try:
                answer = self._socks[place].recv(_MAX_BYTES)
            except BlockingIOError:
                return
            except OSError:
                counts["errors"] += 1
                return
            key = hash(answer)
            counts["answered"] += 1
            counts["received"] += len(answer)
            if asked[key] <= 0:
                counts["unasked"] += 1
            asked[key] -= 1
