"""Many processes write one log: no line is torn, lost or forged, over rotation too."""

from __future__ import annotations

import re
import signal
from typing import Any

from tests.eventually import eventually
from tests.system.conftest import Prepare
from tests.system.running import Running, exchange, parse_json_lines

LINES = 500
WORKERS = 4
CHATTY = """
import asyncio, contextlib, logging, os

log = logging.getLogger("app")

async def chat():
    while not os.path.exists("go"):
        await asyncio.sleep(0.01)
    for number in range(500):
        log.info("number %d %s", number, "x" * (number * 37 % 6000))
        if number % 5 == 0:
            await asyncio.sleep(0.005)

@contextlib.asynccontextmanager
async def life():
    task = asyncio.create_task(chat())
    yield
    task.cancel()

async def echo(conn):
    async for data in conn:
        conn.log.warning("got %s", data.decode())
        await conn.send(data)

async def failing(conn):
    async for data in conn:
        raise ValueError(data.decode())
"""


def start(prepare: Prepare, **log: str) -> Running:
    server = prepare({"app.py": CHATTY}, workers=WORKERS, lifespan="app:life")
    server.configure({"workers": WORKERS, "lifespan": "app:life", "log": {"file": str(server.log_file), **log}})
    return server.start()


def numbers(rows: list[dict[str, Any]]) -> dict[int, list[int]]:
    """Return the numbers that each worker has counted, in the order of the log."""
    found: dict[int, list[int]] = {}
    for row in rows:
        if row["logger"] == "app":
            _, number, rest = row["msg"].split(" ", 2)
            assert rest == "x" * (int(number) * 37 % 6000)
            found.setdefault(row["slot"], []).append(int(number))
    return found


def test_lines_of_many_workers_are_whole_and_complete(prepare: Prepare) -> None:
    server = start(prepare, format="json")
    server.write("go", "")
    eventually(lambda: server.log().count(f"number {LINES - 1} ") == WORKERS, within=20, every=0.1)
    assert numbers(parse_json_lines(server.log())) == {slot: list(range(LINES)) for slot in range(WORKERS)}


def test_rotation_by_usr1_loses_no_line(prepare: Prepare) -> None:
    server = start(prepare, format="json")
    server.write("go", "")
    old = []
    for turn in range(3):
        eventually(lambda: server.log().count('"app"') > 100)
        old.append(server.folder / f"server.log.{turn}")
        server.log_file.rename(old[-1])
        server.send(signal.SIGUSR1)
        eventually(server.log_file.exists)

    def text() -> str:
        return "".join(path.read_text() for path in (*old, server.log_file))

    eventually(lambda: text().count(f"number {LINES - 1} ") == WORKERS, within=20, every=0.1)
    assert numbers(parse_json_lines(text())) == {slot: list(range(LINES)) for slot in range(WORKERS)}
    size = old[-1].stat().st_size
    server.ask("scale", count=WORKERS + 1)
    eventually(lambda: f'"slot": {WORKERS}' in server.log())
    assert old[-1].stat().st_size == size


def test_a_log_that_cannot_be_reopened_is_written_on(server: Running) -> None:
    server.expected_errors.append("cannot reopen log.file")
    server.log_file.rename(server.folder / "old.log")
    server.log_file.mkdir()
    server.send(signal.SIGUSR1)
    eventually(lambda: "cannot reopen log.file" in (server.folder / "old.log").read_text())
    server.log_file.rmdir()
    server.send(signal.SIGUSR1)
    eventually(server.log_file.exists)
    server.reload()
    assert "reload committed" in server.log()


def test_json_lines_say_when_what_and_who(prepare: Prepare) -> None:
    server = start(prepare, format="json")
    with server.connect() as client:
        assert exchange(client, b"h\xc3\xa9\nllo") == b"h\xc3\xa9\nllo"
        host, port = client.getsockname()
    rows = parse_json_lines(server.log())
    assert all({"ts", "level", "logger", "msg", "pid"} <= row.keys() for row in rows)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", row["ts"]) for row in rows)
    (got,) = [row for row in rows if row["msg"].startswith("got")]
    assert got["msg"] == "got hé\nllo"
    assert (got["level"], got["generation"], got["pid"] in server.worker_pids()) == ("warning", 1, True)
    assert got["slot"] in range(WORKERS)
    assert (got["peer"], got["listener"]) == (f"{host}:{port}", "echo")
    assert got["conn"].startswith("echo-")
    masters = [row for row in rows if row["pid"] == server.pid]
    assert masters
    assert not [row for row in masters if "slot" in row]


def test_a_message_in_text_format_stays_on_its_line(prepare: Prepare) -> None:
    server = start(prepare, format="text")
    with server.connect() as client:
        forged = b"\n99:99:99.999 forged\r\x1b[31m"
        assert exchange(client, forged) == forged
    assert not re.search(r"^99:99", server.log(), re.MULTILINE)
    assert r"got \n99:99:99.999 forged\r\x1b[31m" in server.log()


def test_a_traceback_cannot_forge_a_line(prepare: Prepare) -> None:
    listener = {"name": "echo", "bind": "tcp://127.0.0.1:0", "app": "app:failing"}
    server = prepare({"app.py": CHATTY}, listeners=[listener]).start()
    server.expected_errors += ["the app failed on connection", "Traceback"]
    with server.connect() as client:
        client.sendall(b"oops\n99:99:99.999 forged")
        assert client.recv(10) == b""
    eventually(lambda: "forged" in server.log())
    assert not re.search(r"^99:99", server.log(), re.MULTILINE)
