"""An interpreter of classic BPF, as the kernel runs it to pick a socket of a SO_REUSEPORT group.

It is written after bpf(4) and linux/filter.h, not after the programs that it is to check.

Knows: instructions, headers of IP and UDP. Does not know: what a program is for, tables, sockets.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from dataclasses import dataclass

Instruction = tuple[int, int, int, int]
WORD = 0xFFFFFFFF
NETWORK_OFFSET = -0x100000  # SKF_NET_OFF
LOAD, LOAD_X, STORE, STORE_X, ALU, JUMP, RETURN, MISC = range(8)  # BPF_CLASS
SIZES = {0x00: 4, 0x08: 2, 0x10: 1}  # BPF_W, BPF_H, BPF_B
IMMEDIATE, ABSOLUTE, INDIRECT, MEMORY, LENGTH, LOW_HALF = 0x00, 0x20, 0x40, 0x60, 0x80, 0xA0  # BPF_MODE
CELLS = 16  # BPF_MEMWORDS


@dataclass(frozen=True, slots=True)
class Packet:
    """A datagram as a program sees it: the payload at 0, the headers of IP at SKF_NET_OFF."""

    headers: bytes
    payload: bytes

    def read(self, offset: int, size: int) -> int | None:
        """Return a number in network order; None: it lies outside, at which a program ends with 0."""
        if offset < 0:
            data, offset = self.headers + self.payload, offset - NETWORK_OFFSET
        else:
            data = self.payload
        found = data[offset : offset + size] if offset >= 0 else b""
        return int.from_bytes(found, "big") if len(found) == size else None


def datagram(source: str, port: int, payload: bytes = b"", options: bytes = b"") -> Packet:
    """Return a datagram to port 9 of somebody.

    Args:
        options: of the IPv4 header, RFC 791: a multiple of four bytes.
    """
    address = ipaddress.ip_address(source)
    udp = struct.pack("!HHHH", port, 9, 8 + len(payload), 0xABCD)
    if address.version == 6:
        head = struct.pack("!IHBB", 0x60012345, len(udp) + len(payload), 17, 64)
        return Packet(head + address.packed + ipaddress.ip_address("2001:db8::9").packed + udp, payload)
    words = 5 + len(options) // 4
    size = 4 * words + len(udp) + len(payload)
    head = struct.pack("!BBHHHBBH", 0x40 | words, 0, size, 0x1234, 0, 64, 17, 0xCDEF)
    return Packet(head + address.packed + bytes((192, 0, 2, 9)) + options + udp, payload)


class Machine:
    """The registers of one run."""

    def __init__(self, program: Sequence[Instruction], packet: Packet) -> None:
        self.program = program
        self.packet = packet
        self.a = self.x = self.place = self.steps = 0
        self.memory: list[int | None] = [None] * CELLS
        self.result: int | None = None

    def run(self) -> int:
        while self.result is None:
            code, if_true, if_false, constant = self.program[self.place]
            self.place += 1
            self.steps += 1
            kind = code & 0x07
            if kind in (LOAD, LOAD_X):
                self._load(code, constant)
            elif kind in (STORE, STORE_X):
                self.memory[constant] = self.a if kind == STORE else self.x
            elif kind == ALU:
                self.a = self._compute(code & 0xF0, self.x if code & 0x08 else constant)
            elif kind == JUMP:
                self._jump(code, if_true, if_false, constant)
            elif kind == RETURN:
                self.result = self.a if code & 0x18 == 0x10 else constant
            elif code & 0xF8 == 0x80:  # BPF_TXA
                self.a = self.x
            else:
                self.x = self.a
        return self.result

    def _load(self, code: int, constant: int) -> None:
        mode, size = code & 0xE0, SIZES[code & 0x18]
        signed = constant - (1 << 32) if constant >> 31 else constant
        found: int | None
        if mode == IMMEDIATE:
            found = constant
        elif mode == LENGTH:
            found = len(self.packet.payload)
        elif mode == MEMORY:
            found = self.memory[constant]
            assert found is not None, f"the cell {constant} is read before it is written"
        elif mode == LOW_HALF:
            found = self.packet.read(signed, 1)
            found = None if found is None else 4 * (found & 0x0F)
        else:
            assert mode in (ABSOLUTE, INDIRECT)
            found = self.packet.read(signed + (self.x if mode == INDIRECT else 0), size)
        if found is None:
            self.result = 0
        elif code & 0x07 == LOAD:
            self.a = found
        else:
            self.x = found

    def _compute(self, operation: int, value: int) -> int:
        a = self.a
        results = {0x00: a + value, 0x10: a - value, 0x20: a * value, 0x40: a | value, 0x50: a & value}
        results |= {0x60: a << (value & 31), 0x70: a >> (value & 31), 0xA0: a ^ value}
        if operation == 0x90:
            return a % value
        return results[operation] & WORD

    def _jump(self, code: int, if_true: int, if_false: int, constant: int) -> None:
        operation, value = code & 0xF0, self.x if code & 0x08 else constant
        if operation == 0x00:
            self.place += constant
            return
        holds = {0x10: self.a == value, 0x20: self.a > value, 0x30: self.a >= value, 0x40: bool(self.a & value)}
        self.place += if_true if holds[operation] else if_false


def run(program: Sequence[Instruction], packet: Packet) -> int:
    """Return what a program says to a packet."""
    return Machine(program, packet).run()


def count_steps(program: Sequence[Instruction], packet: Packet) -> int:
    """Return how many instructions a program needs for a packet."""
    machine = Machine(program, packet)
    machine.run()
    return machine.steps
