"""prefork: a preforking socket server that loses no connection.

What handlers need is here; it is imported when it is first asked for, so that a health probe does not pay
for an event loop.

Knows: the public names. Does not know: anything else.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # as `typing` has it, whose import would be a fifth of a probe's CPU
if TYPE_CHECKING:
    from typing import Any

    from prefork.errors import (
        FrameLimitError,
        LocalProtocolError,
        PreforkError,
        ProtocolError,
        RemoteProtocolError,
    )
    from prefork.framing import Fixed, JsonLines, Length, Lines, Netstring, Over, Varint
    from prefork.metrics import counter, gauge, histogram
    from prefork.net.connection import Connection
    from prefork.net.datagrams import Reply

__all__ = [
    "Connection",
    "Reply",
    "Lines",
    "Length",
    "Varint",
    "Netstring",
    "Fixed",
    "JsonLines",
    "Over",
    "counter",
    "gauge",
    "histogram",
    "PreforkError",
    "ProtocolError",
    "LocalProtocolError",
    "RemoteProtocolError",
    "FrameLimitError",
]
__version__ = "0.1.0"

_FRAMINGS = ("Lines", "Length", "Varint", "Netstring", "Fixed", "JsonLines", "Over")
_HOMES = {
    "Connection": "prefork.net.connection",
    "Reply": "prefork.net.datagrams",
    **dict.fromkeys(("counter", "gauge", "histogram"), "prefork.metrics"),
    **dict.fromkeys(_FRAMINGS, "prefork.framing"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'prefork' has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "prefork.errors")), name)
