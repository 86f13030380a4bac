"""What is measured: the measurements, their servers, and who is compared with whom.

Knows: every peer by its name in the tables.
Does not know: how anything is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from tools.benchmark import idle
from tools.benchmark.figures import TIMES
from tools.benchmark.load import Work
from tools.benchmark.measurement import Entry, Measurement, Sampling, Throughput
from tools.benchmark.server import DatagramFloor, Floor, Prefork, Script, Server

CALLBACK_APP = "prefork.apps.echo:Echo"
COROUTINE_APP = "prefork.apps.echo:echo"
DATAGRAM_APP = "prefork.apps.echo:datagram"

REQUEST_BYTES = 1024
LINE_BYTES = 64
CONNECTIONS = 50
WORKERS_CONNECTIONS = 64
TLS_SIZES: Mapping[str, int] = {"1 KiB": 1024, "64 KiB": 65536}
FULL = ", full"
DATAGRAM_BYTES = 64
BURST = 16
# Linux books some 800 bytes on a small datagram: a receive buffer of 212,992, its default, must hold all bursts.
BURST_CLIENTS = 8

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
UVLOOP_TLS = replace(UVLOOP_PROTOCOL, has_tls=True)
ASYNCIO_TLS = replace(ASYNCIO_PROTOCOL, has_tls=True)
TLS_SERVERS = (UVLOOP_TLS, ASYNCIO_TLS, replace(CALLBACK, transport="tls"), replace(COROUTINE, transport="tls"))
DATAGRAM_FLOOR = DatagramFloor("C recvfrom, sendto", "single")
SEGMENTED_FLOOR = DatagramFloor("C recvmsg, sendmsg; GRO, GSO", "segmented")
UVLOOP_DATAGRAMS = Script("uvloop datagrams", "asyncio_peer.py", ("uvloop", "datagrams"), "uvloop")
ASYNCIO_DATAGRAMS = Script("asyncio datagrams", "asyncio_peer.py", ("asyncio", "datagrams"))
DATAGRAMS = Prefork("prefork datagrams", DATAGRAM_APP, transport="udp")


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asked for."""

    rounds: int
    seconds: float
    workers: Sequence[int]


def against(servers: Sequence[Server], sample: Sampling, *peers: Server, suffix: str = "") -> list[Entry]:
    """Return entries that are all compared with the same peers, in the rows with the same suffix."""
    names = {f"{TIMES} {peer.name}": f"{peer.name}{suffix}" for peer in peers}
    return [Entry(server, names, sample, suffix) for server in servers]


def throughput(name: str, title: str, load: Throughput, entries: Sequence[Entry], rounds: int) -> Measurement:
    return Measurement(name, title, load.figures, entries, rounds)


def echo(options: Options) -> Measurement:
    load = Throughput(Work("exchange", CONNECTIONS, REQUEST_BYTES), options.seconds, "request")
    asyncs = [UVLOOP_PROTOCOL, UVLOOP_STREAMS, ASYNCIO_PROTOCOL, ASYNCIO_STREAMS]
    servers = [FLOOR, *asyncs, GEVENT, CALLBACK, COROUTINE]
    entries = against(servers, load.sample, UVLOOP_PROTOCOL, UVLOOP_STREAMS, FLOOR)
    title = f"Echo of {REQUEST_BYTES:,} bytes over {CONNECTIONS} connections"
    return throughput("echo", title, load, entries, options.rounds)


def connect(options: Options) -> Measurement:
    load = Throughput(Work("connect", CONNECTIONS, 1), options.seconds, "connection")
    servers = [FLOOR, UVLOOP_PROTOCOL, ASYNCIO_PROTOCOL, CALLBACK, COROUTINE]
    entries = against(servers, load.sample, UVLOOP_PROTOCOL, FLOOR)
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
        entries=against(servers, idle.idle_memory, UVLOOP_PROTOCOL, UVLOOP_STREAMS),
        rounds=1,
    )


def lines(options: Options) -> Measurement:
    pipelined = REQUEST_BYTES // LINE_BYTES
    work = Work("exchange", CONNECTIONS, REQUEST_BYTES, LINE_BYTES)
    load = Throughput(work, options.seconds, "line", pipelined)
    servers = [FLOOR, UVLOOP_READLINE, ASYNCIO_READLINE, LINES]
    entries = against(servers, load.sample, UVLOOP_READLINE, FLOOR)
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
        entries.append(Entry(server, {heading: f"{CALLBACK.name}, {counted(fewest)}"}, load.sample))
    for count in options.workers:
        floor = Floor(f"{FLOOR.name}, {counted(count)}", count)
        entries.append(Entry(floor, {heading: f"{FLOOR.name}, {counted(fewest)}"}, load.sample))
    title = f"Workers on one CPU: echo of {REQUEST_BYTES:,} bytes over {WORKERS_CONNECTIONS} connections in all"
    return throughput("workers", title, load, entries, options.rounds)


def tls(options: Options) -> Measurement:
    loads = {
        size: Throughput(Work("exchange", CONNECTIONS, count, transport="tls"), options.seconds, "request")
        for size, count in TLS_SIZES.items()
    }
    entries: list[Entry] = []
    for size, load in loads.items():
        entries += against(TLS_SERVERS, load.sample, UVLOOP_TLS, ASYNCIO_TLS, suffix=f", {size}")
    title = f"Echo by TLS 1.3 over {CONNECTIONS} connections"
    return throughput("tls", title, next(iter(loads.values())), entries, options.rounds)


def handshake(options: Options) -> Measurement:
    full, resumed = (
        Throughput(Work(kind, CONNECTIONS, 1, 0, "tls"), options.seconds, "connection", has_handshakes=True)
        for kind in ("connect", "resume")
    )
    entries = against(TLS_SERVERS, full.sample, UVLOOP_TLS, suffix=FULL)
    for entry in against(TLS_SERVERS, resumed.sample, UVLOOP_TLS, suffix=", resumed"):
        itself = {f"{TIMES} full": f"{entry.server.name}{FULL}"}
        entries.append(replace(entry, against={**entry.against, **itself}))
    title = f"Connect, TLS 1.3 handshake, send 1 byte, receive it, close; {CONNECTIONS} at a time"
    return throughput("handshake", title, full, entries, options.rounds)


def udp(options: Options) -> Measurement:
    work = Work("exchange", CONNECTIONS, DATAGRAM_BYTES, DATAGRAM_BYTES, "udp")
    load = Throughput(work, options.seconds, "datagram")
    servers = [DATAGRAM_FLOOR, UVLOOP_DATAGRAMS, ASYNCIO_DATAGRAMS, DATAGRAMS]
    entries = against(servers, load.sample, UVLOOP_DATAGRAMS, ASYNCIO_DATAGRAMS, DATAGRAM_FLOOR)
    title = f"Datagrams of {DATAGRAM_BYTES} bytes, {CONNECTIONS} clients with one on its way each"
    return throughput("udp", title, load, entries, options.rounds)


def bursts(options: Options) -> Measurement:
    work = Work("exchange", BURST_CLIENTS, BURST * DATAGRAM_BYTES, DATAGRAM_BYTES, "udp")
    load = Throughput(work, options.seconds, "datagram", BURST)
    servers = [DATAGRAM_FLOOR, SEGMENTED_FLOOR, UVLOOP_DATAGRAMS, ASYNCIO_DATAGRAMS, DATAGRAMS]
    entries = against(servers, load.sample, UVLOOP_DATAGRAMS, ASYNCIO_DATAGRAMS, DATAGRAM_FLOOR, SEGMENTED_FLOOR)
    title = f"Bursts of {BURST} datagrams of {DATAGRAM_BYTES} bytes by UDP_SEGMENT, {BURST_CLIENTS} clients"
    return throughput("bursts", title, load, entries, options.rounds)


MEASUREMENTS: Mapping[str, Callable[[Options], Measurement]] = {
    "echo": echo,
    "connect": connect,
    "memory": memory,
    "lines": lines,
    "workers": workers,
    "tls": tls,
    "handshake": handshake,
    "udp": udp,
    "bursts": bursts,
}
