"""A reload that cannot be done changes nothing: same processes, no client notices, and the reason is told."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.eventually import eventually
from tests.system.running import ECHO, Running, exchange, receive
from tests.system.sources import answering, failing_lifespan
from tests.system.storm import Storm

Breakage = Callable[[Running], str]  # breaks something; returns what the reason must say


def syntax_error(server: Running) -> str:
    server.write("app.py", "async def echo(conn:\n    pass\n")
    return "app.py:1:15: SyntaxError"


def import_error(server: Running) -> str:
    server.write("app.py", "import there_is_no_such_library\n" + ECHO)
    return "No module named 'there_is_no_such_library'"


def exception_at_import(server: Running) -> str:
    server.write("app.py", ECHO + "raise RuntimeError('the licence has ended')\n")
    return "cannot import app app:echo: RuntimeError: the licence has ended"


def exit_at_import(server: Running) -> str:
    server.write("app.py", ECHO + "import sys\nsys.exit('I give up')\n")
    return "cannot import app app:echo: SystemExit: I give up"


def death_at_import(server: Running) -> str:
    server.write("app.py", ECHO + "import os\nos.kill(os.getpid(), 9)\n")
    return "the mold was ended from outside"


def missing_module_file(server: Running) -> str:
    (server.folder / "app.py").unlink()
    return "there is no module app in"


def missing_attribute(server: Running) -> str:
    server.write("app.py", "pass\n")
    return "module 'app' has no attribute 'echo'"


def a_class_that_is_no_protocol(server: Running) -> str:
    server.write("app.py", "class echo:\n    pass\n")
    return "the class echo is not an asyncio.Protocol"


def a_plain_function(server: Running) -> str:
    server.write("app.py", "def echo(conn):\n    pass\n")
    return "it is a plain function of 1 arguments; write async def f(conn)"


def a_value_that_cannot_be_called(server: Running) -> str:
    server.write("app.py", "echo = 'hello'\n")
    return "it is a str, not a handler"


def a_handler_of_too_many_arguments(server: Running) -> str:
    server.write("app.py", "async def echo(a, b, c):\n    pass\n")
    return "it is an async function of 3 arguments; write async def f(conn)"


def import_error_without_preload(server: Running) -> str:
    server.configure({"preload": False})
    server.write("app.py", "import there_is_no_such_library\n" + ECHO)
    return "No module named 'there_is_no_such_library'"


def missing_lifespan(server: Running) -> str:
    server.configure({"lifespan": "app:nothing"})
    return "module 'app' has no attribute 'nothing'"


def lifespan_that_raises(server: Running) -> str:
    server.write("app.py", failing_lifespan(ECHO))
    server.configure({"lifespan": "app:lifespan"})
    return "cannot enter lifespan app:lifespan: RuntimeError: the database is away"


def lifespan_that_is_none(server: Running) -> str:
    server.write("app.py", ECHO + "lifespan = 5\n")
    server.configure({"lifespan": "app:lifespan"})
    return "cannot enter lifespan app:lifespan"


def yaml_typo(server: Running) -> str:
    server.write("test.yaml", "workers: 2\nlisteners: [\n")
    return "test.yaml:"


def yaml_that_is_no_mapping(server: Running) -> str:
    server.write("test.yaml", "- workers\n")
    return "test.yaml:1:1:"


def unknown_key(server: Running) -> str:
    server.configure({"wokers": 2})
    return "did you mean workers?"


def bad_value(server: Running) -> str:
    server.configure({"workers": "many"})
    return "test.yaml:"


def empty_config_file(server: Running) -> str:
    server.write("test.yaml", "")
    return "the file holds no keys"


def missing_config_file(server: Running) -> str:
    (server.folder / "test.yaml").unlink()
    return "cannot read the file: No such file or directory"


def unknown_user(server: Running) -> str:
    server.configure({"user": "nobody-of-that-name"})
    return "there is no such user"


def another_control_socket(server: Running) -> str:
    server.configure({"control": str(server.folder / "other.sock")})
    return "cannot change control by a reload"


def a_pidfile(server: Running) -> str:
    server.configure({"pidfile": str(server.folder / "new.pid")})
    return "cannot change pidfile by a reload"


BREAKAGES: list[Breakage] = [
    syntax_error,
    import_error,
    exception_at_import,
    exit_at_import,
    death_at_import,
    missing_module_file,
    missing_attribute,
    a_class_that_is_no_protocol,
    a_plain_function,
    a_value_that_cannot_be_called,
    a_handler_of_too_many_arguments,
    import_error_without_preload,
    missing_lifespan,
    lifespan_that_raises,
    lifespan_that_is_none,
    yaml_typo,
    yaml_that_is_no_mapping,
    unknown_key,
    bad_value,
    empty_config_file,
    missing_config_file,
    unknown_user,
    another_control_socket,
    a_pidfile,
]
EXPECTED = [
    "reload refused",
    "cannot be imported",
    "Traceback",
    "test.yaml",
    "the slot is filled again",
    "cannot change",
]


@contextmanager
def unimpressed(server: Running) -> Iterator[None]:
    """Check that a server is the same afterwards, and that no client has noticed anything."""
    before = server.worker_pids()
    with server.connect() as client, Storm(server.port()) as storm:
        assert exchange(client, b"before") == b"before"
        yield
        storm.wait_for_more()
        assert exchange(client, b"after") == b"after"
    assert not storm.failures
    eventually(lambda: {row["pid"] for row in server.workers()} == before)
    assert {(row["state"], row["generation"]) for row in server.workers()} == {("ready", 1)}
    assert server.ask("health")["ready"]


@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda breakage: breakage.__name__)
def test_a_broken_reload_is_refused_with_the_reason_and_a_good_one_then_works(
    server: Running, breakage: Breakage
) -> None:
    server.expected_errors += EXPECTED
    good = (server.folder / "test.yaml").read_text()
    with unimpressed(server):
        wanted = breakage(server)
        done = server.run("reload", "--control", str(server.control))
    assert (done.returncode, done.stdout) == (3, "")
    assert wanted in done.stderr
    assert done.stderr.startswith("prefork: reload refused: ")
    last = server.status()["last_reload"]
    assert (last["verdict"], last["changes"]) == ("refused", [])
    assert wanted in last["reason"]
    server.write("test.yaml", good)
    server.write("app.py", answering("good"))
    assert server.reload()["verdict"] == "committed"
    with server.connect() as client:
        client.sendall(b"!")
        assert receive(client, 5) == b"good!"


def test_a_port_in_use_is_refused_with_the_address_and_the_cure(server: Running) -> None:
    server.expected_errors += EXPECTED
    with socket.create_server(("127.0.0.1", 0)) as taken, unimpressed(server):
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        server.configure({"listeners": [{"name": "new", "bind": address, "app": "app:echo"}]})
        done = server.run("reload", "--control", str(server.control))
        assert done.returncode == 3
        assert f"cannot listen on {address} (new): the address is in use; stop its server" in done.stderr
    server.configure({})
    assert server.reload()["verdict"] == "committed"


def test_all_mistakes_of_a_config_are_in_the_log_each_with_its_place(server: Running) -> None:
    server.expected_errors += EXPECTED
    server.write("test.yaml", "wokers: 2\nlisteners:\n  - {bind: 'tcp://127.0.0.1:0', app: 'app:echo', nam: x}\n")
    assert server.reload()["verdict"] == "refused"
    assert "test.yaml:1:1: unknown key 'wokers'" in server.log()
    assert "test.yaml:3:50: listeners.0: unknown key 'nam'" in server.log()


def test_many_broken_reloads_leave_nothing_behind(server: Running) -> None:
    server.expected_errors += EXPECTED
    server.write("app.py", "raise RuntimeError('new code')\n")
    below, fds = server.descendants(), len(server.open_fds())
    for _ in range(10):
        assert server.reload()["verdict"] == "refused"
    eventually(lambda: server.descendants() == below)
    eventually(lambda: len(server.open_fds()) <= fds + 1)
