"""Says again what the clients of a capture said, and compares the answers with those that were captured.

Connections follow one another, however many there were at once. Before each chunk the answers are awaited that
came before it; then what depends on them is said in the same order as it was.

Knows: captured connections, sockets, one address. Does not know: the format of captures, protocols of handlers.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prefork.address import parse_address
from prefork.captured import Captured, read_streams
from prefork.client import UsageError
from prefork.errors import PreforkError
from prefork.tls_stream import TlsStream

WAIT_SECONDS = 5.0  # for each step; and a second for each MiB of it
BYTES_PER_SECOND = 1024 * 1024
MAX_PAUSE_SECONDS = 3600.0  # a silence of more than an hour is replayed as an hour
RECEIVE_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Target:
    """Who is spoken to.

    Attributes:
        tls: None: plain.
    """

    host: str
    port: int
    tls: ssl.SSLContext | None = None

    def connect(self, is_datagram: bool) -> tuple[socket.socket, TlsStream | None]:
        """Return a connected socket that does not block, and the TLS on it, if there is any.

        Raises:
            PreforkError: nobody is there, or TLS is refused.
        """
        where = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        try:
            sock, tls = (self._connect_datagrams(), None) if is_datagram else self._connect()
        except (OSError, ValueError) as error:  # ValueError: names that IDNA or TLS refuse
            raise PreforkError(f"cannot connect to {where}: {error}") from error
        sock.setblocking(False)
        return sock, tls

    def _connect(self) -> tuple[socket.socket, TlsStream | None]:
        sock = socket.create_connection((self.host, self.port), WAIT_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.tls is None:
            return sock, None
        try:
            return sock, TlsStream(sock, self.tls, self.host)
        except (OSError, ValueError):
            sock.close()
            raise

    def _connect_datagrams(self) -> socket.socket:
        family, kind, protocol, _, address = socket.getaddrinfo(
            self.host, self.port, type=socket.SOCK_DGRAM, proto=socket.IPPROTO_UDP
        )[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.connect(address)
        except OSError:
            sock.close()
            raise
        return sock


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one connection.

    Attributes:
        difference: the first byte of the answers that is not as it was, from 0 on; None: they are identical.
        why: the connection ended early, or an answer did not come; an empty string if nothing of that.
    """

    sent: int
    received: int
    difference: int | None
    why: str

    def __str__(self) -> str:
        verdict = "identical" if self.difference is None else f"different at byte {self.difference}"
        why = f": {self.why}" if self.why else ""
        return f"sent {self.sent} bytes, received {self.received}: {verdict}{why}"


class _EndedError(Exception):
    """It makes no sense to go on."""


class _Line:
    """A socket that never blocks, with TLS or without."""

    __slots__ = ("_events", "_is_output_ended", "_socket")

    def __init__(self, sock: socket.socket | TlsStream) -> None:
        self._socket = sock
        self._events = 0
        self._is_output_ended = False

    def send(self, data: memoryview) -> int | None:
        """Return how much was sent; None: nothing now."""
        try:
            return self._socket.send(data)
        except BlockingIOError:
            self._events |= select.POLLOUT
            return None

    def receive(self) -> bytes | None:
        """Return what has come; None: nothing now."""
        try:
            return self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return None

    def end_output(self) -> None:
        """Say the last byte, once; answers may follow."""
        if not self._is_output_ended:
            self._is_output_ended = True
            self._socket.shutdown(socket.SHUT_WR)

    def wait(self, seconds: float) -> None:
        """Wait until it makes sense to try again, or for so long."""
        if isinstance(self._socket, TlsStream) and self._socket.is_blocked:
            self._events |= select.POLLOUT
        poll = select.poll()
        poll.register(self._socket, self._events | select.POLLIN)
        poll.poll(max(seconds, 0) * 1000)
        self._events = 0


class _Conversation:
    """One connection as it is said again."""

    __slots__ = ("_captured", "_difference", "_expected", "_is_over", "_line", "received", "sent")

    def __init__(self, line: _Line, captured: Captured) -> None:
        self.sent = self.received = 0
        self._line, self._captured = line, captured
        self._expected = b"".join(chunk.data for chunk in captured.chunks if not chunk.is_received)
        self._difference: int | None = None
        self._is_over = False  # the server has said its last byte

    def run(self, speed: float | None) -> Outcome:
        """Say everything; return how the answers were.

        Args:
            speed: how many times faster than it was; None: without pauses.
        """
        why = ""
        try:
            self._follow(speed)
        except _EndedError as error:
            why = str(error)
        except OSError as error:
            why = f"the connection broke: {error}"
        else:
            self._listen_to_the_end()
        difference = self._difference
        return Outcome(self.sent, self.received, self.received if why and difference is None else difference, why)

    def _follow(self, speed: float | None) -> None:
        wanted, before_ns = 0, None
        for chunk in self._captured.chunks:
            if chunk.is_received:
                self._step(b"", wanted)
                if speed is not None and before_ns is not None:
                    time.sleep(min(max(chunk.at_ns - before_ns, 0) / 1e9 / speed, MAX_PAUSE_SECONDS))
                self._say(chunk.data)
            else:
                wanted += len(chunk.data)
            before_ns = chunk.at_ns
        self._step(b"", wanted)

    def _say(self, data: bytes) -> None:
        if data:
            self._step(data, 0)
        elif self._captured.is_datagram:  # it may be empty
            self._line.send(memoryview(data))
        else:
            self._line.end_output()

    def _step(self, data: bytes, wanted: int) -> None:
        """Send all this, and go on until so many bytes have come in all."""
        size = len(data) + max(wanted - self.received, 0)
        deadline = time.monotonic() + WAIT_SECONDS + size / BYTES_PER_SECOND
        view = memoryview(data)
        while view or self.received < wanted:
            if self._is_over:
                raise _EndedError("the server ended the connection")
            left = deadline - time.monotonic()
            if left < 0:
                what = (
                    f"it took no more for {WAIT_SECONDS:g} s" if view else f"no answer within {WAIT_SECONDS:g} s"
                )
                raise _EndedError(what)
            count = self._line.send(view) if view else None
            view = view[count or 0 :]
            self.sent += count or 0
            if not self._take() and not count:
                self._line.wait(left)

    def _take(self) -> bool:
        """Receive once; return whether something has come."""
        data = self._line.receive()
        if data is None:
            return False
        if not data and not self._captured.is_datagram:
            self._is_over = True
        expected = self._expected[self.received : self.received + len(data)]
        if self._difference is None and data != expected:
            pairs = enumerate(zip(data, expected, strict=False))
            same = next((place for place, (one, other) in pairs if one != other), len(expected))
            self._difference = self.received + same
        self.received += len(data)
        return True

    def _listen_to_the_end(self) -> None:
        """Take what is said beyond the captured answers; one byte more is a difference."""
        try:
            if self._captured.end is None:  # the next answer may be to what is not in the capture
                self._take()
            else:
                self._line.end_output()
                self._drain(time.monotonic() + WAIT_SECONDS)
        except OSError:  # it ends as it likes: all that was captured has been answered
            pass

    def _drain(self, deadline: float) -> None:
        while not self._is_over and self.received <= len(self._expected):
            left = deadline - time.monotonic()
            if left <= 0:
                return
            if not self._take():
                self._line.wait(left)


def replay(
    connections: Iterable[Captured], target: Target, speed: float | None
) -> Iterator[tuple[Captured, Outcome]]:
    """Say connections again, one after the other; yield each with what became of it.

    Args:
        speed: how many times faster than they were, within each; None: without pauses.

    Raises:
        PreforkError: nobody is there any more.
    """
    for captured in connections:
        sock, tls = target.connect(captured.is_datagram)
        with sock:
            yield captured, _Conversation(_Line(tls or sock), captured).run(speed)


# --- the command ---


def run_replay(path: str, to: str, is_tls: bool, number: int | None, speed: float | None) -> bool:
    """Replay a file and report it; return whether all answers are identical.

    Args:
        to: HOST:PORT.
        number: of the one connection that is meant; None: all.

    Raises:
        UsageError: the address, the file or the number is no good.
        PreforkError: the file was not written by prefork, or nobody is there.
    """
    target = _read_target(to, is_tls)
    chosen = [one for one in _read(path) if number in (None, one.number)]
    if not chosen:
        raise UsageError(f"{path} has no connection" + ("" if number is None else f" {number}"))
    if is_tls and any(one.is_datagram for one in chosen):
        raise UsageError("datagrams cannot be said over TLS; choose a connection with --conn")
    identical = 0
    for captured, outcome in replay(chosen, target, speed):
        identical += outcome.difference is None
        print(f"connection {captured.number} ({_describe(captured)}): {outcome}", flush=True)
    print(f"{identical} of {len(chosen)} identical")
    return identical == len(chosen)


def _read_target(to: str, is_tls: bool) -> Target:
    try:
        address = parse_address(f"tcp://{to}")
    except ValueError as error:
        raise UsageError(f"the address is written HOST:PORT, not {to!r}: {error}") from error
    if not address.port:
        raise UsageError(f"{to!r} names no port")
    return Target(address.host, address.port, ssl.create_default_context() if is_tls else None)


def _read(path: str) -> list[Captured]:
    try:
        with open(path, "rb") as file:
            return read_streams(file)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def _describe(captured: Captured) -> str:
    """Return whose connection it was; a comment may have come from anywhere, and a terminal obeys its controls."""
    parts = (captured.listener, f"{captured.peer[0]} {captured.peer[1]}", captured.comment)
    text = ", ".join(filter(None, parts))
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
