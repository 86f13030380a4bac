"""A stand-in for the admin process: the dashboard's page, a stream by a script, and a list of connections.

Knows: HTTP as far as http.server does, the JSON of the admin process. Does not know: browsers.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "prefork" / "admin" / "dashboard.html"
NONCE = "c2FtcGxl"
POLICY = (
    f"default-src 'none'; script-src 'nonce-{NONCE}'; style-src 'nonce-{NONCE}'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
DAY = 86_400
Event = tuple[str, dict[str, Any]]


def worker(slot: int, **changes: Any) -> dict[str, Any]:
    row = {"slot": slot, "pid": 4200 + slot, "generation": 3, "state": "ready", "connections": 120 + slot}
    row |= {"accepted": 5000, "uptime": 8000.0, "rss": 34_000_000, "busy": 0.42, "lag": 0.0031}
    return row | changes


def status(second: float = 0.0, received: int = 0, **changes: Any) -> dict[str, Any]:
    """Return what the server says of itself, a number of seconds after a beginning."""
    counters = {
        "accepted": 9000 + 40 * second,
        "closed": 8500 + 38 * second,
        "errors": 3,
        "cut": 0,
        "timed_out": 7,
    }
    counters |= {"broken": 12, "handshakes": 4100, "received_bytes": received, "sent_bytes": 3 * received}
    listener = {"name": "api", "bind": "tcp://0.0.0.0:9000", "connections": 486, "accepted": 9000, "closed": 8500}
    told = {"pid": 4199, "generation": 3, "target": 4, "state": "running", "version": "0.1.0"}
    told |= {"uptime": 8000.0 + second, "ready": True, "why": [], "workers": [worker(slot) for slot in range(4)]}
    told |= {
        "listeners": [listener | {"received_bytes": received, "sent_bytes": 3 * received}],
        "counters": counters,
    }
    told |= {"rejected": {"deny": 0, "per_ip": 17}, "dry_run": {"per_ip": 0, "rate": 5}, "bans": []}
    told |= {"last_reload": {"verdict": None, "reason": None, "changes": []}, "certificates": []}
    return told | changes


def record(number: int, text: str, level: str = "info") -> Event:
    stamp = f"2026-11-22T20:{number // 60 % 60:02}:{number % 60:02}.000000Z"
    return "log", {"id": number, "ts": stamp, "level": level, "msg": text}


def connection(number: int, peer: str, received: int) -> dict[str, Any]:
    row = {"id": f"0-{number}", "listener": "api", "slot": number % 4, "peer": peer, "age": 100.0, "idle": 0.4}
    return row | {"received": received, "sent": 2 * received}


class AdminStub:
    """What the pages answer, and what the stream says next; None ends the streams that are open.

    Attributes:
        url: where the page is.
        asked: the paths that were asked for, each with its Host.
    """

    def __init__(self) -> None:
        self.url = ""
        self.conns: tuple[int, Any] = (200, [])
        self.asked: list[tuple[str, str]] = []
        self._streams: list[queue.SimpleQueue[Event | None]] = []
        self._told: list[Event] = []
        self._is_open = True
        self._lock = threading.Lock()

    def tell(self, *events: Event) -> None:
        """Say something to whoever listens now, and at once to whoever comes later."""
        with self._lock:
            self._told += events
            for stream in self._streams:
                for event in events:
                    stream.put(event)

    def open_stream(self) -> queue.SimpleQueue[Event | None] | None:
        """Return what a new stream will say; None: it is refused."""
        with self._lock:
            if not self._is_open:
                return None
            stream: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
            self._streams.append(stream)
            for event in self._told:
                stream.put(event)
            return stream

    def shut(self) -> None:
        """End the streams, and refuse others."""
        with self._lock:
            self._is_open = False
            for stream in self._streams:
                stream.put(None)
            self._streams.clear()

    def reopen(self) -> None:
        with self._lock:
            self._is_open = True


class _Answer(BaseHTTPRequestHandler):
    stub: AdminStub

    def answer(self) -> None:
        self.stub.asked.append((self.path, self.headers["Host"]))
        if self.path == "/":
            page = PAGE.read_text("utf-8").replace("{{nonce}}", NONCE)
            self._reply(200, "text/html; charset=utf-8", page.encode())
        elif self.path == "/conns.json":
            code, rows = self.stub.conns
            self._reply(code, "application/json", json.dumps(rows).encode())
        elif self.path == "/events" and (stream := self.stub.open_stream()):
            self._stream(stream)
        else:
            self._reply(503, "application/json", b'{"error": "not now"}')

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _reply(self, code: int, kind: str, body: bytes) -> None:
        self.send_response(code)
        for name, value in (("Content-Type", kind), ("Content-Length", str(len(body)))):
            self.send_header(name, value)
        self.send_header("Content-Security-Policy", POLICY)
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, stream: queue.SimpleQueue[Event | None]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        try:
            while event := stream.get():
                self.wfile.write(f"event: {event[0]}\ndata: {json.dumps(event[1])}\n\n".encode())
        except OSError:  # the browser went
            pass


@contextmanager
def serving() -> Iterator[AdminStub]:
    """Serve the page on a free port of this machine."""
    stub = AdminStub()
    answer = type("Answer", (_Answer,), {"stub": stub, "do_GET": _Answer.answer})
    with ThreadingHTTPServer(("127.0.0.1", 0), answer) as server:
        server.daemon_threads = True
        stub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield stub
        finally:
            stub.shut()
            server.shutdown()
            thread.join()


def certificate(subject: str, days: float) -> dict[str, Any]:
    return {"listener": "api", "subject": subject, "ends_at": time.time() + days * DAY}
