"""What is measured: the five measurements, their servers, and who is compared with whom.

Knows: every peer by its name in the tables.
Does not know: how anything is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tools.benchmark import idle
from tools.benchmark.figures import TIMES
from tools.benchmark.load import Work
from tools.benchmark.measurement import Entry, Measurement, Throughput
from tools.benchmark.server import Floor, Prefork, Script, Server

CALLBACK_APP = "prefork.apps.echo:Echo"
COROUTINE_APP = "prefork.apps.echo:echo"

REQUEST_BYTES = 1024
LINE_BYTES = 64
CONNECTIONS = 50
WORKERS_CONNECTIONS = 64

FLOOR = Floor("C epoll")
UVLOOP_PROTOCOL = Script("uvloop protocol", "asyncio_peer.py", ("uvloop", "protocol"), "uvloop")
UVLOOP_STREAMS = Script("uvloop streams", "asyncio_peer.py", ("uvloop", "streams"), "uvloop")
UVLOOP_READLINE = Script("uvloop readline", "asyncio_peer.py", ("uvloop", "lines"), "uvloop")
ASYNCIO_PROTOCOL = Script("asyncio protocol", "asyncio_peer.py", ("asyncio", "protocol"))
ASYNCIO_STREAMS = Script("asyncio streams", "asyncio_peer.py", ("asyncio", "streams"))
ASYNCIO_READLINE = Script("asyncio readline", "asyncio_peer.py", ("asyncio", "lines"))
GEVENT = Script("gevent", "gevent_peer.py", (), "gevent")
CALLBACK = Prefork("prefork callback", CALLBACK_APP)
COROUTINE = Prefork("prefork coroutine", COROUTINE_APP)
LINES = Prefork("prefork lines, coroutine", COROUTINE_APP, "lines")


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asked for."""

    rounds: int
    seconds: float
    workers: Sequence[int]


def against(servers: Sequence[Server], *peers: Server) -> list[Entry]:
    """Return entries that are all compared with the same peers."""
    names = {f"{TIMES} {peer.name}": peer.name for peer in peers}
    return [Entry(server, names) for server in servers]


def throughput(name: str, title: str, load: Throughput, entries: Sequence[Entry], rounds: int) -> Measurement:
    return Measurement(name, title, load.figures, entries, load.sample, rounds)


def echo(options: Options) -> Measurement:
    load = Throughput(Work("exchange", CONNECTIONS, REQUEST_BYTES), options.seconds, "request")
    asyncs = [UVLOOP_PROTOCOL, UVLOOP_STREAMS, ASYNCIO_PROTOCOL, ASYNCIO_STREAMS]
    servers = [FLOOR, *asyncs, GEVENT, CALLBACK, COROUTINE]
    entries = against(servers, UVLOOP_PROTOCOL, UVLOOP_STREAMS, FLOOR)
    title = f"Echo of {REQUEST_BYTES:,} bytes over {CONNECTIONS} connections"
    return throughput("echo", title, load, entries, options.rounds)


def connect(options: Options) -> Measurement:
    load = Throughput(Work("connect", CONNECTIONS, 1), options.seconds, "connection")
    servers = [FLOOR, UVLOOP_PROTOCOL, ASYNCIO_PROTOCOL, CALLBACK, COROUTINE]
    entries = against(servers, UVLOOP_PROTOCOL, FLOOR)
    title = f"Connect, send 1 byte, receive it, close; {CONNECTIONS} at a time"
    return throughput("connect", title, load, entries, options.rounds)


def memory(_: Options) -> Measurement:
    servers = [
        UVLOOP_PROTOCOL,
        UVLOOP_STREAMS,
        ASYNCIO_PROTOCOL,
        ASYNCIO_STREAMS,
        GEVENT,
        CALLBACK,
        COROUTINE,
    ]
    count = idle.crowd_size()
    return Measurement(
        name="memory",
        title=f"Private memory of the server per idle connection, {count:,} connections",
        figures={idle.FRESH: 0, idle.USED: 0, idle.RESIDENT: 0},
        entries=against(servers, UVLOOP_PROTOCOL, UVLOOP_STREAMS),
        sample=idle.idle_memory,
        rounds=1,
    )


def lines(options: Options) -> Measurement:
    pipelined = REQUEST_BYTES // LINE_BYTES
    work = Work("exchange", CONNECTIONS, REQUEST_BYTES, LINE_BYTES)
    load = Throughput(work, options.seconds, "line", pipelined)
    servers = [FLOOR, UVLOOP_READLINE, ASYNCIO_READLINE, LINES]
    entries = against(servers, UVLOOP_READLINE, FLOOR)
    title = f"Lines of {LINE_BYTES} bytes, {pipelined} pipelined, {CONNECTIONS} connections; C looks for no line"
    return throughput("lines", title, load, entries, options.rounds)


def counted(count: int) -> str:
    return f"{count} worker" if count == 1 else f"{count} workers"


def workers(options: Options) -> Measurement:
    load = Throughput(Work("exchange", WORKERS_CONNECTIONS, REQUEST_BYTES), options.seconds, "request")
    fewest = min(options.workers)
    heading = f"{TIMES} {counted(fewest)}"
    entries: list[Entry] = []
    for count in options.workers:
        server = Prefork(f"{CALLBACK.name}, {counted(count)}", CALLBACK_APP, workers=count)
        entries.append(Entry(server, {heading: f"{CALLBACK.name}, {counted(fewest)}"}))
    for count in options.workers:
        floor = Floor(f"{FLOOR.name}, {counted(count)}", count)
        entries.append(Entry(floor, {heading: f"{FLOOR.name}, {counted(fewest)}"}))
    title = f"Workers on one CPU: echo of {REQUEST_BYTES:,} bytes over {WORKERS_CONNECTIONS} connections in all"
    return throughput("workers", title, load, entries, options.rounds)


MEASUREMENTS: Mapping[str, Callable[[Options], Measurement]] = {
    "echo": echo,
    "connect": connect,
    "memory": memory,
    "lines": lines,
    "workers": workers,
}
