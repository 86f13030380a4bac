"""Tells the kernel which of a group of SO_REUSEPORT sockets a new connection goes to.

A classic BPF program (SO_ATTACH_REUSEPORT_CBPF, socket(7)) returns an index into the group, whose order is
that of listen(2). Programs are attached without privileges and replaced under load.

Knows: BPF instructions. Does not know: slots, workers, why some are left out.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Sequence

SO_ATTACH_FILTER = 26
SO_ATTACH_REUSEPORT_CBPF = 51
LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
LOAD_BYTE = 0x30  # BPF_LD | BPF_B | BPF_ABS
MODULO = 0x94  # BPF_ALU | BPF_MOD | BPF_K
AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
RETURN = 0x06  # BPF_RET | BPF_K
RETURN_ACCUMULATOR = 0x16  # BPF_RET | BPF_A
RANDOM = 0xFFFFF000 + 56  # SKF_AD_OFF + SKF_AD_RANDOM, linux/filter.h
MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS
TCP_FLAGS_OFFSET = 13  # RFC 9293, 3.1; a filter on a TCP socket sees the segment from its header on
SYN_AND_ACK, SYN = 0x12, 0x02

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant


def spread(indices: Sequence[int]) -> list[Instruction]:
    """Return a program that picks one of some indices by chance, each as often as it is named."""
    program: list[Instruction] = [(LOAD_WORD, 0, 0, RANDOM), (MODULO, 0, 0, len(indices))]
    if list(indices) == list(range(len(indices))):
        return [*program, (RETURN_ACCUMULATOR, 0, 0, 0)]
    for place, index in enumerate(indices):
        program += [(JUMP_EQUAL, 0, 1, place), (RETURN, 0, 0, index)]
    return [*program, (RETURN, 0, 0, indices[0])]


def attach(sock: socket.socket, program: Sequence[Instruction]) -> bool:
    """Steer the group of a socket; return False if the kernel refuses."""
    return _set(sock, SO_ATTACH_REUSEPORT_CBPF, program)


def drop_handshakes(sock: socket.socket) -> bool:
    """Drop new SYNs to a listening socket, and nothing else; a client tries again and is then refused."""
    program = [
        (LOAD_BYTE, 0, 0, TCP_FLAGS_OFFSET),
        (AND, 0, 0, SYN_AND_ACK),
        (JUMP_EQUAL, 0, 1, SYN),
        (RETURN, 0, 0, 0),
        (RETURN, 0, 0, 0xFFFFFFFF),
    ]
    return _set(sock, SO_ATTACH_FILTER, program)


def _set(sock: socket.socket, option: int, program: Sequence[Instruction]) -> bool:
    if len(program) > MAX_INSTRUCTIONS:
        return False
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    try:
        sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("@HP", len(program), ctypes.addressof(code)))
    except OSError:  # kernels before 4.5, gVisor
        return False
    return True
