"""PROXY headers: whom a load balancer speaks for, believed of those alone who are listed, and required of them."""

from __future__ import annotations

import socket
import struct
import time
from typing import Any

import pytest

from prefork.net.proxy_header import crc32c
from tests.eventually import eventually
from tests.system.certificates import Authority, Pair
from tests.system.certificates import listener as tls_listener
from tests.system.conftest import Prepare
from tests.system.running import Running, exchange
from tests.system.visitors import (
    ask,
    counted,
    has_ended,
    hear,
    listener,
    open_connections,
    rejections,
    told,
    visit,
    wait_empty,
)

TELLER = (
    "async def echo(conn):\n"
    "    async for data in conn:\n"
    "        told = conn.proxy\n"
    "        more = told and (told.is_local, told.authority, told.local, told.find_tlv(0xE0))\n"
    "        await conn.send(repr((conn.peer[0], more, data)).encode())\n"
)
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
BALANCER, STRANGER = "127.0.0.2", "127.0.0.3"
REFUSED = ("ended", "ConnectionResetError", "BrokenPipeError")
FROM = {"from": [BALANCER]}
V1 = b"PROXY TCP4 198.51.100.7 192.0.2.1 4711 443\r\n"
ADDRESSES = socket.inet_aton("198.51.100.7") + socket.inet_aton("192.0.2.1") + struct.pack("!HH", 4711, 443)


def v2(body: bytes = ADDRESSES, tlvs: bytes = b"", command: int = 0x21, family: int = 0x11) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(body + tlvs)) + body + tlvs


def summed(tlvs: bytes, is_right: bool = True) -> bytes:
    """Return a header of version 2 with a checksum behind other TLVs."""
    bare = v2(tlvs=tlvs + b"\x03\0\4\0\0\0\0")
    return bare[:-4] + (crc32c(bare) ^ (not is_right)).to_bytes(4, "big")


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def start(prepare: Prepare, app: str = TELLER, limits: dict[str, Any] | None = None, **more: Any) -> Running:
    row = listener({"handshake": "2s", **(limits or {})}, **{"proxy_protocol": FROM, **more})
    return prepare({"app.py": app}, workers=2, listeners=[row]).start()


def say(server: Running, *parts: bytes, source: str = BALANCER) -> Any:
    """Send parts, the last with a request; return what the app said: peer, header, data."""
    with visit(server.port(), source) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for part in parts:
                sock.sendall(part)
            answer = sock.recv(65_536)
        except OSError as error:
            return type(error).__name__
    return eval(answer) if answer else "ended"


AUTHORITY_AND_ID = tlv(2, b"a.example") + tlv(0xE0, b"\xff\n")
TOLD = ("192.0.2.1", 443)
HEADERS: dict[str, tuple[bytes, Any, Any]] = {
    "v1": (V1, "198.51.100.7", (False, None, TOLD, None)),
    "v1 unknown": (b"PROXY UNKNOWN\r\n", BALANCER, (True, None, None, None)),
    "v1 unknown with addresses": (
        b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n",
        BALANCER,
        (True, None, None, None),
    ),
    "v2": (v2(), "198.51.100.7", (False, None, TOLD, None)),
    "v2 with TLVs": (v2(tlvs=AUTHORITY_AND_ID), "198.51.100.7", (False, "a.example", TOLD, b"\xff\n")),
    "v2 with a checksum": (summed(AUTHORITY_AND_ID), "198.51.100.7", (False, "a.example", TOLD, b"\xff\n")),
    "v2 local": (v2(b"", command=0x20, family=0), BALANCER, (True, None, None, None)),
    "v2 unspecified": (v2(b"", family=0), BALANCER, (True, None, None, None)),
    "v2 of 4096 bytes": (v2(tlvs=tlv(0xE1, bytes(4096 - 28 - 3))), "198.51.100.7", (False, None, TOLD, None)),
}


@pytest.fixture
def server(prepare: Prepare) -> Running:
    return start(prepare)


def test_a_header_tells_the_peer_with_the_first_request_in_one_segment_and_byte_by_byte(server: Running) -> None:
    for name, (header, peer, more) in HEADERS.items():
        assert say(server, header + b"GET /") == (peer, more, b"GET /"), name
        assert say(server, header, b"GET /") == (peer, more, b"GET /"), name
        pieces = [header[at : at + 1] for at in range(min(len(header), 200))]
        assert say(server, *pieces, header[200:] + b"GET /") == (peer, more, b"GET /"), name
    assert not rejections(server)


WRONG: dict[str, bytes] = {
    "nothing of the kind": b"GET / HTTP/1.1\r\n",
    "one byte": b"G",
    "nearly v1": b"PROXY TCP9 ",
    "v1 without an end": b"PROXY TCP4 " + b"1" * 200,
    "v1 of a port too large": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
    "v1 of two spaces": b"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n",
    "v1 of a name": b"PROXY TCP4 localhost 1.2.3.4 1 2\r\n",
    "v2 of 5 KiB": v2(tlvs=tlv(0xE1, bytes(5120))),
    "v2 of a wrong checksum": summed(b"", is_right=False),
    "v2 of version 3": v2(command=0x31),
    "v2 of datagrams": v2(family=0x12),
    "v2 too short": v2(ADDRESSES[:-1]),
    "v2 of a TLV beyond its end": v2(tlvs=b"\xe0\0\x09abc"),
    "only zeros": bytes(600),
}


def test_a_wrong_header_is_refused_at_once(server: Running) -> None:
    for count, (name, header) in enumerate(WRONG.items(), 1):
        begun = time.monotonic()
        assert say(server, header) in REFUSED, name
        assert time.monotonic() - begun < 1, name
        eventually(lambda count=count: counted(server, "proxy") == count)  # type: ignore[misc]
        assert rejections(server) == {"proxy": count}, name
    assert told(server, "PROXY header")
    wait_empty(server)


@pytest.mark.slow
@pytest.mark.parametrize("begun", [b"", b"PROXY TCP4 ", SIGNATURE[:7], v2()[:-1]])
def test_a_header_that_does_not_come_is_waited_for_until_limits_handshake(server: Running, begun: bytes) -> None:
    with visit(server.port(), BALANCER) as sock:
        sock.sendall(begun)
        since = time.monotonic()
        assert hear(sock) == b""
        assert 1.9 < time.monotonic() - since < 3.6
    assert sum(rejections(server).values()) == 1
    wait_empty(server)


def test_a_header_that_ends_before_its_end_is_refused_at_once(server: Running) -> None:
    with visit(server.port(), BALANCER) as sock:
        sock.sendall(b"PROXY TC")
        sock.shutdown(socket.SHUT_WR)
        begun = time.monotonic()
        assert hear(sock) == b""
        assert time.monotonic() - begun < 1
    wait_empty(server)


def test_a_trial_of_limits_handshake_waits_on_for_the_header(prepare: Prepare) -> None:
    server = start(prepare, limits={"handshake": {"value": "1s", "dry_run": True}})
    with visit(server.port(), BALANCER) as sock:
        eventually(lambda: sum(rejections(server, "dry_run").values()) == 1, within=4)
        assert not has_ended(sock)
        sock.sendall(V1 + b"late")
        assert b"late" in sock.recv(1000)


@pytest.mark.parametrize("header", [V1, v2(), b"PROXY UNKNOWN\r\n"])
def test_strangers_may_not_tell_whom_they_stand_for(server: Running, header: bytes) -> None:
    assert say(server, header + b"hello", source=STRANGER) in REFUSED
    assert counted(server, "proxy") == 1
    assert say(server, b"hello", source=STRANGER) == (STRANGER, None, b"hello")
    with visit(server.port(), STRANGER) as sock:  # what comes later is the app's
        sock.sendall(b"first")
        assert b"first" in sock.recv(1000)
        sock.sendall(V1)
        assert b"PROXY" in sock.recv(1000)


@pytest.mark.parametrize("header", [V1, v2()])
def test_strangers_may_not_tell_it_in_pieces_either(server: Running, header: bytes) -> None:
    with visit(server.port(), STRANGER) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(header[:4])
        eventually(lambda: open_connections(server) == 1)
        try:
            sock.sendall(header[4:] + b"hello")
            heard = hear(sock) if counted(server, "proxy") else sock.recv(1000)
        except OSError:
            heard = b""
    assert b"hello" not in heard
    eventually(lambda: counted(server, "proxy") == 1)


def test_without_a_list_a_header_is_the_apps_affair_and_not_believed(prepare: Prepare) -> None:
    server = prepare({"app.py": TELLER}, workers=1, listeners=[listener()]).start()
    assert say(server, V1, source=STRANGER) == (STRANGER, None, V1)


# --- the rules are for the told client ---


def test_the_limit_per_source_is_that_of_the_told_client(prepare: Prepare) -> None:
    server = start(prepare, limits={"per_ip": 5})
    port = server.port()
    sockets = [visit(port, BALANCER) for _ in range(20)]
    for number, sock in enumerate(sockets):
        sock.sendall(b"PROXY TCP4 198.51.100.%d 192.0.2.1 %d 443\r\nhello" % (number % 2, 1024 + number))
    found = []
    for sock in sockets:
        try:
            found.append(b"hello" in sock.recv(1000))
        except ConnectionResetError:
            found.append(False)
    assert found.count(True) == 10
    assert counted(server, "per_ip") == 10
    assert len([say(server, v2(b"", command=0x20, family=0) + b"x") for _ in range(9)]) == 9  # health checks
    for sock in sockets:
        sock.close()
    wait_empty(server)
    assert say(server, V1.replace(b".7 ", b".1 ") + b"again")[0] == "198.51.100.1"


def test_networks_and_bans_are_for_the_told_client(prepare: Prepare) -> None:
    server = start(prepare, deny=["198.51.100.0/24"])
    assert say(server, V1 + b"hello") in REFUSED
    assert counted(server, "deny") == 1
    good = b"PROXY TCP4 203.0.113.9 192.0.2.1 4711 443\r\n"
    mapped = b"PROXY TCP6 ::ffff:198.51.100.9 ::1 4711 443\r\n"
    assert say(server, mapped + b"hello") in REFUSED
    with visit(server.port(), BALANCER) as sock:
        sock.sendall(good + b"hello")
        assert b"203.0.113.9" in sock.recv(1000)
        server.ask("ban", network="203.0.113.0/24", duration=None)
        eventually(lambda: has_ended(sock), within=2)
    assert say(server, good + b"hello") in REFUSED
    assert say(server, good.replace(b"113.9", b"114.9") + b"hello")[0] == "203.0.114.9"


@pytest.mark.parametrize("more", [{"deny": ["198.51.100.0/24"]}, {"limits": {"per_ip": 1}}])
def test_nobody_gives_way_for_a_told_client_that_may_not_come_in(prepare: Prepare, more: dict[str, Any]) -> None:
    limits = {"connections": 6, "when_full": "oldest", **more.get("limits", {})}
    row = listener(limits, proxy_protocol=FROM, deny=more.get("deny", []))
    server = prepare({"app.py": TELLER}, workers=1, listeners=[row]).start()
    port = server.port()
    good = [visit(port, BALANCER) for _ in range(6)]
    for number, sock in enumerate(good):
        told_client = f"198.51.{100 if number == 5 and 'limits' in more else 101}.{number if number < 5 else 7}"
        sock.sendall(b"PROXY TCP4 %s 192.0.2.1 1 443\r\nhello" % told_client.encode())
        assert b"hello" in sock.recv(1000)
    for _ in range(6):
        assert say(server, V1 + b"hello") in REFUSED
    gone = [has_ended(sock) for sock in good].count(True)
    for sock in good:
        sock.close()
    assert not gone, f"{gone} good clients were closed for the sake of refused ones"


def test_a_balancer_that_is_banned_itself_is_refused(server: Running) -> None:
    server.ask("ban", network=BALANCER, duration=None)
    assert say(server, v2(b"", command=0x20, family=0) + b"hello") in REFUSED


def test_headers_that_are_refused_leave_no_place_taken(prepare: Prepare) -> None:
    server = start(prepare, limits={"per_ip": 5})
    port = server.port()
    for turn in range(600):
        with visit(port, BALANCER) as sock:
            try:
                sock.sendall((V1 + b"hi", V1[:20], b"GET /", SIGNATURE, V1.replace(b"TCP4", b"TCP6"))[turn % 5])
            except OSError:  # refused before all was said
                pass
    eventually(lambda: server.status()["counters"]["accepted"] == 600)
    wait_empty(server)
    sockets = [visit(port, BALANCER) for _ in range(8)]
    found = []
    for sock in sockets:
        sock.sendall(V1 + b"hello")
    for sock in sockets:
        try:
            found.append(b"hello" in sock.recv(1000))
        except ConnectionResetError:
            found.append(False)
    for sock in sockets:
        sock.close()
    assert found.count(True) == 5


# --- with TLS behind the header ---


@pytest.fixture
def secured(prepare: Prepare) -> tuple[Running, Authority]:
    row = {**tls_listener(), "proxy_protocol": FROM, "limits": {"per_ip": 4, "handshake": "2s"}}
    server = prepare({"app.py": TELLER}, workers=2, listeners=[row])
    authority = Authority()
    pair: Pair = authority.issue()
    pair.write(server.folder)
    return server.start(), authority


def test_tls_begins_behind_the_header(secured: tuple[Running, Authority]) -> None:
    server, authority = secured
    for header in (V1, summed(AUTHORITY_AND_ID)):
        with visit(server.port(), BALANCER) as sock:
            sock.sendall(header)
            with authority.client().wrap_socket(sock, server_hostname="localhost") as tls:
                tls.sendall(b"hello")
                assert eval(tls.recv(1000))[0] == "198.51.100.7"


def test_strangers_speak_tls_at_once_and_a_header_of_theirs_is_refused(
    secured: tuple[Running, Authority],
) -> None:
    server, authority = secured
    with visit(server.port(), STRANGER) as sock:
        tls = authority.client().wrap_socket(sock, server_hostname="localhost")
        tls.sendall(b"hello")
        assert eval(tls.recv(1000)) == (STRANGER, None, b"hello")
        tls.close()
    assert say(server, V1 + b"\x16\x03\x01", source=STRANGER) != "hello"
    eventually(lambda: server.status()["counters"]["unsecured"] == 1)
    assert say(server, V1 + b"not TLS") is not None
    wait_empty(server)


def test_a_balancer_without_a_header_gets_no_handshake(secured: tuple[Running, Authority]) -> None:
    server, authority = secured
    with visit(server.port(), BALANCER) as sock, pytest.raises(OSError):
        authority.client().wrap_socket(sock, server_hostname="localhost")
    assert counted(server, "proxy") == 1


@pytest.mark.slow
def test_handshakes_that_stay_behind_a_header_give_their_places_back(secured: tuple[Running, Authority]) -> None:
    server, authority = secured
    port = server.port()
    half = [visit(port, BALANCER) for _ in range(4)]
    for sock in half:
        sock.sendall(V1 + b"\x16\x03\x01\x02")
    eventually(lambda: open_connections(server) == 4)
    wait_empty(server, within=8)
    with visit(port, BALANCER) as sock:
        sock.sendall(V1)
        with authority.client().wrap_socket(sock, server_hostname="localhost") as tls:
            assert exchange(tls, b"hello")[:2] == b"('"
    assert server.status()["counters"]["unsecured"] == 4
    assert ask(half[0]) != b"hello"
    for sock in half:
        sock.close()


def test_a_name_told_by_a_balancer_cannot_write_into_the_log(prepare: Prepare) -> None:
    server = start(
        prepare, limits={"idle": "1s"}, app="async def echo(conn):\n    conn.log.warning('here')\n    1/0\n"
    )
    server.expected_errors += ["the app failed", "Traceback", "ZeroDivisionError"]
    path = b"/\x1b[31m\n12:00:00.000 error  forged\xff".ljust(108, b"\0")
    say(server, v2(path + bytes(108), family=0x31) + b"hello")
    eventually(lambda: told(server, "the app failed"))
    raw = server.log_file.read_bytes()
    assert b"\x1b" not in raw
    assert not [line for line in raw.decode().splitlines() if line.startswith("12:00:00.000 error")]
