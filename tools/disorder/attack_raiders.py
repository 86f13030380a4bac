"""One process of attackers: `python -m tools.disorder.attack_raiders RAID` does what the raid says.

A line on its standard input asks for a report of now, as a line of JSON; the end of that input ends the raid, and
the last report is printed.

Knows: when an attacker connects, sends a byte, takes a byte; how it learns that it was ended.
Does not know: the server's processes, goals.
"""

from __future__ import annotations

import errno
import heapq
import os
import resource
import select
import signal
import socket
import sys
import time
from itertools import count

from tools.disorder.attack_floods import Datagrams, Storm, bound
from tools.disorder.attack_plan import GO, READY, Manner, Raid, Report

_CONTROL_FD = 0
_NICER = 10  # the good client beside it comes first: it is the server that is to be measured
_AT_A_TIME = 64  # connections between two looks at what has come
_READ_BYTES = 65_536
_ENDS = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class Raider:
    """One connection of an attacker."""

    __slots__ = ("begun", "fd", "index", "sent", "sock")

    def __init__(self, raid: Raid, index: int) -> None:
        self.index = index
        self.sent = 0
        self.sock = bound(raid, index, socket.SOCK_STREAM)
        self.fd = self.sock.fileno()
        if raid.receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, raid.receive_buffer)
        self.begun = time.monotonic()
        code = self.sock.connect_ex(("127.0.0.1", raid.port))
        if code not in (0, errno.EINPROGRESS):
            self.sock.close()
            raise OSError(code, os.strerror(code))


class Raiders:
    """All connections of one raid."""

    def __init__(self, raid: Raid) -> None:
        self.raid = raid
        self.report = Report()
        self._texts = [bytes.fromhex(text) for text in raid.texts]
        self._epoll = select.epoll()
        self._raiders: dict[int, Raider] = {}
        self._agenda: list[tuple[float, int, Raider | None]] = []
        self._sequence = count()
        self._left = raid.number
        self._opened = 0
        self._begun = time.monotonic()
        self._is_stopping = False

    def run(self) -> Report:
        """Go on until the standard input is closed, or the raid's time is over."""
        self._epoll.register(_CONTROL_FD, select.EPOLLIN)
        self._schedule(self._begun, None)
        while not self._is_stopping and time.monotonic() - self._begun < self.raid.limit:
            for fd, mask in self._epoll.poll(self._pause(), 1024):
                if fd == _CONTROL_FD:
                    self._on_order()
                elif fd in self._raiders:
                    self._on_event(self._raiders[fd], mask)
            self._run_due(time.monotonic())
        self.report.counts["open"] = len(self._raiders)
        for raider in self._raiders.values():
            raider.sock.close()
        return self.report

    def _schedule(self, when: float, raider: Raider | None) -> None:
        heapq.heappush(self._agenda, (when, next(self._sequence), raider))

    def _pause(self) -> float:
        due = self._agenda[0][0] if self._agenda else self._begun + self.raid.limit
        return max(0.0, due - time.monotonic())

    def _run_due(self, now: float) -> None:
        while self._agenda and self._agenda[0][0] <= now:
            when, _, raider = heapq.heappop(self._agenda)
            if raider is None:
                self._open_some(when, now)
                return
            if self._raiders.get(raider.fd) is raider:
                self._go_on(raider, when)

    def _on_order(self) -> None:
        if not os.read(_CONTROL_FD, 100):
            self._is_stopping = True
            return
        counts = Report(self.report.counts.copy(), [])
        counts.counts["open"] = len(self._raiders)
        print(counts.to_json(), flush=True)

    # --- one connection ---

    def _open_some(self, when: float, now: float) -> None:
        """Open those that are due, and come back for the next."""
        rate = self.raid.rate
        due = min(self._left, _AT_A_TIME if not rate else min(_AT_A_TIME, 1 + int((now - when) * rate)))
        for _ in range(due):
            self._open(self._opened)
            self._opened += 1
        self._left -= due
        if self._left:
            self._schedule(when + due / rate if rate else now, None)

    def _open(self, index: int) -> None:
        try:
            raider = Raider(self.raid, index)
        except OSError as error:
            self.report.counts["refused" if error.errno == errno.ECONNREFUSED else "local"] += 1
            return
        self._raiders[raider.fd] = raider
        self._epoll.register(raider.fd, select.EPOLLOUT)

    def _on_event(self, raider: Raider, mask: int) -> None:
        if mask & select.EPOLLOUT:
            self._on_connected(raider)
        elif mask & _ENDS and self.raid.manner is Manner.SIP:
            self._on_ended(raider)
        else:
            self._on_readable(raider)

    def _on_connected(self, raider: Raider) -> None:
        code = raider.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code == errno.ECONNREFUSED:
            self.report.counts["refused"] += 1
            self._drop(raider)
            return
        self.report.counts["connected"] += 1
        if code:
            self._on_ended(raider)
            return
        is_sipping = self.raid.manner is Manner.SIP
        self._epoll.modify(raider.fd, _ENDS if is_sipping else select.EPOLLIN | select.EPOLLRDHUP)
        self._begin(raider)

    def _begin(self, raider: Raider) -> None:
        text = self._texts[raider.index % len(self._texts)]
        if text:
            raider.begun = time.monotonic()
            self._send(raider, text[: self.raid.begin or len(text)] if self.raid.every else text)
        if self.raid.manner is Manner.SIP:
            self._schedule(raider.begun + 1, raider)
        elif text and self.raid.every:  # no two at the same time
            share = raider.index * 0.618034 % 1
            self._schedule(raider.begun + self.raid.every * share, raider)

    def _send(self, raider: Raider, data: bytes) -> None:
        try:
            raider.sent += raider.sock.send(data)
            self.report.counts["sent"] += len(data)
        except BlockingIOError:
            pass  # an attacker has time
        except OSError:
            self._on_ended(raider)

    def _go_on(self, raider: Raider, when: float) -> None:
        """Send or take the next few bytes."""
        if self.raid.manner is Manner.SIP:
            self._take(raider, self.raid.sip_bytes)
            self._schedule(when + 1, raider)
            return
        text = self._texts[raider.index % len(self._texts)]
        if raider.sent < len(text):
            self._send(raider, text[raider.sent : raider.sent + 1])
            self._schedule(when + self.raid.every, raider)

    def _take(self, raider: Raider, size: int) -> bool:
        """Read; return whether the connection goes on."""
        try:
            data = raider.sock.recv(size)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        if not data:
            self._on_ended(raider)
            return False
        self.report.counts["received"] += len(data)
        return True

    def _on_readable(self, raider: Raider) -> None:
        self._take(raider, _READ_BYTES)

    def _on_ended(self, raider: Raider) -> None:
        """The server has ended it."""
        if raider.fd not in self._raiders:
            return
        self.report.counts["ended"] += 1
        self.report.lives.append(round((time.monotonic() - raider.begun) * 1000, 1))
        self._drop(raider)

    def _drop(self, raider: Raider) -> None:
        del self._raiders[raider.fd]
        raider.sock.close()


def main() -> None:
    raid = Raid.from_json(sys.argv[1])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.alarm(int(raid.limit) + 10)
    os.nice(_NICER)
    os.write(1, READY)
    if os.read(0, len(GO)) != GO:  # who mustered us has gone
        return
    print(_crowd(raid).run().to_json(), flush=True)


def _crowd(raid: Raid) -> Raiders | Storm | Datagrams:
    if raid.manner is Manner.STORM:
        return Storm(raid)
    return Datagrams(raid) if raid.manner is Manner.DATAGRAM else Raiders(raid)


if __name__ == "__main__":
    main()
