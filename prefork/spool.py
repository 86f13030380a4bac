"""What is said on connections that are captured, on its way from the workers to the one who makes a file of it.

Workers append batches to a file without a name, each by one write(2) with O_APPEND. To make packets of what is
said takes longer than to say it: so that is left to the reader, and a worker writes down the bytes alone.

Knows: batches of events. Does not know: connections, packets, why anybody wants to know.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Iterator
from enum import IntEnum

from prefork.errors import RemoteProtocolError

MARK = 0x7066_7370
MAX_BATCH_BYTES = 1 << 28
_HEAD = struct.Struct("=IIQQ")  # mark, events, who, bytes of what was said
_EVENT_BYTES = 24
MAX_PARTS = 1000  # IOV_MAX is 1024, sysconf(3)


class Event(IntEnum):
    """What can happen to a connection; what is told with it."""

    OPENED = 0  # who it is: a JSON object
    RECEIVED = 1  # what the peer said
    SENT = 2  # what it was told
    INPUT_ENDED = 3
    CLOSED = 4  # the reason


Told = tuple[Event, int, int, bytes]  # what, the number of the connection, ns since 1970, what is told with it


class Batch:
    """Events that wait to be written together.

    Attributes:
        events: three numbers of each: `sign`, ns since 1970, bytes of `told`.
        told: what is told with each.
    """

    __slots__ = ("_who", "events", "told")

    def __init__(self, who: int) -> None:
        """Begin.

        Args:
            who: writes them; with the number of a connection that is its name in the file.
        """
        self._who = who
        self.events: list[int] = []
        self.told: list[bytes] = []

    def add(self, signed: int, at_ns: int, told: bytes) -> None:
        self.events += (signed, at_ns, len(told))
        self.told.append(told)

    def take(self) -> tuple[int, list[bytes]]:
        """Return the size of what is written, in bytes, and its parts, for writev(2); begin anew."""
        count, events = len(self.told), array("Q", self.events).tobytes()
        told = self.told[:] if count <= MAX_PARTS else [b"".join(self.told)]
        self.events.clear()
        self.told.clear()
        size = sum(map(len, told))
        head = _HEAD.pack(MARK, count, self._who, size)
        return len(head) + len(events) + size, [head, events, *told]


def sign(event: Event, number: int) -> int:
    """Return the first number of an event of a connection."""
    return number << 3 | event


def read_batches(fd: int, offset: int) -> Iterator[tuple[int, int, list[Told]]]:
    """Return the batches behind an offset that are whole: where each ends, who wrote it, its events.

    Raises:
        RemoteProtocolError: there is something else.
    """
    while len(head := os.pread(fd, _HEAD.size, offset)) == _HEAD.size:
        mark, count, who, size = _HEAD.unpack(head)
        whole = count * _EVENT_BYTES + size
        if mark != MARK or whole > MAX_BATCH_BYTES:
            raise RemoteProtocolError(f"cannot read what was captured: at byte {offset} there is no batch")
        data = os.pread(fd, whole, offset + _HEAD.size)
        if len(data) < whole:
            return
        offset += _HEAD.size + whole
        yield offset, who, list(_unpack(data, count))


def _unpack(data: bytes, count: int) -> Iterator[Told]:
    numbers = array("Q", data[: count * _EVENT_BYTES])
    at = count * _EVENT_BYTES
    for place in range(0, 3 * count, 3):
        signed, at_ns, size = numbers[place : place + 3]
        if at + size > len(data) or signed & 7 > Event.CLOSED:
            raise RemoteProtocolError("cannot read what was captured: a batch contradicts itself")
        yield Event(signed & 7), signed >> 3, at_ns, data[at : at + size]
        at += size
