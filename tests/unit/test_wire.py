"""The control socket's language, and where control sockets lie."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

import pytest

from prefork.errors import RemoteProtocolError
from prefork.wire import default_control, is_usable, pack, run_directories, unpack

LIMIT = 1000
MESSAGES: list[dict[str, Any]] = [
    {"id": 1},
    {"command": "status", "arguments": {"a": [1, None, "ü"]}},
    {},
    {"x": "y" * 200},
]


def test_messages_come_back_however_the_bytes_arrive() -> None:
    data = b"".join(pack(message) for message in MESSAGES)
    for seed in range(200):
        dice = random.Random(seed)
        places = sorted(dice.randrange(len(data)) for _ in range(dice.randrange(12)))
        buffer, got = bytearray(), []
        for start, end in zip([0, *places], [*places, len(data)], strict=True):
            buffer += data[start:end]
            got += list(unpack(buffer, LIMIT))
        assert got == MESSAGES
        assert not buffer


def test_a_message_byte_by_byte_is_given_with_its_last_byte() -> None:
    buffer = bytearray()
    given = []
    for byte in pack({"id": 1}):
        buffer.append(byte)
        given.append(len(list(unpack(buffer, LIMIT))))
    assert given == [0] * (len(given) - 1) + [1]


@pytest.mark.parametrize(("size", "is_fine"), [(LIMIT - 1, True), (LIMIT, True), (LIMIT + 1, False)])
def test_the_limit_holds_to_the_byte(size: int, is_fine: bool) -> None:
    body = json.dumps({"x": "y" * (size - 9)}).encode()
    assert len(body) == size
    buffer = bytearray(struct.pack(">I", size) + body)
    if is_fine:
        assert len(list(unpack(buffer, LIMIT))) == 1
    else:
        with pytest.raises(RemoteProtocolError, match="limit"):
            list(unpack(buffer, LIMIT))


def test_a_message_over_the_limit_is_refused_by_its_header_alone() -> None:
    with pytest.raises(RemoteProtocolError, match="limit"):
        list(unpack(bytearray(b"\xff\xff\xff\xff"), LIMIT))


@pytest.mark.parametrize(
    "body",
    [b"", b"1", b"[]", b"null", b'"x"', b"{", b"\xff\xfe", b"{} {}", b"[" * 900, b'{"a":' * 150],
    ids=range(10),
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        list(unpack(bytearray(struct.pack(">I", len(body)) + body), LIMIT))


def test_deep_nesting_is_refused_and_not_a_crash() -> None:
    body = b'{"a":' * 60_000
    with pytest.raises(RemoteProtocolError):
        list(unpack(bytearray(struct.pack(">I", len(body)) + body), 1 << 20))


def test_control_sockets_lie_in_the_first_folder_that_is_ours(tmp_path: Path) -> None:
    runtime, temporary = tmp_path / "runtime", tmp_path / "tmp"
    runtime.mkdir(mode=0o700)
    temporary.mkdir()
    environ = {"XDG_RUNTIME_DIR": str(runtime), "TMPDIR": str(temporary)}
    assert run_directories(environ)[0] == str(runtime)
    assert default_control("/etc/echo.yaml", environ) == str(runtime / "echo.sock")


def test_a_folder_that_others_can_write_to_is_not_used(tmp_path: Path) -> None:
    assert is_usable(str(tmp_path))
    tmp_path.chmod(0o777)
    assert not is_usable(str(tmp_path))
    tmp_path.chmod(0o700)


def test_a_link_to_a_folder_is_not_used(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir(mode=0o700)
    link.symlink_to(real)
    assert not is_usable(str(link))


def test_a_folder_is_made_only_when_that_is_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    assert not is_usable(str(folder))
    assert is_usable(str(folder), create=True)
    assert folder.stat().st_mode & 0o777 == 0o700
