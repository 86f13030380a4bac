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
_MARK = struct.pack("=I", MARK)
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

    A writer that is killed in the middle of write(2) leaves a part of a batch, and another's comes behind it: what
    is not followed by a batch is none, and the next one is looked for.

    Raises:
        RemoteProtocolError: a batch contradicts itself.
    """
    while True:
        batch = _read_batch(fd, offset)
        if batch is None:
            offset = _find_batch(fd, offset + 1)
            if offset < 0:
                return
            continue
        who, count, data = batch
        offset += _HEAD.size + len(data)
        yield offset, who, list(_unpack(data, count))


def _read_batch(fd: int, offset: int) -> tuple[int, int, bytes] | None:
    """Return who wrote the batch at an offset, its number of events, its data; None: there is none whole."""
    head = os.pread(fd, _HEAD.size, offset)
    mark, count, who, size = _HEAD.unpack(head) if len(head) == _HEAD.size else (0, 0, 0, 0)
    whole = count * _EVENT_BYTES + size
    if mark != MARK or whole > MAX_BATCH_BYTES:
        return None
    data = os.pread(fd, whole + len(_MARK), offset + _HEAD.size)
    return (who, count, data[:whole]) if len(data) >= whole and _MARK.startswith(data[whole:]) else None


def _find_batch(fd: int, offset: int) -> int:
    """Return where a whole batch begins behind one that is not whole, or not yet; negative: nowhere."""
    rest = os.pread(fd, MAX_BATCH_BYTES, offset)
    at = rest.find(_MARK)
    while at >= 0 and _read_batch(fd, offset + at) is None:
        at = rest.find(_MARK, at + 1)
    return offset + at if at >= 0 else -1


def _unpack(data: bytes, count: int) -> Iterator[Told]:
    numbers = array("Q", data[: count * _EVENT_BYTES])
    at = count * _EVENT_BYTES
    for place in range(0, 3 * count, 3):
        signed, at_ns, size = numbers[place : place + 3]
        if at + size > len(data) or signed & 7 > Event.CLOSED:
            raise RemoteProtocolError("cannot read what was captured: a batch contradicts itself")
        yield Event(signed & 7), signed >> 3, at_ns, data[at : at + size]
        at += size
