"""Listeners come and go by a reload; one whose address stays keeps its socket."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

from tests.eventually import eventually
from tests.system.conftest import Prepare
from tests.system.questions import Questions
from tests.system.running import Running, exchange, listeners, receive
from tests.system.sources import answering

ANY = "tcp://127.0.0.1:0"
FIRST = ("echo", ANY, "app:echo")
SECOND = ("second", ANY, "app:echo")


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def is_echoed(server: Running, name: str) -> bool:
    with server.connect(name) as client:
        return exchange(client, b"hello") == b"hello"


def test_a_listener_that_is_added_serves_and_the_old_one_keeps_its_port(server: Running) -> None:
    port = server.port()
    server.configure({"listeners": listeners(FIRST, SECOND)})
    assert server.reload()["changes"] == ["listeners.second added"]
    assert server.port() == port
    assert server.port("second") != port
    assert is_echoed(server, "echo")
    assert is_echoed(server, "second")


def test_a_listener_that_is_removed_closes_its_port(prepare: Prepare) -> None:
    server = prepare(listeners=listeners(FIRST, SECOND)).start()
    kept, removed = server.port(), server.port("second")
    server.configure({"listeners": listeners(FIRST)})
    assert server.reload()["changes"] == ["listeners.second removed"]
    eventually(lambda: is_refused(removed))
    assert [row["name"] for row in server.status()["listeners"]] == ["echo"]
    assert server.port() == kept
    assert is_echoed(server, "echo")


def test_a_client_of_a_removed_listener_finishes_what_it_has_begun(prepare: Prepare) -> None:
    server = prepare(listeners=listeners(FIRST, SECOND)).start()
    with server.connect("second") as client:
        assert exchange(client, b"before") == b"before"
        server.configure({"listeners": listeners(FIRST)})
        assert server.reload()["verdict"] == "committed"
        assert exchange(client, b"after") == b"after"


def test_a_port_that_was_given_up_can_be_taken_by_another_program(prepare: Prepare) -> None:
    server = prepare(listeners=listeners(FIRST, SECOND)).start()
    removed = server.port("second")
    server.configure({"listeners": listeners(FIRST)})
    server.reload()
    eventually(lambda: is_refused(removed))
    with socket.create_server(("127.0.0.1", removed)):
        pass


def test_a_listener_can_be_given_another_app_without_losing_its_port(server: Running) -> None:
    port = server.port()
    server.write("other.py", answering("other"))
    server.configure({"listeners": listeners(("echo", ANY, "other:echo"))})
    assert server.reload()["changes"] == ["listeners.echo.app app:echo→other:echo"]
    assert server.port() == port
    with server.connect() as client:
        client.sendall(b"!")
        assert receive(client, 6) == b"other!"


def test_a_unix_listener_comes_and_goes_with_its_file(server: Running) -> None:
    path = server.folder / "echo.unix"
    server.configure({"listeners": listeners(FIRST, ("local", f"unix://{path}", "app:echo"))})
    assert server.reload()["verdict"] == "committed"
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert is_echoed_at(path)
    server.configure({"listeners": listeners(FIRST)})
    assert server.reload()["verdict"] == "committed"
    eventually(lambda: not path.exists())


def is_echoed_at(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(path))
        return exchange(client, b"hello") == b"hello"


def test_a_reload_that_is_refused_closes_what_it_had_bound(server: Running) -> None:
    server.expected_errors += ["reload refused", "cannot be imported", "Traceback"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    path = server.folder / "echo.unix"
    late, local = ("late", f"tcp://127.0.0.1:{free}", "app:echo"), ("local", f"unix://{path}", "app:echo")
    server.configure({"listeners": listeners(FIRST, late, local)})
    server.write("app.py", "raise RuntimeError('new code')\n")
    with Questions(server.control) as questions:
        questions.settle()
        before = sorted(server.open_fds().values())
        assert questions.answer("reload")["verdict"] == "refused"
        assert is_refused(free)
        assert not path.exists()
        assert len(server.open_fds()) == len(before)
    assert is_echoed(server, "echo")
