"""Source texts of apps that tests load, and the gates that hold them up until a test opens them.

A gate is a file in the server's folder: an app waits until it is there, so that a test needs no time.

Knows: what an app looks like. Does not know: servers, tests.
"""

from __future__ import annotations

from pathlib import Path


def answering(word: str) -> str:
    """Return an echo app that puts a word in front of each answer."""
    return (
        f"async def echo(conn):\n    async for data in conn:\n        await conn.send({word.encode()!r} + data)\n"
    )


def importing_behind(gate: str, rest: str) -> str:
    """Return an app whose import adds a line to `importing` and then waits for a gate."""
    return (
        "import os, time\n"
        "with open('importing', 'a') as file:\n"
        "    file.write('+\\n')\n"
        f"while not os.path.exists({gate!r}):\n"
        "    time.sleep(0.005)\n"
        f"{rest}"
    )


def entering_behind(gate: str, rest: str) -> str:
    """Return an app with a lifespan that notes `+` in `entered`, waits for a gate, and notes `-`."""
    return (
        "import asyncio, contextlib, os\n"
        "def note(sign):\n"
        "    with open('entered', 'a') as file:\n"
        "        file.write(sign)\n"
        "@contextlib.asynccontextmanager\n"
        "async def lifespan():\n"
        "    note('+')\n"
        f"    while not os.path.exists({gate!r}):\n"
        "        await asyncio.sleep(0.005)\n"
        "    note('-')\n"
        "    yield\n"
        f"{rest}"
    )


def failing_lifespan(rest: str, good: int = 0) -> str:
    """Return an app with a lifespan that raises, in all workers but so many that come first."""
    return (
        "import contextlib\n"
        "@contextlib.asynccontextmanager\n"
        "async def lifespan():\n"
        "    with open('lives', 'a+') as file:\n"
        "        file.write('+')\n"
        "        count = file.tell()\n"
        f"    if count > {good}:\n"
        "        raise RuntimeError('the database is away')\n"
        "    yield\n"
        f"{rest}"
    )


PLAIN_LIFESPAN = "import contextlib\n@contextlib.asynccontextmanager\nasync def lifespan():\n    yield\n"


def noted(folder: Path, name: str) -> str:
    """Return what the apps in a folder have noted in a file so far."""
    path = folder / name
    return path.read_text() if path.exists() else ""


THREADED = (
    "import threading, time\n"
    "threading.Thread(target=time.sleep, args=(3600,), name='the poller', daemon=True).start()\n"
)
