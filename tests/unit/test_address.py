"""Addresses as the config writes them."""

from __future__ import annotations

import pytest

from prefork.address import MAX_UNIX_PATH_BYTES, Address, parse_address

GOOD = {
    "tcp://127.0.0.1:9000": Address("tcp", "127.0.0.1", 9000),
    "tcp://[::1]:9000": Address("tcp", "::1", 9000),
    "tcp://[::]:0": Address("tcp", "::", 0),
    "tcp://localhost:65535": Address("tcp", "localhost", 65535),
    "tcp://0.0.0.0:0": Address("tcp", "0.0.0.0", 0),
    "unix:///run/echo.sock": Address("unix", path="/run/echo.sock"),
    "udp://[fe80::1%eth0.5]:0": Address("udp", host="fe80::1%eth0.5", port=0),
}
BAD = {
    "": "a bind is written",
    "9000": "a bind is written",
    "127.0.0.1:9000": "a bind is written",
    "http://x:1": "a bind is written",
    "tcp://127.0.0.1": "no port",
    "tcp://:9000": "a bind is written",
    "tcp://h:65536": "no valid host and port",
    "tcp://h:-1": "no valid host and port",
    "tcp://h:x": "no valid host and port",
    "tcp://h:1/path": "a bind is written",
    "tcp://h:1?q": "a bind is written",
    "tcp://user@h:1": "a bind is written",
    "tcp://[::1:1": "no valid host and port",
    "tcp://[zz::1]:1": "IPv6|valid",
    "tcp://[fe80::1%a..b]:1": "no name of an interface",
    "sctp://h:1": "a bind is written",
    "unix://@": "absolute path or a name",
    "unixgram://x": "absolute path or a name",
    "fd://": "inherited socket",
    "fd:///3": "inherited socket",
    "unix://relative.sock": "absolute path",
    "unix:///run/": "absolute path",
    "unix:///" + "x" * MAX_UNIX_PATH_BYTES: "at most",
}


@pytest.mark.parametrize(("text", "address"), GOOD.items())
def test_an_address_is_read_and_written_back(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(("text", "words"), BAD.items())
def test_what_is_no_address_is_refused_with_the_way_to_write_it(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_address(text)


def test_the_longest_path_of_a_unix_socket_is_taken_to_the_byte() -> None:
    path = "/" + "ü" * 53  # two bytes each: 107
    assert parse_address(f"unix://{path}").path == path
    with pytest.raises(ValueError, match="at most 107 bytes"):
        parse_address(f"unix://{path}x")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("tcp://127.0.0.1:9000", "tcp-127.0.0.1-9000"),
        ("tcp://[::1]:9000", "tcp-::1-9000"),
        ("unix:///run/echo.sock", "unix-run-echo.sock"),
    ],
)
def test_an_address_has_a_name_for_logs(text: str, name: str) -> None:
    assert parse_address(text).default_name == name
