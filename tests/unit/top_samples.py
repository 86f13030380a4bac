"""A status as a server gives it, for the tests of `prefork top`."""

from __future__ import annotations

from typing import Any


def worker(slot: int, **more: Any) -> dict[str, Any]:
    row = {"slot": slot, "pid": 100 + slot, "generation": 1, "state": "ready", "connections": 7}
    return {**row, "accepted": 50, "uptime": 61.2, "rss": 23 << 20, "busy": 0.25, "lag": 0.0123, **more}


def status(**more: Any) -> dict[str, Any]:
    bind = {"name": "echo", "bind": "tcp://127.0.0.1:9000", "connections": 14, "accepted": 100}
    return {
        "pid": 99,
        "generation": 3,
        "target": 2,
        "state": "running",
        "workers": [worker(0), worker(1)],
        "listeners": [{**bind, "received_bytes": 1000, "sent_bytes": 2000}],
        "counters": {"accepted": 100, "closed": 86, "errors": 1, "received_bytes": 1000, "sent_bytes": 2000},
        "rejected": {"per_ip": 3, "ban": 0},
        "uptime": 7200.0,
        "ready": True,
        "why": [],
        "last_reload": {"verdict": "committed", "reason": None, "changes": ["workers 1→2"]},
        **more,
    }
