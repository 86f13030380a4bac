"""A crowd of clients in a process of its own, seen from the scenario.

Knows: how that process is started, asked, told to stop, and how its tally is read.
Does not know: what its clients do, or what is done to the server.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO

from tools.disorder.plan import Plan
from tools.disorder.tally import Tally

ROOT = Path(__file__).resolve().parent.parent.parent


class LoadError(Exception):
    """The clients' own process failed."""


class Load:
    """A running crowd; `finish` or `wait` returns its tally."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._tally: Tally | None = None
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tools.disorder.crowd", plan.to_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def wait_started(self) -> None:
        """Return when the first client has met an ending, good or bad."""
        if self._stdout.readline() != b"started\n":
            raise LoadError(f"no client of {self.plan} began")

    def survey(self) -> list[int]:
        """Return the slot of each flow, when each has had an answer to a datagram that it sends from now on."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"survey\n")
        self._process.stdin.flush()
        slots = json.loads(self._stdout.readline() or b"null")
        if not isinstance(slots, list):
            raise LoadError(f"not every flow of {self.plan} was answered")
        return slots

    def finish(self) -> Tally:
        """Tell the clients to finish the requests in hand and to leave; return what they met."""
        self._close_stdin()
        return self.wait()

    def wait(self) -> Tally:
        """Return what the clients met, when they have left by themselves."""
        if self._tally is None:
            lines = self._stdout.read().decode().splitlines()
            status = self._process.wait()
            if status or not lines:
                raise LoadError(f"the process of {self.plan} ended with status {status}")
            self._tally = Tally.from_json(lines[-1])
            self.release()
        return self._tally

    def release(self) -> None:
        """End the process, if it still runs, and close its pipes."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._close_stdin()
        self._stdout.close()

    @property
    def _stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    def _close_stdin(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
