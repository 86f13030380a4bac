"""Each check of `prefork doctor`, on trees of files that look like machines: what is good, and what is not.

Knows: `prefork.process.doctor`, `prefork.process.permissions`. Does not know: this machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from prefork.config import Config, Limits, ListenerConfig, Socket, Tls
from prefork.config.model import NamedCertificate
from prefork.process import doctor, permissions
from prefork.process.case import Case, Finding, Level
from prefork.process.machine import Machine

Check = Callable[[Case], Iterator[Finding]]
Run = Callable[..., list[Finding]]
CONF, FOLDER = "/etc/server/chat.yaml", "/etc/server"
MIB = 1 << 20
SYS = "/proc/sys/"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a check on a machine: `run(check, {path: text}, Config(…), modes={path: 0o644})`."""

    def _run(
        check: Check,
        files: Mapping[str, str],
        config: Config | None = None,
        modes: Mapping[str, int] | None = None,
        python: tuple[int, int] = (3, 11),
    ) -> list[Finding]:
        for name, text in files.items():
            path = tmp_path / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for name, mode in (modes or {}).items():
            (tmp_path / name.lstrip("/")).chmod(mode)
        machine = Machine(str(tmp_path), python)
        case = Case(machine) if config is None else Case(machine, config, CONF, (FOLDER,))
        return list(check(case))

    return _run


def serving(bind: str = "tcp://127.0.0.1:9000", **options: Any) -> Config:
    """Return the config of one listener, with more keys of the listener."""
    return Config(listeners=(ListenerConfig(bind, "app:app", "echo", **options),))


def only(found: list[Finding], level: Level) -> Finding:
    (finding,) = found
    assert finding.level is level, finding
    assert bool(finding.cure) == (level is not Level.OK)
    return finding


# --- Python and the kernel ---


def test_a_python_that_is_too_old_is_bad(run: Run) -> None:
    assert only(run(doctor.check_python, {}, python=(3, 10)), Level.BAD).what == "Python 3.10 is too old"
    only(run(doctor.check_python, {}, python=(3, 14)), Level.OK)


@pytest.mark.parametrize(("release", "missing"), [("6.18.44-fc", 0), ("5.0.0", 0), ("4.19.1", 1), ("4.4.0", 2)])
def test_a_kernel_is_told_what_it_cannot_do(run: Run, release: str, missing: int) -> None:
    found = run(doctor.check_kernel, {SYS + "kernel/osrelease": release + "\n"})
    assert [finding.level for finding in found] == [Level.WARN] * missing or [Level.OK]


@pytest.mark.parametrize(("policy", "level"), [("0", Level.OK), ("1", Level.OK), ("2", Level.WARN)])
def test_memory_that_is_counted_twice_is_told(run: Run, policy: str, level: Level) -> None:
    only(run(doctor.check_overcommit, {SYS + "vm/overcommit_memory": policy + "\n"}), level)


# --- room ---


def limits(soft: str, hard: str) -> dict[str, str]:
    head = "Limit                     Soft Limit           Hard Limit           Units\n"
    return {"/proc/self/limits": f"{head}Max open files            {soft:<20} {hard:<20} files\n"}


def test_descriptors_for_all_connections_are_good(run: Run) -> None:
    for files in (limits("1064", "1064"), limits("unlimited", "unlimited")):
        only(run(doctor.check_descriptors, files, serving(limits=Limits(connections=1000))), Level.OK)


def test_too_few_descriptors_are_told_with_the_limit_to_set(run: Run) -> None:
    config = Config(
        listeners=(
            ListenerConfig("tcp://127.0.0.1:1", "a:b", "a", limits=Limits(connections=1000)),
            ListenerConfig("unix:///run/x", "a:b", "b", limits=Limits(connections=500)),
            ListenerConfig("udp://127.0.0.1:1", "a:b", "c"),
        )
    )
    found = only(run(doctor.check_descriptors, limits("1024", "4096"), config), Level.WARN)
    assert found.what == "ulimit -n is 1024: limits.connections allow 1500 to each worker"
    assert "`ulimit -n 1564`, or LimitNOFILE=1564" in found.cure
    assert "root" not in found.cure


def test_a_hard_limit_that_is_too_low_is_named(run: Run) -> None:
    found = only(run(doctor.check_descriptors, limits("1024", "4096"), serving()), Level.WARN)
    assert "the hard limit is 4096" in found.cure


V2_SELF, V2 = {"/proc/self/cgroup": "0::/app\n"}, "/sys/fs/cgroup/app/"


def test_more_workers_than_the_quota_has_cpus_are_told(run: Run) -> None:
    files = {**V2_SELF, V2 + "cpu.max": "50000 100000\n"}
    found = only(run(doctor.check_cpus, files, Config(workers=4)), Level.WARN)
    assert found.what == "4 workers share what counts as 1 CPUs"
    only(run(doctor.check_cpus, files, Config(workers=1)), Level.OK)
    only(run(doctor.check_cpus, files, Config()), Level.OK)


@pytest.mark.parametrize(
    ("files", "level"),
    [
        ({**V2_SELF, V2 + "memory.max": str(128 * MIB)}, Level.OK),
        ({**V2_SELF, V2 + "memory.max": str(128 * MIB - 1)}, Level.WARN),
        ({**V2_SELF, V2 + "memory.max": "max"}, Level.OK),
        ({**V2_SELF, V2 + "memory.max": "max", "/sys/fs/cgroup/memory.max": str(64 * MIB)}, Level.WARN),
        (
            {"/proc/self/cgroup": "4:memory:/app\n", "/sys/fs/cgroup/memory/app/memory.limit_in_bytes": str(MIB)},
            Level.WARN,
        ),
        (
            {
                "/proc/self/cgroup": "4:memory:/app\n",
                "/sys/fs/cgroup/memory/app/memory.limit_in_bytes": "9223372036854771712",
            },
            Level.OK,
        ),
        ({}, Level.OK),
    ],
    ids=["v2 enough", "v2 too little", "v2 no limit", "v2 above", "v1 too little", "v1 no limit", "no cgroup"],
)
def test_a_cgroup_with_less_than_64_mib_for_each_worker_is_told(
    run: Run, files: Mapping[str, str], level: Level
) -> None:
    only(run(doctor.check_memory, files, Config(workers=2)), level)


@pytest.mark.parametrize(
    ("limit", "level"),
    [("max", Level.OK), ("1000", Level.OK), ("134", Level.WARN), ("7", Level.WARN), ("6", Level.BAD)],
)
def test_a_cgroup_without_room_for_processes_and_threads_is_told(run: Run, limit: str, level: Level) -> None:
    found = run(doctor.check_pids, {**V2_SELF, V2 + "pids.max": limit + "\n"}, Config(workers=2))
    only(found, level)


# --- sysctls ---


def test_a_backlog_that_the_kernel_cuts_is_told(run: Run) -> None:
    files = {SYS + "net/core/somaxconn": "128\n"}
    found = only(run(doctor.check_accept_queue, files, serving()), Level.WARN)
    assert found.what == "net.core.somaxconn is 128: socket.backlog 4096 of echo is cut to that"
    assert found.cure.startswith("sysctl -w net.core.somaxconn=4096")
    only(run(doctor.check_accept_queue, files, serving(socket=Socket(backlog=128))), Level.OK)
    assert run(doctor.check_accept_queue, files, serving("udp://127.0.0.1:1")) == []


def test_syn_cookies_that_are_off_are_told_and_only_then_the_queue_of_handshakes(run: Run) -> None:
    names = ("tcp_syncookies", "tcp_max_syn_backlog")

    def levels(*numbers: str) -> list[Level]:
        files = {f"{SYS}net/ipv4/{name}": number for name, number in zip(names, numbers, strict=True)}
        return [finding.level for finding in run(doctor.check_handshakes, files, serving())]

    assert levels("1", "16") == [Level.OK]
    assert levels("0", "8192") == [Level.WARN]
    assert levels("0", "16") == [Level.WARN, Level.WARN]


PORTS, RESERVED = SYS + "net/ipv4/ip_local_port_range", SYS + "net/ipv4/ip_local_reserved_ports"


def test_a_port_that_a_client_may_have_first_is_told_unless_it_is_reserved(run: Run) -> None:
    files = {PORTS: "32768\t60999\n", RESERVED: "\n"}
    only(run(doctor.check_ports, files, serving("tcp://127.0.0.1:32767")), Level.OK)
    only(run(doctor.check_ports, files, serving("tcp://127.0.0.1:0")), Level.OK)
    found = only(run(doctor.check_ports, files, serving("tcp://127.0.0.1:40000")), Level.WARN)
    assert "port 40000 of echo" in found.what
    assert "net.ipv4.ip_local_reserved_ports=40000" in found.cure
    for reserved in ("8080,40000", "39999-40001"):
        only(run(doctor.check_ports, {**files, RESERVED: reserved}, serving("tcp://[::1]:40000")), Level.OK)


def test_few_ports_to_connect_out_are_told(run: Run) -> None:
    found = only(run(doctor.check_ports, {PORTS: "60000 60999"}, serving()), Level.WARN)
    assert "workers can have 1000 connections at once to one server" in found.what


def test_a_receive_buffer_that_the_kernel_cuts_is_told(run: Run) -> None:
    files = {SYS + "net/core/rmem_max": "212992\n"}
    udp = "udp://127.0.0.1:1"
    found = only(
        run(doctor.check_receive_buffers, files, serving(udp, socket=Socket(receive_buffer=MIB))), Level.WARN
    )
    assert "sysctl -w net.core.rmem_max=1048576" in found.cure
    only(run(doctor.check_receive_buffers, files, serving(udp, socket=Socket(receive_buffer=4096))), Level.OK)
    assert run(doctor.check_receive_buffers, files, serving(udp)) == []


def test_a_short_queue_of_unix_datagrams_is_told(run: Run) -> None:
    name = SYS + "net/unix/max_dgram_qlen"
    only(run(doctor.check_datagram_queue, {name: "10\n"}, serving("unixgram:///run/x")), Level.WARN)
    only(run(doctor.check_datagram_queue, {name: "512\n"}, serving("unixgram:///run/x")), Level.OK)
    assert run(doctor.check_datagram_queue, {name: "10\n"}, serving("unix:///run/x")) == []


# --- who it is, and who else can read and write ---


def uid(number: int) -> dict[str, str]:
    return {"/proc/self/status": f"Name:\tx\nUid:\t0\t{number}\t0\t0\n"}


@pytest.mark.parametrize(
    ("number", "user", "level"),
    [
        (0, None, Level.WARN),
        (0, "root", Level.WARN),
        (0, "65534", Level.OK),
        (65534, None, Level.OK),
        (65534, "65534", Level.OK),
        (1234, "65534", Level.BAD),
        (0, "nobody-of-that-name", Level.BAD),
    ],
)
def test_who_runs_the_app_is_told(run: Run, number: int, user: str | None, level: Level) -> None:
    only(run(permissions.check_user, uid(number), Config(user=user)), level)


def test_a_root_folder_is_looked_at(run: Run) -> None:
    jailed = Config(user="nobody", chroot="/jail")
    check = permissions.check_root_folder
    assert run(check, {}, Config()) == []
    assert only(run(check, uid(0), jailed), Level.BAD).what == "chroot: there is no folder /jail"
    found = run(check, {**uid(0), "/jail/app.py": ""}, jailed, {"/jail": 0o755})
    assert [finding.what for finding in found] == [
        "chroot: /proc is not in there",
        "chroot: /dev/null is not in there",
    ]
    whole = {**uid(0), "/jail/proc/self/statm": "", "/jail/dev/null": ""}
    only(run(check, whole, jailed), Level.OK)
    assert only(run(check, whole, Config(chroot="/jail")), Level.WARN).cure == "write user:"
    only(run(check, {**whole, **uid(1)}, jailed), Level.BAD)
    only(run(check, {**whole, **uid(0)}, jailed, {"/jail": 0o777}), Level.WARN)


@pytest.mark.parametrize(("mode", "level"), [(0o644, Level.OK), (0o664, Level.WARN), (0o646, Level.WARN)])
def test_a_config_file_that_others_can_write_is_told(run: Run, mode: int, level: Level) -> None:
    only(run(permissions.check_config_file, {CONF: ""}, Config(), {CONF: mode}), level)


@pytest.mark.parametrize(
    ("mode", "level"), [(0o755, Level.OK), (0o775, Level.OK), (0o777, Level.WARN), (0o1777, Level.WARN)]
)
def test_an_app_folder_that_everybody_can_write_is_told(run: Run, mode: int, level: Level) -> None:
    only(run(permissions.check_app_folders, {CONF: ""}, Config(), {FOLDER: mode}), level)


@pytest.mark.parametrize(
    ("mode", "level"), [(0o700, Level.OK), (0o770, Level.WARN), (0o1777, Level.WARN), (0o777, Level.BAD)]
)
@pytest.mark.parametrize("control", ["/run/chat/chat.sock", "../../run/chat/chat.sock"])
def test_a_folder_in_which_others_can_replace_the_control_socket_is_told(
    run: Run, mode: int, level: Level, control: str
) -> None:
    only(run(permissions.check_control, {"/run/chat/x": ""}, Config(control=control), {"/run/chat": mode}), level)


def test_a_control_socket_in_no_folder_is_bad(run: Run) -> None:
    only(run(permissions.check_control, {}, Config(control="/nowhere/chat.sock")), Level.BAD)
    assert run(permissions.check_control, {}, Config()) == []


@pytest.mark.parametrize(("mode", "level"), [(0o600, Level.OK), (0o640, Level.WARN), (0o644, Level.BAD)])
@pytest.mark.parametrize(
    "tls",
    [
        Tls(cert="cert.pem", key="key.pem"),
        Tls(cert="key.pem"),
        Tls(cert="/etc/server/key.pem", sni=(NamedCertificate("a.example", "cert.pem", "/etc/server/key.pem"),)),
    ],
    ids=["in a file of its own", "in the certificate's", "of another name too"],
)
def test_a_key_that_others_can_read_is_told(run: Run, tls: Tls, mode: int, level: Level) -> None:
    files, key = {f"{FOLDER}/cert.pem": "", f"{FOLDER}/key.pem": ""}, f"{FOLDER}/key.pem"
    only(run(permissions.check_keys, files, serving("tls://127.0.0.1:1", tls=tls), {key: mode}), level)


def test_a_key_that_is_not_there_is_bad(run: Run) -> None:
    config = serving("tls://127.0.0.1:1", tls=Tls(cert="cert.pem", key="absent.pem"))
    assert only(run(permissions.check_keys, {}, config), Level.BAD).what == "there is no TLS key absent.pem"


def test_keys_of_sessions_that_are_written_are_told(run: Run) -> None:
    with_log = serving("tls://127.0.0.1:1", tls=Tls(cert="c", keylog="/tmp/keys"))
    only(run(permissions.check_keylog, {}, with_log), Level.WARN)
    assert run(permissions.check_keylog, {}, serving()) == []


# --- all of them ---


def test_a_machine_that_tells_nothing_is_passed_over(tmp_path: Path) -> None:
    found = doctor.examine(Case(Machine(str(tmp_path))))
    assert {finding.level for finding in found} == {Level.OK}


def test_without_a_config_only_the_machine_is_looked_at(run: Run) -> None:
    files = {**limits("1024", "1024"), **uid(0), SYS + "net/core/somaxconn": "128"}
    only(run(doctor.check_descriptors, files), Level.WARN)
    only(run(doctor.check_accept_queue, files), Level.WARN)
    for check in permissions.FILE_CHECKS:
        assert run(check, files) == []


def test_every_check_is_run() -> None:
    written = {
        value for home in (doctor, permissions) for name, value in vars(home).items() if name[:6] == "check_"
    }
    assert {*doctor.CHECKS, *permissions.FILE_CHECKS} == written


def test_a_finding_is_one_line_with_its_cure() -> None:
    assert str(Finding(Level.WARN, "it leaks", "mend it")) == "warn  it leaks; mend it"
    assert str(Finding(Level.OK, "it is tight")) == "ok    it is tight"
    assert os.linesep not in str(Finding(Level.BAD, "a", "b"))
