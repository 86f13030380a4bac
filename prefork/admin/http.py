"""HTTP/1.1 of the admin process: requests read and answered by h11, which knows RFC 9112.

Knows: one connection, h11. Does not know: paths, what is answered.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import h11

from prefork import Connection

MAX_HEAD_BYTES = 16_384
MAX_BODY_BYTES = 16_384
REQUEST_SECONDS = 10.0  # for the first request; and for any that has begun
KEPT_SECONDS = 120.0  # between two requests


@dataclass(frozen=True, slots=True)
class Request:
    """What a client wants; names of headers are in small letters."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Response:
    """What it gets; with `stream` the body comes piece by piece, to the end of the connection."""

    status: int
    content_type: str = "text/plain; charset=utf-8"
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = field(default=())
    stream: AsyncIterator[bytes] | None = None


Answer = Callable[[Request], Awaitable[Response]]


async def serve_http(conn: Connection, answer: Answer) -> None:
    """Serve one connection, request after request."""
    http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
    seconds = REQUEST_SECONDS
    while True:
        try:
            async with conn.timeout(REQUEST_SECONDS if http.trailing_data[0] else seconds):
                request = await read_request(conn, http)
        except (h11.RemoteProtocolError, TimeoutError) as error:
            if http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                status = getattr(error, "error_status_hint", 408) or 400
                await send(conn, http, Response(status, body=f"{status}: {error or 'too late'}\n".encode()), "")
            return
        if request is None:
            return
        await send(conn, http, await answer(request), request.method)
        if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
            return
        http.start_next_cycle()
        seconds = KEPT_SECONDS


async def read_request(conn: Connection, http: h11.Connection) -> Request | None:
    """Return the next request; None: the client has ended.

    Raises:
        h11.RemoteProtocolError: it is none, or too large.
    """
    head: h11.Request | None = None
    body = b""
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(await conn.read())
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > MAX_BODY_BYTES:
                raise h11.RemoteProtocolError("the body is too large", error_status_hint=413)
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            path, _, query = head.target.decode("ascii").partition("?")
            headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}
            return Request(head.method.decode(), path, query, headers, body)
        else:
            return None


async def send(conn: Connection, http: h11.Connection, response: Response, method: str) -> None:
    """Send a response; to HEAD without its body."""
    headers = [("content-type", response.content_type), ("cache-control", "no-store"), *response.headers]
    if response.stream is None:
        headers.append(("content-length", str(len(response.body))))
    else:
        headers.append(("connection", "close"))
    start = h11.Response(status_code=response.status, headers=headers)
    data = http.send(start) or b""
    if response.stream is None:
        data += (http.send(h11.Data(data=response.body)) or b"") if method != "HEAD" else b""
        await conn.send(data + (http.send(h11.EndOfMessage()) or b""))
        return
    await conn.send(data)
    async for piece in response.stream:
        await conn.send(http.send(h11.Data(data=piece)) or b"")
