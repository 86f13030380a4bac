"""As the first process of a container: everybody's orphans are reaped, and TERM means stop."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.eventually import eventually
from tests.system.conftest import Prepare
from tests.system.remains import processes_in
from tests.system.running import ECHO, Running, exchange, receive

UNSHARE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]

# The shell ends at once; what it has left behind is an orphan, which waits for the gate and exits with 3.
ORPHANS = """
import subprocess
LEAVE = "(while [ ! -e gate ]; do sleep 0.01; done; exit 3) >/dev/null 2>&1 & echo $!"
async def echo(conn):
    async for data in conn:
        left = subprocess.run(["sh", "-c", LEAVE], capture_output=True).stdout
        await conn.send(left)
"""


def why_not() -> str:
    """Return why there can be no container here; empty: there can."""
    if shutil.which("unshare") is None:
        return "there is no unshare(1)"
    tried = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, check=False)
    return f"unshare is refused: {tried.stderr.strip()}" if tried.returncode else ""


@pytest.fixture(scope="module", autouse=True)
def _namespaces() -> None:
    reason = why_not()
    if reason:
        pytest.skip(reason)


class Container:
    """A server that is process 1 of its own PID namespace."""

    def __init__(self, server: Running) -> None:
        self.server = server
        self.log = (server.folder / "container.log").open("w")
        self.unshare = subprocess.Popen(
            [*UNSHARE, sys.executable, "-m", "prefork", "run", "test.yaml"],
            cwd=server.folder,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
        )
        eventually(server.is_ready, within=20)
        children = Path(f"/proc/{self.unshare.pid}/task/{self.unshare.pid}/children").read_text().split()
        self.outer_pid = int(children[0])

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send process 1 a signal; return its exit status."""
        if self.unshare.poll() is None:
            os.kill(self.outer_pid, number)
        return self.unshare.wait(10)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as `docker exec` does."""
        return subprocess.run(
            ["nsenter", "--target", str(self.outer_pid), "--pid", "--mount", *arguments],
            cwd=self.server.folder,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )

    def children(self) -> list[tuple[str, str]]:
        """Return (state, title) of the children of process 1."""
        found = []
        for pid in Path(f"/proc/{self.outer_pid}/task/{self.outer_pid}/children").read_text().split():
            try:
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
                found.append((state, Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0")))
            except OSError:  # gone meanwhile
                pass
        return found

    def strangers(self) -> list[tuple[str, str]]:
        return [child for child in self.children() if not child[1].startswith("prefork:")]

    def end(self) -> None:
        self.unshare.kill()
        self.unshare.wait()
        self.log.close()


@pytest.fixture
def container(prepare: Prepare) -> Iterator[Container]:
    server = prepare({"app.py": ORPHANS})
    container = Container(server)
    yield container
    try:
        assert container.stop() == 0
        assert not server.control.exists()
        eventually(lambda: not processes_in(server.folder), within=3)
        assert " error " not in server.log(), server.log()
    finally:
        container.end()


def test_as_process_1_it_serves_reloads_and_is_healthy(container: Container) -> None:
    server = container.server
    assert server.status()["pid"] == 1
    health = container.run(sys.executable, "-m", "prefork", "health", "--control", str(server.control))
    assert (health.returncode, health.stdout) == (0, "ready\n")
    server.write("app.py", ECHO)
    assert server.reload()["verdict"] == "committed"
    with server.connect() as client:
        assert exchange(client, b"hello") == b"hello"


def leave_orphans(container: Container, count: int) -> list[int]:
    """Have orphans made; return their pids inside. They are children of process 1 and wait for the gate."""
    with container.server.connect() as client:
        numbers = []
        for _ in range(count):
            client.sendall(b"!")
            line = b""
            while not line.endswith(b"\n"):
                data = receive(client, 1)
                assert data
                line += data
            numbers.append(int(line))
    eventually(lambda: len(container.strangers()) == count)
    return numbers


def test_strange_children_that_exit_with_3_are_reaped_and_nothing_happens(container: Container) -> None:
    server = container.server
    before = server.worker_pids()
    leave_orphans(container, 5)
    server.write("gate", "")
    eventually(lambda: not container.strangers())
    assert [state for state, _ in container.children() if state == "Z"] == []
    assert server.worker_pids() == before
    assert server.status()["generation"] == 1
    assert container.unshare.poll() is None


def test_a_new_worker_with_the_number_of_a_dead_stranger_is_not_taken_for_it(container: Container) -> None:
    server = container.server
    (number,) = leave_orphans(container, 1)
    server.write("gate", "")
    eventually(lambda: not container.strangers())
    set_last = container.run("sh", "-c", f"echo {number - 2} > /proc/sys/kernel/ns_last_pid")
    if set_last.returncode:
        pytest.skip(f"the next pid cannot be chosen here: {set_last.stderr.strip()}")
    assert server.ask("scale", count="3")
    third = eventually(lambda: [row for row in server.workers("ready") if row["slot"] == 2])[0]
    assert "exited with 3" not in server.log()
    if third["pid"] != number:
        pytest.skip("another process took the pid that was meant for the worker")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT, signal.SIGINT])
def test_a_stop_signal_to_process_1_ends_it_with_exit_0(container: Container, number: int) -> None:
    assert container.stop(number) == 0


def test_stop_does_not_wait_for_strange_children(container: Container) -> None:
    leave_orphans(container, 1)
    assert container.stop(signal.SIGTERM) == 0
