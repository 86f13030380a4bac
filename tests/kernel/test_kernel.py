"""Fork, reap and descriptors, each in a process of its own: the test's has threads, and too much to lose."""

from __future__ import annotations

import subprocess
import sys
import textwrap

START = """
import os, signal, sys
from prefork.process.kernel import HANDLED, Kernel, close_all_but
kernel = Kernel()
"""


def run(script: str) -> list[str]:
    """Run a script in an interpreter of its own; return the words that it prints."""
    done = subprocess.run(
        [sys.executable, "-c", START + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_child_exits_with_what_its_function_returns() -> None:
    assert run("""
        pid = kernel.fork(lambda: 7)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """) == ["7"]


def test_an_exception_ends_a_child_with_1_and_its_traceback_and_never_unwinds_into_the_parent() -> None:
    done = subprocess.run(
        [sys.executable, "-c", START + "try:\n pid = kernel.fork(lambda: 1 // 0)\nfinally: print('parent')\n"
         "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["parent", "1"]
    assert "ZeroDivisionError" in done.stderr


def test_what_was_printed_before_the_fork_is_printed_once() -> None:
    assert run("""
        print("once", end="")
        os.waitpid(kernel.fork(lambda: 0), 0)
    """) == ["once"]


def test_a_child_ignores_the_signals_of_its_group_and_blocks_none() -> None:
    assert run("""
        def child():
            for number in HANDLED:
                if number != signal.SIGCHLD:
                    os.kill(os.getpid(), number)
            return len(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        print(os.waitstatus_to_exitcode(os.waitpid(kernel.fork(child), 0)[1]))
        print(len(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
    """) == ["0", "0"]


def test_programs_that_a_child_starts_have_the_default_signals() -> None:
    assert run("""
        def child():
            os.execv("/bin/sh", ["sh", "-c", "kill -TERM $$; exit 9"])
        print(os.waitstatus_to_exitcode(os.waitpid(kernel.fork(child), 0)[1]))
    """) == ["-15"]


def test_all_children_that_ended_are_reaped_and_none_is_no_error() -> None:
    assert run("""
        print(kernel.reap())
        pids = {kernel.fork(lambda code=code: code): code for code in (0, 3, 5)}
        gone = {}
        while len(gone) < 3:
            gone |= {pid: os.waitstatus_to_exitcode(status) for pid, status in kernel.reap()}
        print(gone == pids, kernel.reap())
    """) == ["[]", "True", "[]"]


def test_a_signal_to_a_process_that_is_gone_is_no_error() -> None:
    assert run("""
        pid = kernel.fork(lambda: 0)
        os.waitpid(pid, 0)
        kernel.kill(pid, signal.SIGTERM)
        print("fine")
    """) == ["fine"]


def test_orphans_become_children_of_the_one_who_adopts_them() -> None:
    assert run("""
        print(kernel.adopt_orphans())
        read_end, write_end = os.pipe()
        def between():
            kernel.fork(lambda: os.write(write_end, str(os.getpid()).encode()) and 4)
            return 0
        os.waitpid(kernel.fork(between), 0)
        orphan = int(os.read(read_end, 100))
        print(os.waitstatus_to_exitcode(os.waitpid(orphan, 0)[1]))
    """) == ["True", "4"]


def test_every_descriptor_but_the_named_ones_is_closed() -> None:
    assert run("""
        fds = [os.dup(1) for _ in range(20)]
        high = os.dup2(1, 200)
        close_all_but({0, 1, 2, fds[3], fds[10]})
        def is_open(fd):
            try:
                return bool(os.fstat(fd))
            except OSError:
                return False
        print([number for number, fd in enumerate(fds) if is_open(fd)] == [3, 10], is_open(high), is_open(2))
    """) == ["True", "False", "True"]
