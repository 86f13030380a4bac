"""What is logged, and where, can be changed by a reload; a log that cannot be opened is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.eventually import eventually
from tests.system.questions import Questions
from tests.system.running import Running, exchange, parse_json_lines
from tests.system.sources import noted

LOUD = (
    "import logging\n"
    "async def echo(conn):\n"
    "    async for data in conn:\n"
    "        logging.getLogger('app').info('has read %d bytes', len(data))\n"
    "        logging.getLogger('app').debug('in detail: %r', data)\n"
    "        await conn.send(data)\n"
)


def log_to(path: Path, **settings: Any) -> dict[str, Any]:
    return {"log": {"file": str(path), **settings}}


def ask_once(server: Running) -> None:
    with server.connect() as client:
        assert exchange(client, b"hello") == b"hello"


def test_a_reload_moves_the_log_of_all_processes_to_another_file_and_format(server: Running) -> None:
    server.write("app.py", LOUD)
    assert server.reload()["verdict"] == "committed"
    ask_once(server)
    eventually(lambda: "has read 5 bytes" in server.log())
    before = server.log()
    new = server.folder / "new.log"
    server.configure(log_to(new, format="json", level="debug"))
    verdict = server.reload()
    assert verdict["changes"] == [
        "log.level info→debug",
        "log.format text→json",
        f"log.file {server.log_file}→{new}",
    ]
    ask_once(server)
    eventually(lambda: "in detail: b'hello'" in noted(server.folder, "new.log"))
    entries = parse_json_lines(noted(server.folder, "new.log"))
    assert [entry["level"] for entry in entries if entry["msg"].startswith("has read")] == ["info"]
    assert "has read" not in server.log().removeprefix(before)


def test_the_level_of_the_log_can_be_changed_by_a_reload(server: Running) -> None:
    server.write("app.py", LOUD)
    server.configure({"log": {"format": "text", "file": str(server.log_file), "level": "debug"}})
    assert server.reload()["changes"] == ["log.level info→debug"]
    ask_once(server)
    eventually(lambda: "in detail: b'hello'" in server.log())


def test_a_log_file_that_cannot_be_opened_is_refused_and_the_old_log_goes_on(server: Running) -> None:
    server.expected_errors += ["cannot open log.file", "reload refused"]
    before = server.worker_pids()
    server.configure(log_to(server.folder / "nowhere" / "server.log"))
    done = server.run("reload", "test.yaml", "--control", str(server.control))
    assert done.returncode == 3
    assert "cannot open log.file" in done.stderr
    assert "nowhere/server.log: No such file or directory" in done.stderr
    assert server.worker_pids() == before
    assert "nowhere/server.log: No such file or directory" in server.log()
    server.configure({"workers": 1})
    assert server.reload()["verdict"] == "committed"
    assert "reload committed" in server.log()


@pytest.mark.parametrize("obstacle", ["an address in use", "an app that cannot be imported"])
def test_a_new_log_file_is_closed_again_when_the_reload_is_refused(server: Running, obstacle: str) -> None:
    server.expected_errors += ["reload refused", "cannot be imported", "Traceback"]
    config = log_to(server.folder / "new.log")
    if obstacle == "an address in use":
        taken = f"tcp://127.0.0.1:{server.port()}"
        config["listeners"] = [{"name": "taken", "bind": taken, "app": "app:echo"}]
    else:
        server.write("app.py", "raise RuntimeError('not today')\n")
    server.configure(config)
    with Questions(server.control) as questions:
        assert questions.answer("reload")["verdict"] == "refused"
        questions.settle()
        before = len(server.open_fds())
        for _ in range(3):
            assert questions.answer("reload")["verdict"] == "refused"
        eventually(lambda: len(server.open_fds()) <= before, within=3)
    assert str(server.folder / "new.log") not in server.open_fds().values()
