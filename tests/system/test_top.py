"""`prefork top` on a pseudo-terminal, against real servers and such as would do it harm."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from prefork.wire import REQUEST_BYTES, pack, unpack
from tests.eventually import eventually
from tests.system.running import Running, exchange, run_prefork
from tests.system.viewer import JOB_SHELL, Viewer, top_command

EVIL = "\x1b[2J\x1b]0;owned\x07\r\n\x9b31m\u202eabc日本語" + "Z\u0336" * 50


@contextmanager
def watching(server: Running, size: tuple[int, int] = (100, 24)) -> Iterator[Viewer]:
    with Viewer(*top_command(server.control), folder=server.folder, size=size) as viewer:
        viewer.see_text("q quit")
        viewer.see_text(f"pid {server.pid}")
        yield viewer


def test_a_frame_shows_the_server_its_workers_and_its_listeners_and_q_leaves(server: Running) -> None:
    with watching(server) as viewer:
        viewer.see(lambda: viewer.line("per second: accepts 0"))
        assert viewer.modes == {"?1049"}
        assert viewer.is_raw()
        lines = viewer.lines()
        assert len(lines) == 24
        assert "2 of 2 workers" in lines[0]
        assert [line.split()[3] for line in lines[3:5]] == ["ready", "ready"]
        assert {int(line.split()[1]) for line in lines[3:5]} == server.worker_pids()
        assert f"tcp://127.0.0.1:{server.port()}" in viewer.line("echo")
        assert viewer.line("no reload yet")
        viewer.press("q")
        assert viewer.see_exit() == 0
        assert viewer.plain.replace("\r", "") == "exit 0\n"


def test_connections_and_their_bytes_appear_while_it_watches(server: Running) -> None:
    with watching(server) as viewer, server.connect() as client:
        exchange(client, b"x" * 1000)
        viewer.see(lambda: viewer.line("echo").split()[1:2] == ["1"])
        viewer.press("c")
        viewer.see_text("PEER")
        viewer.see_text(f"127.0.0.1:{client.getsockname()[1]}")
        viewer.press("c")
        viewer.see_text("UPTIME")


def test_plus_and_minus_scale_the_server(server: Running) -> None:
    with watching(server) as viewer:
        viewer.press("+")
        viewer.see_text("workers 2→3")
        viewer.press("++")
        viewer.see_text("5 of 5 workers")
        assert server.status()["target"] == 5
        viewer.press("----")
        viewer.see_text("1 workers")
        assert server.status()["target"] == 1
        viewer.press("-")
        viewer.see_text("scale refused: cannot scale to 0")
        viewer.press("q")
        assert viewer.see_exit() == 0


def test_s_sorts_and_keys_that_send_sequences_do_nothing(server: Running) -> None:
    with watching(server) as viewer:
        viewer.press("s")
        viewer.see_text("s sort (conns)")
        viewer.press("\x1b[A\x1bOq\x1b[1;5q\x1bqs")
        viewer.see_text("s sort (acc/s)")
        viewer.press("q")
        assert viewer.see_exit() == 0


def test_r_reloads_and_tells_the_verdict(server: Running) -> None:
    server.expected_errors += ["reload refused", "unknown key"]
    with watching(server) as viewer:
        viewer.press("r")
        viewer.see_text("reload committed: the config has not changed")
        viewer.see_text("generation 2")
        server.configure({"wokers": 3})
        viewer.press("r")
        viewer.see_text("reload refused: ")
        assert any("unknown key 'wokers'" in line for line in viewer.lines())
        viewer.press("q")
        assert viewer.see_exit() == 0


def test_d_stops_the_server_after_a_confirmation_and_waits_for_its_end(server: Running) -> None:
    assert server.process is not None
    with watching(server) as viewer, server.connect() as client:
        exchange(client, b"hello")
        viewer.press("d")
        viewer.see_text("stop the server when what is open is finished?")
        viewer.press("n")
        viewer.see_text("not stopped")
        viewer.press("dy")
        viewer.see_text("the server stops when what is open is finished")
        client.close()
        assert viewer.see_exit() == 0
        assert "the server has stopped" in viewer.plain
    assert server.process.wait(10) == 0


@pytest.mark.parametrize(("columns", "rows"), [(40, 10), (20, 5), (300, 100), (1, 1)])
def test_a_new_size_is_a_new_frame(server: Running, columns: int, rows: int) -> None:
    with watching(server) as viewer:
        viewer.resize(columns, rows)
        viewer.see(lambda: len(viewer.lines()) == rows and max(map(len, viewer.lines())) <= columns)
        viewer.resize(80, 30)
        viewer.see(lambda: len(viewer.lines()) == 30 and viewer.line("s sort"))
        viewer.press("q")
        assert viewer.see_exit() == 0


def test_only_what_has_changed_is_drawn_again(server: Running) -> None:
    with watching(server) as viewer:
        viewer.see(lambda: viewer.line("per second: accepts 0"))
        before, first = viewer.drawn, viewer.lines()[0]
        viewer.see(lambda: viewer.lines()[0] != first)  # its uptime
        assert viewer.drawn - before < 12


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_ends_it_and_the_terminal_is_as_before(server: Running, number: signal.Signals) -> None:
    with watching(server) as viewer:
        os.kill(viewer.pid, number)
        assert viewer.see_exit() == 128 + number
        assert "Traceback" not in viewer.plain


def test_control_c_ends_it_and_the_terminal_is_as_before(server: Running) -> None:
    with watching(server) as viewer:
        viewer.press("\x03")
        assert viewer.see_exit() == 130
        assert viewer.plain.replace("\r", "") == "exit 130\n"


def test_who_was_stopped_and_continued_finds_the_screen_again(server: Running) -> None:
    with watching(server) as viewer:
        os.kill(viewer.pid, signal.SIGSTOP)
        eventually(lambda: " T " in Path(f"/proc/{viewer.pid}/stat").read_text())
        viewer.rows.clear()
        os.kill(viewer.pid, signal.SIGCONT)
        viewer.see(lambda: viewer.line("SLOT") and viewer.line("s sort"))
        viewer.press("q")
        assert viewer.see_exit() == 0


def test_control_z_gives_the_terminal_to_the_shell_and_fg_takes_it_back(server: Running) -> None:
    command = top_command(server.control)
    with Viewer(*command, folder=server.folder, shell=JOB_SHELL) as viewer:
        viewer.see_text("q quit")
        viewer.press("\x1a")
        viewer.see(lambda: f"stopped {128 + signal.SIGTSTP}" in viewer.plain)
        assert "?1049" not in viewer.modes
        assert not viewer.is_raw()
        viewer.rows.clear()
        viewer.press("\n")
        viewer.see(lambda: "?1049" in viewer.modes and viewer.line("s sort"))
        assert viewer.is_raw()
        viewer.press("q")
        assert viewer.see_exit() == 0


def test_a_terminal_that_goes_away_ends_it(server: Running) -> None:
    with watching(server) as viewer:
        pid = viewer.pid
        viewer.hang_up()
        eventually(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text())


def test_a_server_that_goes_away_ends_it_with_4(server: Running) -> None:
    with watching(server) as viewer:
        assert server.stop() == 0
        assert viewer.see_exit() == 4
        assert f"prefork: no server answers at {server.control}" in viewer.plain


def test_a_bug_gives_the_terminal_back_before_its_traceback(server: Running) -> None:
    code = (
        "import sys; from prefork.overview import Overview; from prefork.cli import main;"
        "Overview.press = lambda *_: 1 / 0; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *top_command(server.control)[3:]]
    with Viewer(*command, folder=server.folder) as viewer:
        viewer.see_text("q quit")
        viewer.press("s")
        assert viewer.see_exit() == 1
        assert "ZeroDivisionError" in viewer.plain


# --- without a terminal, without a server ---


def test_what_is_no_terminal_is_refused_with_a_word_about_status(server: Running) -> None:
    done = server.run("top", "test.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert "`prefork status`" in done.stderr


def test_once_prints_one_plain_frame(server: Running) -> None:
    done = server.run("top", "--once", "--interval", "100ms", "test.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"pid {server.pid}, generation 1, 2 of 2 workers, running")
    assert lines[1].startswith("per second: accepts 0, closes 0")
    assert "\x1b" not in done.stdout
    assert "quit" not in done.stdout


def test_once_into_an_ascii_pipe_is_no_traceback(server: Running) -> None:
    server.configure({"workers": 3})
    server.reload()
    done = run_prefork(
        *["top", "--once", "--interval", "100ms", "--control", str(server.control)],
        folder=server.folder,
        environ={"PYTHONIOENCODING": "ascii"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "workers 2?3" in done.stdout


@pytest.mark.parametrize("arguments", [(), ("--once",)])
def test_without_a_server_it_exits_with_4_and_leaves_the_screen_alone(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    with Viewer(*top_command(tmp_path / "nobody.sock", *arguments), folder=tmp_path) as viewer:
        assert viewer.see_exit() == 4
        assert viewer.plain.startswith("prefork: no server answers at ")


@pytest.mark.parametrize("interval", ["0", "soon", "2h"])
def test_an_interval_that_cannot_be_exits_with_2(tmp_path: Path, interval: str) -> None:
    done = run_prefork("top", "--interval", interval, folder=tmp_path)
    assert done.returncode == 2
    assert "write a time from 100ms to 60m" in done.stderr


def test_top_imports_neither_yaml_nor_asyncio(server: Running) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *top_command(server.control, "--once")[1:]],
        cwd=server.folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert not imported & {"yaml", "asyncio", "ssl", "logging"}


# --- servers that are none ---


Answer = Callable[[dict[str, Any]], dict[str, Any] | None]


@contextmanager
def pretended(path: Path, answer: Answer) -> Iterator[None]:
    """Serve a control socket by a function; None: hang up."""

    def serve() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:  # the test is over
                return
            with sock, suppress(ConnectionResetError):  # a client that has ended may leave an answer unread
                attend(sock)

    def attend(sock: socket.socket) -> None:
        buffer = bytearray()
        while data := sock.recv(REQUEST_BYTES):
            buffer += data
            for request in unpack(buffer, REQUEST_BYTES):
                found = answer(request)
                if found is None:
                    return
                sock.sendall(pack({"id": request["id"], **found}))

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(20)


def good(**result: Any) -> dict[str, Any]:
    return {"ok": True, "result": result}


def test_texts_of_a_hostile_server_move_no_cursor(tmp_path: Path) -> None:
    def answer(request: dict[str, Any]) -> dict[str, Any]:
        if request["command"] == "conns":
            return {"ok": False, "error": EVIL}
        row = dict.fromkeys(("slot", "pid", "generation", "state", "name", "bind", "connections"), EVIL)
        event = {"ts": EVIL, "level": EVIL, "msg": EVIL}
        reload = {"verdict": EVIL, "reason": EVIL}
        return good(
            **dict.fromkeys(("pid", "generation", "target", "state", "uptime"), EVIL),
            ready=False, why=[EVIL], workers=[row] * 9, listeners=[row], events=[event], last_reload=reload,
        )  # fmt: skip

    with pretended(tmp_path / "x", answer), Viewer(*top_command(tmp_path / "x"), folder=tmp_path) as viewer:
        viewer.see_text("SLOT")
        viewer.press("c")
        viewer.see_text("conns refused: ?[2J?]0;owned?")
        viewer.press("q")
        assert viewer.see_exit() == 0


@pytest.mark.parametrize("command", ["status", "reload"])
def test_a_server_that_hangs_up_at_a_question_does_not_keep_it_going_for_ever(
    tmp_path: Path, command: str
) -> None:
    def answer(request: dict[str, Any]) -> dict[str, Any] | None:
        return None if request["command"] == command else good(pid=7)

    with pretended(tmp_path / "x", answer), Viewer(*top_command(tmp_path / "x"), folder=tmp_path) as viewer:
        if command == "status":
            assert viewer.see_exit() == 4
            return
        viewer.see_text("pid 7")
        viewer.press("r")
        viewer.see_text("the connection was lost and made anew; not answered: ")
        viewer.press("q")
        assert viewer.see_exit() == 0


def test_a_server_that_is_silent_is_told_of(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "x"))
        listener.listen()
        with Viewer(*top_command(tmp_path / "x"), folder=tmp_path) as viewer:
            viewer.see_text("asking the server")
            viewer.see_text("no answer for 3.")
            viewer.press("q")
            assert viewer.see_exit() == 0


@pytest.mark.skipif(not Path("/proc/self/wchan").exists(), reason="this kernel does not say where a process waits")
def test_a_terminal_that_takes_nothing_does_not_hold_it_from_ending(tmp_path: Path) -> None:
    """What is written and not read fills the pseudo-terminal; then a write waits for ever."""
    count = 0

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        nonlocal count
        count += 1
        return good(pid=count, workers=[{"state": f"{count} of many words" * 20} for _ in range(90)])

    command = top_command(tmp_path / "x")
    with (
        pretended(tmp_path / "x", answer),
        Viewer(*command, folder=tmp_path, size=(300, 100)) as viewer,
    ):
        pid = eventually(viewer.children)[0]
        eventually(lambda: Path(f"/proc/{pid}/wchan").read_text() in ("n_tty_write", "wait_woken"), within=20)
        os.kill(pid, signal.SIGTERM)
        eventually(lambda: pid not in viewer.children())
        assert viewer.see_exit() == 128 + signal.SIGTERM
