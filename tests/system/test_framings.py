"""Every framing is served by its config, to coroutines and to callbacks; what is over the limit is dealt with."""

from __future__ import annotations

import copy
import socket
from contextlib import ExitStack
from typing import Any

import pytest

from prefork import Fixed, JsonLines, Length, Lines, Netstring, Varint
from tests.eventually import eventually
from tests.system.conftest import Prepare
from tests.system.frame_client import ENDED, FrameClient
from tests.system.running import Running, receive

APPS = """
import asyncio
from dataclasses import dataclass

async def echo(conn):
    async for frame in conn:
        await conn.send(frame)

async def reading(conn):
    while (frame := await conn.read()) != b"":
        await conn.send(frame)

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def frame_received(self, frame):
        self.transport.write_frame(frame)

def factory():
    return Echo()

async def later(conn):
    async for frame in conn:
        await asyncio.sleep(0)
        await conn.send(frame)

class Closing(Echo):
    def frame_received(self, frame):
        super().frame_received(frame)
        if frame == b"close":
            self.transport.close()

class Leaving(Echo):
    def drain_requested(self):
        self.transport.write_frame(b"bye")
        self.transport.close()

@dataclass
class Order:
    item: str
    count: int = 1

def positive(message):
    if message["count"] < 1:
        raise ValueError("count is not positive")
    return message
"""
SERVED: dict[str, tuple[Any, Any]] = {
    "lines": ("lines", Lines()),
    "crlf": ({"lines": {"delimiter": "\r\n", "max": "1KiB"}}, Lines(1024, b"\r\n")),
    "length": ("length", Length()),
    "length-1": ({"length": {"bytes": 1}}, Length(bytes=1)),
    "length-2": ({"length": {"bytes": 2, "endian": "little"}}, Length(bytes=2, endian="little")),
    "length-8": ({"length": {"bytes": 8, "counts_itself": True}}, Length(bytes=8, counts_itself=True)),
    "varint": ("varint", Varint()),
    "netstring": ({"netstring": {"over": "skip"}}, Netstring()),
    "fixed": ({"fixed": {"size": 64}}, Fixed(64)),
    "json": ("json-lines", JsonLines()),
}
KINDS = ("echo", "Echo")


def listener(name: str, app: str, framing: Any, **more: Any) -> dict[str, Any]:
    row = {"name": name, "bind": "tcp://127.0.0.1:0", "app": f"app:{app}", "framing": framing, **more}
    return copy.deepcopy(row)  # what two rows share would be written as an alias of YAML


def start(prepare: Prepare, *rows: dict[str, Any], **config: Any) -> Running:
    return prepare({"app.py": APPS}, workers=1, listeners=list(rows), **config).start()


def counters(server: Running) -> dict[str, int]:
    found: dict[str, int] = server.status()["counters"]
    return found


def frames_for(name: str) -> list[Any]:
    if name == "json":
        return [{"a": [1, None, "\u00e9\n"]}, None, 0, "", [], "x" * 3000]
    if name == "fixed":
        return [b"%064d" % number for number in range(5)]
    return [b"hello", b"", b"x" * 200, b"\0\1\2 \xff", b"last"]


def test_every_framing_is_served_to_coroutines_and_callbacks_and_read_by_the_same_value(prepare: Prepare) -> None:
    rows = [listener(f"{name}-{app}", app, SERVED[name][0]) for name in SERVED for app in KINDS]
    server = start(prepare, *rows)
    for name, (_, framing) in SERVED.items():
        frames = frames_for(name)
        for app in KINDS:
            with FrameClient(server, f"{name}-{app}", framing) as client:
                client.send(*frames)
                assert client.read(len(frames)) == frames, (name, app)
                client.send_in_pieces(7, *frames)
                assert client.read(len(frames)) == frames, (name, app)
                client.socket.shutdown(socket.SHUT_WR)
                assert client.read_rest() == []
    assert (counters(server)["skipped"], counters(server)["broken"], counters(server)["errors"]) == (0, 0, 0)


@pytest.mark.parametrize("app", ["echo", "Echo"])
def test_an_input_that_ends_within_a_frame_is_counted_and_told(prepare: Prepare, app: str) -> None:
    server = start(prepare, listener("it", app, "length"))
    with server.connect("it") as sock:
        sock.sendall(Length().encode(b"whole") + b"\0\0\0\5hal")
        sock.shutdown(socket.SHUT_WR)
        assert receive(sock, 100) == Length().encode(b"whole")
    eventually(lambda: counters(server)["broken"] == 1)
    assert "refused: the input ended within a frame" in server.log()


@pytest.mark.parametrize("app", ["echo", "Echo", "later", "factory"])
def test_what_is_over_the_limit_is_seen_on_the_wire_as_the_policy_says(prepare: Prepare, app: str) -> None:
    good, bad = b"x" * 100, b"y" * 101
    error = b"error: frame over 100 bytes"
    wanted: dict[str, list[Any]] = {
        "skip": [good, b"1", b"2", b"3"],
        "error": [good, error, b"1", error, b"2", b"3"],
        "close": [good, ENDED],
    }
    rows = [listener(f"{over}-it", app, {"length": {"max": 100, "over": over}}) for over in wanted]
    server = start(prepare, *rows)
    for over, answers in wanted.items():
        with FrameClient(server, f"{over}-it", Length()) as client:
            client.send(good, bad, b"1", bad, b"2", b"3")
            assert client.read(len(answers)) == answers, over
            if over != "close":
                client.send_in_pieces(11, b"y" * 1000, b"4")
                assert client.read(2 if over == "error" else 1)[-1] == b"4"
    eventually(lambda: counters(server)["closed"] == 3)
    assert (counters(server)["skipped"], counters(server)["broken"], counters(server)["errors"]) == (6, 1, 0)


def test_the_limit_is_that_of_the_listener_when_the_framing_does_not_say(prepare: Prepare) -> None:
    frame_10 = {"limits": {"frame": 10}}
    server = start(
        prepare,
        listener("listener", "echo", {"lines": {"over": "skip"}}, **frame_10),
        listener("framing", "echo", {"lines": {"over": "skip", "max": 5}}, **frame_10),
    )
    lines = [b"x" * 5, b"x" * 6, b"x" * 10, b"x" * 11, b"end"]
    for name, most in (("listener", 10), ("framing", 5)):
        with FrameClient(server, name, Lines()) as client:
            client.send(*lines)
            wanted = [line for line in lines if len(line) <= most]
            assert client.read(len(wanted)) == wanted


@pytest.mark.parametrize("app", ["echo", "Echo"])
def test_a_spoofed_length_is_refused_or_passed_over_without_memory(prepare: Prepare, app: str) -> None:
    big = {"bytes": 8, "max": "64KiB"}
    server = start(
        prepare,
        listener("close", app, {"length": big}),
        listener("skip", app, {"length": {**big, "over": "skip"}}),
    )
    with FrameClient(server, "close", Length(bytes=8)) as client:
        client.socket.sendall((2**63).to_bytes(8, "big"))
        assert client.read_rest() == []
    (before,) = [row["rss"] for row in server.workers()]
    with FrameClient(server, "skip", Length(bytes=8)) as client:
        client.socket.sendall((64 * 2**20).to_bytes(8, "big"))
        for _ in range(64):
            client.socket.sendall(bytes(2**20))
        client.send(b"after it")
        assert client.read(1) == [b"after it"]
        (after,) = [row["rss"] for row in server.workers()]
    assert after - before < 16 * 2**20
    assert counters(server)["skipped"] == 1


MESSAGE = {"limits": {"message": "300ms"}}


@pytest.mark.parametrize("app", ["echo", "Echo"])
def test_a_frame_that_never_ends_is_ended_by_the_limit_also_while_it_is_passed_over(
    prepare: Prepare, app: str
) -> None:
    server = start(
        prepare,
        listener("lines", app, {"lines": {"over": "skip", "max": 100}}, **MESSAGE),
        listener("length", app, {"length": {"over": "skip", "max": 100}}, **MESSAGE),
    )
    with (
        FrameClient(server, "lines", Lines()) as begun,
        FrameClient(server, "lines", Lines()) as long,
        FrameClient(server, "length", Length()) as skipped,
        FrameClient(server, "length", Length()) as idle,
    ):
        begun.socket.sendall(b"a line without end")
        long.socket.sendall(b"x" * 1000)
        skipped.socket.sendall((2**31).to_bytes(4, "big"))
        idle.send(b"whole")
        assert idle.read(1) == [b"whole"]
        for client in (begun, long, skipped):
            eventually(client.is_cut, within=5)
        idle.send(b"still here")
        assert idle.read(1) == [b"still here"]
        assert counters(server)["timed_out"] == 3


def test_a_callback_that_closes_in_the_middle_of_a_batch_gets_no_frame_more(prepare: Prepare) -> None:
    server = start(prepare, listener("closing", "Closing", {"lines": {"max": 10, "over": "error"}}))
    with FrameClient(server, "closing", Lines()) as client:
        client.send(b"1", b"close", b"2", b"x" * 50, b"3")
        assert client.read_rest() == [b"1", b"close"]
    assert counters(server)["skipped"] == 0


def test_a_callback_with_drain_requested_is_asked_and_says_good_bye_in_a_frame(prepare: Prepare) -> None:
    server = start(prepare, listener("leaving", "Leaving", "netstring"))
    with FrameClient(server, "leaving", Netstring()) as client:
        client.send(b"hello")
        assert client.read(1) == [b"hello"]
        server.ask("stop")
        assert client.read_rest() == [b"bye"]


@pytest.mark.slow
def test_a_frame_that_had_begun_when_a_drain_came_is_answered_and_then_the_connection_ends(
    prepare: Prepare,
) -> None:
    """Well before the end of the drain: what is still open then is cut."""
    server = start(prepare, *(listener(f"for-{app}", app, "lines") for app in KINDS), timeouts={"drain": "10s"})
    with ExitStack() as stack:
        clients = [stack.enter_context(FrameClient(server, f"for-{app}", Lines())) for app in KINDS]
        for client in clients:
            client.socket.sendall(b"whole\nha")
            assert client.read(1) == [b"whole"]
        server.ask("stop")
        told = [client for client in clients if is_told_something(client.socket, 3.0)]
        for client in clients:
            client.socket.sendall(b"lf\n")
        assert [client.read_rest() for client in clients] == [[b"half"]] * len(KINDS)
        assert not told, "it was ended within a frame"
    assert server.process is not None
    assert server.process.wait(15) == 0
    assert "that were open at the end of the drain" not in server.log()


def is_told_something(sock: socket.socket, seconds: float) -> bool:
    """Whether anything comes within some seconds, an end included; it is left to be read."""
    before = sock.gettimeout()
    sock.settimeout(seconds)
    try:
        sock.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return False
    finally:
        sock.settimeout(before)
    return True


@pytest.mark.parametrize("app", ["echo", "Echo"])
def test_messages_of_json_lines_are_checked_and_a_bad_one_costs_its_sender_that_one_alone(
    prepare: Prepare, app: str
) -> None:
    server = start(
        prepare,
        listener("order", app, {"json-lines": {"check": "app:Order", "over": "error", "max": 1000}}),
        listener("function", app, {"json-lines": {"check": "app:positive"}}),
    )
    server.expected_errors += ["the check refuses it, KeyError", "Traceback"]  # a fault of the function's own
    with FrameClient(server, "order", JsonLines()) as client:
        client.socket.sendall(b'{"item": "pen"}\n{"item": 5}\nnonsense\n[]\n' + b"x" * 2000 + b"\n")
        client.send({"item": "cap", "count": 3})
        first, *errors, last = client.read(6)
        assert first == {"item": "pen", "count": 1}
        assert [list(error) for error in errors] == [["error"]] * 4
        assert "item" in errors[0]["error"]
        assert last == {"item": "cap", "count": 3}
    with FrameClient(server, "function", JsonLines()) as client:
        client.send({"count": 1}, {"count": 0}, {}, {"count": 2})
        one, told, hidden, two = client.read(4)
        assert (one, told, two) == ({"count": 1}, {"error": "count is not positive"}, {"count": 2})
        assert list(hidden) == ["error"]
    assert (counters(server)["skipped"], counters(server)["errors"]) == (6, 1)


def test_a_reload_changes_the_framing_of_new_connections_and_old_ones_keep_theirs(prepare: Prepare) -> None:
    server = start(prepare, listener("echo", "echo", "lines"))
    with FrameClient(server, "echo", Lines()) as old:
        old.send(b"one")
        assert old.read(1) == [b"one"]
        server.configure({"workers": 1, "listeners": [listener("echo", "echo", {"length": {"bytes": 2}})]})
        verdict = server.reload()
        assert verdict["verdict"] == "committed"
        assert "framing" in str(verdict["changes"])
        with FrameClient(server, "echo", Length(bytes=2)) as new:
            new.send(b"two")
            assert new.read(1) == [b"two"]
        old.send(b"three")
        assert old.read(1) == [b"three"]
