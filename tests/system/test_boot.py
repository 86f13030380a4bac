"""A server that cannot boot says why, names the cure, exits with the right code, and leaves nothing behind."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.conftest import Prepare
from tests.system.remains import assert_nothing_is_left
from tests.system.running import ECHO, Running, exchange, listeners, run_prefork
from tests.system.sources import THREADED, answering, failing_lifespan

TO_STDERR = {"log": {"format": "text"}}


def run_to_its_end(server: Running, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a server that cannot boot; check that it leaves nothing behind."""
    done = server.run("run", "test.yaml", *arguments, within=15)
    assert_nothing_is_left(server.folder)
    return done


def bound_to(port: int) -> list[dict[str, str]]:
    return listeners(("echo", f"tcp://127.0.0.1:{port}", "app:echo"))


@pytest.mark.parametrize("reuse_port", [False, True])
def test_a_port_that_another_program_uses_is_refused(prepare: Prepare, reuse_port: bool) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=reuse_port) as taken:
        port = taken.getsockname()[1]
        server = prepare(listeners=bound_to(port), pidfile="server.pid")
        done = run_to_its_end(server)
    assert done.returncode == 3
    assert done.stderr == (
        f"prefork: cannot listen on tcp://127.0.0.1:{port} (echo): "
        "the address is in use; stop its server, or choose another port\n"
    )


def test_a_port_that_another_prefork_of_the_same_user_serves_is_refused(server: Running, prepare: Prepare) -> None:
    second = prepare({"app.py": answering("second")}, listeners=bound_to(server.port()))
    done = run_to_its_end(second)
    assert done.returncode == 3
    assert "the address is in use; stop its server, or choose another port" in done.stderr
    for _ in range(20):
        with server.connect() as client:
            assert exchange(client, b"hello") == b"hello"


def test_addresses_are_given_back_when_a_later_one_cannot_be_bound(prepare: Prepare) -> None:
    server = prepare()
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as other:
        free = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        other.close()
        binds = [free, f"unix://{server.folder}/b.sock", f"tcp://127.0.0.1:{taken.getsockname()[1]}"]
        server.configure({"listeners": listeners(*((f"l{n}", bind, "app:echo") for n, bind in enumerate(binds)))})
        done = run_to_its_end(server)
    assert done.returncode == 3
    assert f"cannot listen on {binds[2]} (l2): the address is in use" in done.stderr


def test_an_address_of_no_interface_is_refused(prepare: Prepare) -> None:
    server = prepare(listeners=listeners(("echo", "tcp://192.0.2.1:7000", "app:echo")))  # RFC 5737
    done = run_to_its_end(server)
    assert done.returncode == 3
    assert "cannot listen on tcp://192.0.2.1:7000 (echo): no interface of this machine" in done.stderr


APPS: dict[str, tuple[str, list[str]]] = {
    "syntax error": ("def echo(:\n", ["SyntaxError"]),
    "import error": ("import there_is_none\n", ["No module named 'there_is_none'", "Traceback"]),
    "exception": ("raise RuntimeError('no licence')\n", ["RuntimeError: no licence", "Traceback", "app.py"]),
    "no attribute": ("pass\n", ["has no attribute 'echo'"]),
    "no protocol": ("class echo: pass\n", ["the class echo is not an asyncio.Protocol"]),
    "no function": ("echo = 3\n", ["it is a int, not a handler; write async def f(conn)"]),
    "plain function": ("def echo(conn): pass\n", ["write async def f(conn)"]),
}


@pytest.mark.parametrize("preload", [True, False])
@pytest.mark.parametrize("fault", APPS)
def test_an_app_that_cannot_be_served_ends_the_boot_with_exit_3(
    prepare: Prepare, fault: str, preload: bool
) -> None:
    text, words = APPS[fault]
    server = prepare({"app.py": text}, preload=preload, pidfile="server.pid", **TO_STDERR)
    done = run_to_its_end(server)
    assert done.returncode == 3
    assert [word for word in words if word not in done.stderr] == []
    assert "cannot boot: no worker was ever ready: " in done.stderr


def test_a_module_that_does_not_exist_ends_the_boot_and_says_where_it_was_looked_for(prepare: Prepare) -> None:
    server = prepare(listeners=listeners(("echo", "tcp://127.0.0.1:0", "there_is_none:echo")), **TO_STDERR)
    done = run_to_its_end(server)
    assert done.returncode == 3
    assert f"there is no module there_is_none in {server.folder}" in done.stderr


def test_an_app_that_cannot_be_imported_ends_the_boot_fast(prepare: Prepare) -> None:
    server = prepare({"app.py": "raise RuntimeError\n"}, timeouts={"boot": "10m", "drain": "10m"})
    began = time.monotonic()
    assert run_to_its_end(server).returncode == 3
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("preload", [True, False])
def test_a_lifespan_that_raises_at_first_boot_ends_it_with_exit_3(
    prepare: Prepare, preload: bool, workers: int
) -> None:
    files = {"app.py": failing_lifespan(ECHO)}
    server = prepare(files, workers=workers, preload=preload, lifespan="app:lifespan", **TO_STDERR)
    done = run_to_its_end(server)
    assert done.returncode == 3
    assert "cannot enter lifespan app:lifespan: RuntimeError: the database is away" in done.stderr
    assert "Traceback" in done.stderr
    assert len(done.stderr) < 50_000


def test_an_app_that_ends_its_process_at_import_ends_the_boot(prepare: Prepare) -> None:
    server = prepare({"app.py": "import os\nos._exit(0)\n"}, **TO_STDERR)
    done = run_to_its_end(server)
    assert done.returncode == 3
    assert "cannot boot" in done.stderr


def test_an_import_that_takes_longer_than_the_boot_may_ends_it(prepare: Prepare) -> None:
    server = prepare({"app.py": "import time\ntime.sleep(3600)\n"}, timeouts={"boot": "300ms"}, **TO_STDERR)
    done = run_to_its_end(server)
    assert done.returncode == 3
    assert "the import of the app took longer than timeouts.boot" in done.stderr


def test_a_lifespan_that_takes_longer_than_the_boot_may_ends_it(prepare: Prepare) -> None:
    text = "import asyncio, contextlib\n@contextlib.asynccontextmanager\nasync def lifespan():\n"
    files = {"app.py": text + "    await asyncio.sleep(3600)\n    yield\n" + ECHO}
    server = prepare(files, lifespan="app:lifespan", timeouts={"boot": "300ms"}, **TO_STDERR)
    done = run_to_its_end(server)
    assert done.returncode == 3
    assert "did not become ready within timeouts.boot" in done.stderr


def test_all_mistakes_of_a_config_are_told_at_once_with_their_places_and_nothing_is_started(
    prepare: Prepare,
) -> None:
    server = prepare()
    server.write(
        "test.yaml",
        "wokers: 2\ncontrol: server.sock\npidfile: server.pid\n"
        "listeners:\n  - bind: tcp://127.0.0.1:0\n    app: app:echo\n    limits: {idle: soon}\n",
    )
    done = run_to_its_end(server)
    assert (done.returncode, done.stdout) == (2, "")
    assert "test.yaml:1:1: unknown key 'wokers'; did you mean workers?" in done.stderr
    assert "test.yaml:7:20: " in done.stderr
    assert "limits: {idle: soon}" in done.stderr  # the line itself


@pytest.mark.parametrize("text", [None, "", "- a\n", "listeners: [\n", "workers: 2\n", "\x00"])
def test_a_file_that_is_no_config_is_wrong_usage(prepare: Prepare, text: str | None) -> None:
    server = prepare()
    if text is None:
        (server.folder / "test.yaml").unlink()
    else:
        server.write("test.yaml", text)
    done = run_to_its_end(server)
    assert done.returncode == 2
    assert done.stderr.startswith("prefork: test.yaml:")
    assert "Traceback" not in done.stderr


def test_a_log_file_that_cannot_be_opened_ends_the_boot(prepare: Prepare) -> None:
    server = prepare(log={"file": "nowhere/server.log"}, pidfile="server.pid")
    done = run_to_its_end(server)
    assert done.returncode == 3
    assert "nowhere/server.log" in done.stderr
    assert "Traceback" not in done.stderr


def import_slowly() -> str:
    return "import time\ntime.sleep(0.9)\n"


def enter_slowly() -> str:
    return "import time\ndef slow():\n    time.sleep(0.9)\n"


@pytest.mark.parametrize("slowness", [import_slowly, enter_slowly])
@pytest.mark.parametrize("preload", [True, False])
def test_a_slow_boot_is_not_killed_by_the_watchdog_of_the_beats(
    prepare: Prepare, slowness: Callable[[], str], preload: bool
) -> None:
    text = slowness() + (
        "import contextlib\n"
        "@contextlib.asynccontextmanager\n"
        "async def lifespan():\n"
        "    globals().get('slow', int)()\n"
        "    yield\n"
    )
    times = {"boot": "20s", "beat": "300ms", "drain": "5s"}
    server = prepare({"app.py": text + ECHO}, preload=preload, lifespan="app:lifespan", timeouts=times)
    server.start()
    assert server.log().count("is ready after") == 2
    assert {row["generation"] for row in server.workers()} == {1}


def test_a_thread_that_lives_at_the_fork_is_named_with_the_cure(prepare: Prepare) -> None:
    server = prepare({"app.py": THREADED + ECHO}).start()
    server.expected_errors.append("the app started the thread 'the poller' at import")
    lines = [line for line in server.log().splitlines() if "'the poller'" in line]
    assert len(lines) == 1
    assert "start it in `lifespan:`" in lines[0]
    with server.connect() as client:
        assert exchange(client, b"hello") == b"hello"


def test_without_preload_a_thread_at_import_is_no_error(prepare: Prepare) -> None:
    prepare({"app.py": THREADED + ECHO}, preload=False).start()


def test_flags_go_before_the_environment_and_that_before_the_file(prepare: Prepare) -> None:
    environ = {"PREFORK_WORKERS": "3"}
    assert prepare(workers=1).start(environ=environ).status()["target"] == 3
    assert prepare(workers=1).start("--set", "workers=2", environ=environ).status()["target"] == 2


def test_flags_and_environment_hold_over_a_reload(prepare: Prepare) -> None:
    server = prepare(workers=1).start("--set", "workers=2", environ={"PREFORK_TIMEOUTS__DRAIN": "7s"})
    server.configure({"workers": 4, "timeouts": {"drain": "9s"}})
    assert not [change for change in server.reload()["changes"] if "workers" in change or "drain" in change]
    assert len(server.workers("ready")) == 2


def test_a_wrong_flag_is_wrong_usage(prepare: Prepare) -> None:
    done = run_to_its_end(prepare(), "--set", "wokers=3")
    assert done.returncode == 2
    assert "--set wokers=3" in done.stderr
    assert "did you mean workers?" in done.stderr


def test_an_app_beside_the_config_file_is_found_from_another_working_directory(
    prepare: Prepare, tmp_path: Path
) -> None:
    server = prepare()
    done = run_prefork("check", str(server.folder / "test.yaml"), folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
