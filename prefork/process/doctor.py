"""What `prefork doctor` checks before a server meets its clients: is there room, does the kernel agree?

It binds nothing, starts nothing and imports no app. What a machine does not tell is passed over.

Knows: what a server of this kind needs of its machine. Does not know: how facts are read, or findings shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prefork.process.case import Case, Finding, bad, good, warn
from prefork.process.permissions import FILE_CHECKS

SPARE_DESCRIPTORS = 64  # of a worker beyond connections: listening sockets, log, channel, files of the app
WORKER_BYTES = 64 * 1024 * 1024  # an interpreter with a small app has 20 to 40 MiB of its own after the fork
OTHER_PROCESSES = 3  # the master, a mold, and the next one during a reload
FEW_THREADS = 32  # of concurrent.futures.ThreadPoolExecutor, which asyncio.to_thread uses: min(32, CPUs + 4)
FEW_PORTS = 16_384  # of 28232 that Linux begins with: so many connections at once to one address
FEW_DATAGRAMS = 512  # systemd sets net.unix.max_dgram_qlen to it; the kernel begins with 10
OLDEST_PYTHON = (3, 11)
FEATURES = (  # since which version of Linux; without one of them prefork serves too
    ((4, 5), "new connections go to workers that serve (SO_ATTACH_REUSEPORT_CBPF)"),
    ((5, 0), "bursts of datagrams are read and sent with one call (UDP_GRO, UDP_SEGMENT)"),
)


def examine(case: Case) -> list[Finding]:
    """Return all that is found, in the order of the checks."""
    return [finding for check in (*CHECKS, *FILE_CHECKS) for finding in check(case)]


def check_python(case: Case) -> Iterator[Finding]:
    version, oldest = (".".join(map(str, pair)) for pair in (case.machine.python, OLDEST_PYTHON))
    if case.machine.python < OLDEST_PYTHON:
        yield bad(f"Python {version} is too old", f"run prefork with {oldest} or later")
    else:
        yield good(f"Python {version}")


def check_kernel(case: Case) -> Iterator[Finding]:
    kernel = case.machine.kernel()
    if kernel is None:
        return
    missing = [(since, what) for since, what in FEATURES if kernel < since]
    for since, what in missing:
        yield warn(
            f"Linux {kernel[0]}.{kernel[1]} cannot do this: {what}", f"run Linux {since[0]}.{since[1]} or later"
        )
    if not missing:
        yield good(f"Linux {kernel[0]}.{kernel[1]} has all that prefork can use")


def check_descriptors(case: Case) -> Iterator[Finding]:
    limits = case.machine.open_files()
    need = sum(listener.limits.connections for listener, _ in case.streams()) + SPARE_DESCRIPTORS
    if limits is None:
        return
    if limits[0] >= need:
        yield good(f"ulimit -n is enough for {need} descriptors in each worker")
        return
    where = "" if limits[1] >= need else f", which root has to allow: the hard limit is {limits[1]}"
    yield warn(
        f"ulimit -n is {limits[0]}: limits.connections allow {need - SPARE_DESCRIPTORS} to each worker",
        f"`ulimit -n {need}`, or LimitNOFILE={need} of systemd{where}; or lower limits.connections",
    )


def check_accept_queue(case: Case) -> Iterator[Finding]:
    most = case.machine.sysctl("net.core.somaxconn")
    if most is None or not case.streams():
        return
    cut = [listener for listener, _ in case.streams() if listener.socket.backlog > most[0]]
    for listener in cut:
        backlog = listener.socket.backlog
        yield warn(
            f"net.core.somaxconn is {most[0]}: socket.backlog {backlog} of {listener.name} is cut to that",
            f"sysctl -w net.core.somaxconn={backlog}, or lower socket.backlog",
        )
    if not cut:
        yield good(f"net.core.somaxconn is {most[0]}: no socket.backlog is cut")


def check_handshakes(case: Case) -> Iterator[Finding]:
    """Look at SYN cookies; tcp_max_syn_backlog counts only without them, tcp_conn_request() of net/ipv4."""
    cookies = case.machine.sysctl("net.ipv4.tcp_syncookies")
    waiting = case.machine.sysctl("net.ipv4.tcp_max_syn_backlog")
    if cookies is None or not any(not address.is_unix for _, address in case.streams()):
        return
    if cookies[0]:
        yield good("net.ipv4.tcp_syncookies is on")
        return
    yield warn(
        "net.ipv4.tcp_syncookies is 0: a flood of SYNs keeps everybody out", "sysctl -w net.ipv4.tcp_syncookies=1"
    )
    backlog = max(listener.socket.backlog for listener, address in case.streams() if not address.is_unix)
    if waiting is not None and waiting[0] < backlog:
        yield warn(
            f"net.ipv4.tcp_max_syn_backlog is {waiting[0]}: fewer than socket.backlog {backlog}",
            f"sysctl -w net.ipv4.tcp_max_syn_backlog={backlog}",
        )


def check_ports(case: Case) -> Iterator[Finding]:
    """Look at the ports that the kernel gives to sockets which connect out, of IPv6 too."""
    found = case.machine.sysctl("net.ipv4.ip_local_port_range")
    if found is None or len(found) != 2:
        return
    ports = range(found[0], found[1] + 1)
    what = f"net.ipv4.ip_local_port_range is {found[0]} to {found[1]}"
    reserved = case.machine.reserved_ports()
    taken = [
        (listener.name, address.port)
        for listener, address in case.listeners()
        if address.port in ports and not any(address.port in some for some in reserved)
    ]
    if len(ports) < FEW_PORTS:
        yield warn(
            f"{what}: workers can have {len(ports)} connections at once to one server",
            'sysctl -w net.ipv4.ip_local_port_range="1024 65535"',
        )
    for name, port in taken:
        yield warn(
            f"{what}: a client's socket may have port {port} of {name} before the server starts",
            f"sysctl -w net.ipv4.ip_local_reserved_ports={port} (and what is in there), or choose a lower port",
        )
    if len(ports) >= FEW_PORTS and not taken:
        yield good(f"{what}: no listener's port is in there")


def check_receive_buffers(case: Case) -> Iterator[Finding]:
    most = case.machine.sysctl("net.core.rmem_max")
    wanted = [(listener.name, listener.socket.receive_buffer) for listener, _ in case.listeners()]
    wanted = [(name, size) for name, size in wanted if size]
    if most is None or not wanted:
        return
    for name, size in wanted:
        if size > most[0]:
            yield warn(
                f"net.core.rmem_max is {most[0]}: socket.receive_buffer {size} of {name} is cut to that",
                f"sysctl -w net.core.rmem_max={size}, or lower socket.receive_buffer",
            )
    if all(size <= most[0] for _, size in wanted):
        yield good(f"net.core.rmem_max is {most[0]}: no socket.receive_buffer is cut")


def check_datagram_queue(case: Case) -> Iterator[Finding]:
    length = case.machine.sysctl("net.unix.max_dgram_qlen")
    if length is None or not any(address.scheme == "unixgram" for _, address in case.listeners()):
        return
    if length[0] < FEW_DATAGRAMS:
        yield warn(
            f"net.unix.max_dgram_qlen is {length[0]}: behind so many datagrams a sender at unixgram:// is held",
            f"sysctl -w net.unix.max_dgram_qlen={FEW_DATAGRAMS}",
        )
    else:
        yield good(f"net.unix.max_dgram_qlen is {length[0]}")


def check_cpus(case: Case) -> Iterator[Finding]:
    workers, cpus = case.workers(), case.machine.count_workers(None)
    if workers > cpus:
        yield warn(
            f"{workers} workers share what counts as {cpus} CPUs", "write workers: auto, or raise the quota"
        )
    else:
        yield good(f"{workers} workers for {cpus} CPUs")


def check_memory(case: Case) -> Iterator[Finding]:
    limit = case.machine.cgroup_limit("memory", "memory.max", "memory.limit_in_bytes")
    workers = case.workers()
    if limit is None:
        yield good("no cgroup limits the memory")
    elif limit < workers * WORKER_BYTES:
        yield warn(
            f"the cgroup has {limit >> 20} MiB for {workers} workers: the kernel kills one when it is full",
            f"raise memory.max to {(workers * WORKER_BYTES) >> 20} MiB or more, or write fewer workers",
        )
    else:
        yield good(f"the cgroup has {limit >> 20} MiB for {workers} workers")


def check_pids(case: Case) -> Iterator[Finding]:
    limit = case.machine.cgroup_limit("pids", "pids.max", "pids.max")
    workers = case.workers()
    processes = 2 * workers + OTHER_PROCESSES  # two generations, during a reload
    threads = processes + 2 * workers * FEW_THREADS
    what = f"the cgroup has room for {limit} processes and threads"
    if limit is None:
        yield good("no cgroup limits the processes")
    elif limit < processes:
        yield bad(f"{what}: {workers} workers and their reload need {processes}", f"raise pids.max to {threads}")
    elif limit < threads:
        yield warn(f"{what}: threads of {workers} workers may need {threads}", f"raise pids.max to {threads}")
    else:
        yield good(what)


def check_overcommit(case: Case) -> Iterator[Finding]:
    """Look at what a fork of a mold with a large heap costs: with 2 all of it, though it is shared."""
    policy = case.machine.sysctl("vm.overcommit_memory")
    if policy is None:
        return
    if policy[0] == 2:
        yield warn(
            "vm.overcommit_memory is 2: each worker counts as much memory as the mold, and may not be forked",
            "sysctl -w vm.overcommit_memory=0",
        )
    else:
        yield good(f"vm.overcommit_memory is {policy[0]}")


CHECKS: tuple[Callable[[Case], Iterator[Finding]], ...] = (
    check_python,
    check_kernel,
    check_cpus,
    check_memory,
    check_pids,
    check_overcommit,
    check_descriptors,
    check_accept_queue,
    check_handshakes,
    check_ports,
    check_receive_buffers,
    check_datagram_queue,
)
