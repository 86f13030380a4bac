"""The pages of the admin process: who may ask what, and what is answered.

Knows: paths, tokens, hosts. Does not know: bytes of HTTP, how the master finds its answers.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.resources import files
from typing import Any

from prefork import Connection
from prefork.admin.desk import Desk
from prefork.admin.exposition import CONTENT_TYPE, expose
from prefork.admin.http import Request, Response, serve_http
from prefork.admin.processes import Processes
from prefork.client import RefusedError, UsageError
from prefork.config.model import Admin

MAX_STREAMS = 64
STREAM_SECONDS = 1.0
JSON = "application/json"
NONCE_BYTES = 16

Page = Callable[[Request], Awaitable[Response]]


class Site:
    """What the admin process serves."""

    def __init__(self, desk: Desk, admin: Admin) -> None:
        self._desk = desk
        self._admin = admin
        self.processes = Processes()
        self._streams = 0
        self._pages: dict[str, Page] = {
            "/healthz/live": self._live,
            "/healthz/ready": self._ready,
            "/metrics": self._metrics,
            "/status.json": self._status,
            "/config": self._config,
            "/conns.json": self._conns,
            "/events": self._events,
        }
        if admin.dashboard:
            self._pages["/"] = self._dashboard
        self._changes = {"/reload": "reload", "/scale": "scale", "/stop": "stop"}

    async def serve(self, conn: Connection) -> None:
        """Serve a client."""
        await serve_http(conn, self.answer)

    async def answer(self, request: Request) -> Response:
        """Return what a request gets."""
        refusal = self._refuse(request)
        if refusal is not None:
            return refusal
        try:
            if request.path in self._changes:
                return await self._change(request)
            return await self._pages[request.path](request)
        except UsageError as error:
            return reply(400, {"error": str(error)})
        except RefusedError as error:
            return reply(503, {"error": str(error)})

    def _refuse(self, request: Request) -> Response | None:
        host = request.headers.get("host")  # HTTP/1.0 has none, and no browser speaks that
        if host is not None and not is_own_host(host, self._admin.hosts):
            return reply(421, {"error": "the Host is not this server's; name it in admin.hosts"})
        origin = request.headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return reply(403, {"error": "the Origin is another site"})
        if request.path in self._changes:
            return self._refuse_change(request)
        if request.path not in self._pages:
            return reply(404, {"error": "there is no such page", "pages": [*self._pages, *self._changes]})
        if request.method not in ("GET", "HEAD"):
            return reply(405, {"error": "this page is read by GET"}, ("allow", "GET, HEAD"))
        return None

    def _refuse_change(self, request: Request) -> Response | None:
        if request.method != "POST":
            return reply(405, {"error": "a change is made by POST"}, ("allow", "POST"))
        if self._admin.token is None:
            return reply(403, {"error": "changes over HTTP need admin.token in the config"})
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), self._admin.token.encode()):
            what = "the token is wrong" if given else "a change needs the header Authorization: Bearer TOKEN"
            return reply(401, {"error": what}, ("www-authenticate", "Bearer"))
        return None

    # --- pages ---

    async def _live(self, _: Request) -> Response:
        await self._desk.ask("health")
        return reply(200, {"live": True})

    async def _ready(self, _: Request) -> Response:
        health = await self._desk.ask("health")
        return reply(200 if health["ready"] else 503, health)

    async def _metrics(self, _: Request) -> Response:
        census = await self._desk.ask("census")
        self.processes.add_to(census)
        return Response(200, CONTENT_TYPE, expose(census).encode())

    async def _status(self, _: Request) -> Response:
        return reply(200, await self._desk.ask("status"))

    async def _config(self, _: Request) -> Response:
        return reply(200, await self._desk.ask("config"))

    async def _conns(self, _: Request) -> Response:
        return reply(200, await self._desk.ask("conns", limit=20, order="bytes"))

    async def _dashboard(self, _: Request) -> Response:
        nonce = os.urandom(NONCE_BYTES).hex()
        page = files("prefork.admin").joinpath("dashboard.html").read_text("utf-8").replace("{{nonce}}", nonce)
        policy = f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'"
        headers = (
            (
                "content-security-policy",
                f"{policy}; img-src data:; base-uri 'none'; frame-ancestors 'none'; "
                "require-trusted-types-for 'script'",
            ),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
        )
        return Response(200, "text/html; charset=utf-8", page.encode(), headers)

    async def _events(self, request: Request) -> Response:
        if self._streams >= MAX_STREAMS:
            return reply(503, {"error": f"{MAX_STREAMS} streams are open already"}, ("connection", "close"))
        last = request.headers.get("last-event-id", "0")
        return Response(200, "text/event-stream", stream=self._stream(int(last) if last.isdecimal() else 0))

    async def _stream(self, last: int) -> AsyncIterator[bytes]:
        self._streams += 1
        try:
            while True:
                records = await self._desk.ask("events", since=last)
                if not records and last and not await self._desk.ask("events", since=last - 1):
                    last = 0  # of another master: its numbers begin again
                for record in records:
                    last = record["id"]
                    yield event("log", record, last)
                yield event("status", await self._desk.ask("status"))
                await asyncio.sleep(STREAM_SECONDS)
        except RefusedError:  # the master says nothing: the browser comes again by itself
            return
        finally:
            self._streams -= 1

    # --- changes ---

    async def _change(self, request: Request) -> Response:
        try:
            arguments = json.loads(request.body or b"{}")
        except (ValueError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict) or not all(isinstance(name, str) for name in arguments):
            return reply(400, {"error": 'the body is no JSON object; write such as {"count": "+1"}'})
        known = {name: arguments[name] for name in ("count", "now") if name in arguments}
        result = await self._desk.ask(self._changes[request.path], None, **known)
        return reply(200, result)


def reply(status: int, what: Any, *headers: tuple[str, str]) -> Response:
    """Return a response of JSON."""
    return Response(status, JSON, json.dumps(what).encode() + b"\n", headers)


def event(kind: str, what: Any, number: int | None = None) -> bytes:
    """Return an event of a text/event-stream, as the HTML standard has it, 9.2."""
    head = f"id: {number}\n" if number is not None else ""
    return f"{head}event: {kind}\ndata: {json.dumps(what)}\n\n".encode()


def is_own_host(host: str, known: tuple[str, ...]) -> bool:
    """Whether a Host names this server: an address, this machine's name, or one of the config's.

    A name of somebody else's that leads here is how a web page of theirs would read what this one says.
    """
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() and not host.endswith("]") else host
    name = name.removeprefix("[").removesuffix("]").lower()
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name in ("localhost", socket.gethostname().lower(), *known) or name.endswith(".localhost")
    return True
