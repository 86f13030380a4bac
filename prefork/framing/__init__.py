"""Framings: how a stream is cut into frames, without input or output of their own.

A framing is a value with a limit; its decoder keeps what is not a whole frame yet. Both sides of a connection
can use it: `decoder().feed(data)` gives the frames, `encode(frame)` the bytes.

Knows: the framings' names. Does not know: connections, timeouts, what a frame means.
"""

from prefork.framing.decoder import Complaint, Decoder, Framing, Over
from prefork.framing.json_lines import JsonLines
from prefork.framing.lines import Lines
from prefork.framing.prefixed import Fixed, Length, Netstring, Varint

__all__ = [
    "Complaint",
    "Decoder",
    "Fixed",
    "Framing",
    "JsonLines",
    "Length",
    "Lines",
    "Netstring",
    "Over",
    "Varint",
]
