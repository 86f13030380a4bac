"""What mold and workers give up before the app is imported, as the kernel tells it: capabilities, umask, root."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.eventually import eventually
from tests.system.conftest import Prepare
from tests.system.remains import assert_nothing_is_left
from tests.system.running import ECHO, Running, exchange

SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
NOTHING = "0" * 16

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has what is given up")

WRITES = """
import os
async def echo(conn):
    async for data in conn:
        open(data.decode(), "w").close()
        await conn.send(data)
"""
CAP_NET_BIND_SERVICE = 10  # linux/capability.h
# As systemd does with User= and AmbientCapabilities=, for ports below 1024.
AMBIENT = f"""
import ctypes, encodings.ascii, encodings.idna, os, sys
import prefork.process.master
from prefork.cli import main
main(["check", "test.yaml"])  # what is imported late may not be readable later
libc = ctypes.CDLL(None)
libc.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS of linux/prctl.h
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
one = 1 << {CAP_NET_BIND_SERVICE}
assert not libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(one, one, one, 0, 0, 0))
assert not libc.prctl(47, 2, {CAP_NET_BIND_SERVICE}, 0, 0)  # PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE
sys.exit(main(["run", "test.yaml"]))
"""


SYS_PRCTL = {"x86_64": 157, "aarch64": 167}  # asm/unistd.h
REFUSED_OPTIONS = (24, 38)  # PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS of linux/prctl.h


def refuse_options() -> None:
    """Have the kernel refuse some of prctl(2) from here on, as containers may by seccomp(2)."""
    load, equal, give = 0x20, 0x15, 0x06  # BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET of linux/filter.h
    allow, refuse = 0x7FFF0000, 0x00050000 | errno.EPERM  # SECCOMP_RET_ALLOW, _ERRNO of linux/seccomp.h
    program = b"".join(
        struct.pack("@HBBI", *step)
        for step in (
            (load, 0, 0, 0),  # the call's number in struct seccomp_data
            (equal, 0, 3, SYS_PRCTL[platform.machine()]),
            (load, 0, 0, 16),  # its first argument
            (equal, 2, 0, REFUSED_OPTIONS[0]),
            (equal, 1, 0, REFUSED_OPTIONS[1]),
            (give, 0, 0, allow),
            (give, 0, 0, refuse),
        )
    )
    steps = ctypes.create_string_buffer(program)
    whole = struct.pack("@HP", len(program) // 8, ctypes.addressof(steps))
    assert ctypes.CDLL(None).prctl(22, 2, ctypes.create_string_buffer(whole), 0, 0) == 0  # PR_SET_SECCOMP, filter


@pytest.fixture
def public() -> Iterator[Running]:
    """A server, not started, in a folder that every user can read."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        server = Running(folder, {"user": "nobody"}, {"app.py": ECHO})
        yield server
        server.finish()


@pytest.fixture
def jail(public: Running) -> Iterator[Path]:
    """A folder below the server's with nothing but /proc and /dev/null."""
    folder = public.folder / "jail"
    (folder / "proc").mkdir(parents=True)
    (folder / "dev").mkdir()
    folder.chmod(0o755)
    try:
        os.mknod(folder / "dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("/dev/null cannot be made in a folder here")
    mounted = subprocess.run(
        ["mount", "-t", "proc", "proc", str(folder / "proc")], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"/proc cannot be mounted in a folder here: {mounted.stderr}")
    try:
        yield folder
        public.finish()
    finally:
        subprocess.run(["umount", "--lazy", str(folder / "proc")], check=True)


def status(pid: int) -> dict[str, str]:
    """Return what the kernel tells of a process, proc(5)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@as_root
def test_mold_and_workers_of_a_user_have_no_capability_and_get_none_again(public: Running) -> None:
    public.start()
    below = public.descendants()
    assert len(below) == 3
    for pid in below:
        found = status(pid)
        assert found["NoNewPrivs"] == "1"
        assert {name: found[name] for name in SETS} == dict.fromkeys(SETS, NOTHING)
        assert set(found["Uid"].split()) == {"65534"}
    assert status(public.pid)["CapEff"] != NOTHING


@as_root
@pytest.mark.parametrize("preload", [True, False])
def test_no_line_of_the_app_is_run_by_root(public: Running, preload: bool) -> None:
    public.write("app.py", "import os\nif 0 in os.getresuid(): raise RuntimeError('run by root')\n" + ECHO)
    public.configure({"user": "nobody", "preload": preload})
    public.start()
    with public.connect() as client:
        assert exchange(client, b"hello") == b"hello"


@as_root
def test_mold_and_workers_have_the_users_groups_alone(public: Running) -> None:
    public.start()
    expected = {str(group) for group in os.getgrouplist("nobody", 65534)}
    for pid in public.descendants():
        assert set(status(pid)["Groups"].split()) == expected
        assert set(status(pid)["Gid"].split()) == {"65534"}


@as_root
def test_a_root_mold_without_a_user_keeps_its_capabilities(prepare: Prepare) -> None:
    server = prepare().start()
    for pid in server.descendants():
        found = status(pid)
        assert found["NoNewPrivs"] == "1"
        assert found["CapEff"] == status(server.pid)["CapEff"]


@as_root
@pytest.mark.skipif(platform.machine() not in SYS_PRCTL, reason="the number of prctl(2) is not known here")
def test_a_kernel_that_refuses_to_take_privileges_is_told_once_and_the_server_serves(public: Running) -> None:
    public.start_by(refuse_options)
    for pid in public.descendants():
        found = status(pid)
        assert (found["NoNewPrivs"], found["CapEff"], found["CapInh"]) == ("0", NOTHING, NOTHING)
    with public.connect() as client:
        assert exchange(client, b"hello") == b"hello"
    for warning in ("refuses no_new_privs", "refuses to empty the capability bounding set"):
        assert public.log().count(warning) == 1


@as_root
def test_capabilities_that_a_user_was_started_with_end_with_the_master(public: Running) -> None:
    public.configure({"log": {"format": "text"}})
    public.folder.chmod(0o777)
    public.process = subprocess.Popen(
        [sys.executable, "-c", AMBIENT],
        cwd=public.folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    eventually(public.is_ready, within=30)
    assert status(public.pid)["CapAmb"] == f"{1 << CAP_NET_BIND_SERVICE:016x}"
    for pid in public.descendants():
        found = status(pid)
        assert {found[name] for name in SETS if name != "CapBnd"} == {NOTHING}  # emptying CapBnd takes CAP_SETPCAP


@pytest.mark.parametrize(("umask", "expected"), [("0027", 0o640), ("077", 0o600), ("000", 0o666)])
def test_files_that_the_app_makes_get_the_umask(prepare: Prepare, umask: str, expected: int) -> None:
    server = prepare({"app.py": WRITES}, umask=umask).start()
    with server.connect() as client:
        exchange(client, b"made")
    assert (server.folder / "made").stat().st_mode & 0o777 == expected
    assert {status(pid)["Umask"] for pid in server.descendants()} == {f"{int(umask, 8):04o}"}
    assert status(server.pid)["Umask"] == status(os.getpid())["Umask"]


def test_the_umask_is_changed_by_a_reload(prepare: Prepare) -> None:
    server = prepare(umask="0027").start()
    server.configure({"umask": "0077"})
    assert server.reload()["changes"] == ["umask 0027→0077"]
    assert {status(pid)["Umask"] for pid in server.worker_pids()} == {"0077"}


@as_root
def test_workers_are_confined_to_a_folder_and_import_the_app_in_there(public: Running, jail: Path) -> None:
    (jail / "app.py").write_text(WRITES)
    (jail / "outside").mkdir()
    (jail / "outside").chmod(0o777)
    (public.folder / "app.py").write_text("raise RuntimeError('imported outside')")
    public.configure({"user": "nobody", "chroot": str(jail)})
    public.start()
    for pid in public.descendants():
        assert os.readlink(f"/proc/{pid}/root") == str(jail)
        assert os.readlink(f"/proc/{pid}/cwd") == str(jail)
        assert status(pid)["CapEff"] == NOTHING
    assert os.readlink(f"/proc/{public.pid}/root") == "/"
    with public.connect() as client:
        exchange(client, b"/outside/../../../outside/made")
    assert (jail / "outside/made").exists()
    assert public.reload()["verdict"] == "committed"


@as_root
def test_an_app_that_lies_in_the_folder_under_the_path_of_the_config_is_found(public: Running, jail: Path) -> None:
    package = jail / "service"
    package.mkdir()
    server = Running(package, {"user": "nobody", "chroot": str(jail), "preload": False}, {"app.py": ECHO})
    try:
        server.start()
        with server.connect() as client:
            assert exchange(client, b"hello") == b"hello"
    finally:
        server.finish()


@as_root
@pytest.mark.parametrize(
    ("folder", "cause"),
    [
        ("absent", "there is no such folder; make it, or set `chroot:`"),
        ("empty", "/proc is not in there; mount -t proc proc "),
    ],
)
def test_a_folder_that_cannot_be_the_root_is_refused(public: Running, folder: str, cause: str) -> None:
    (public.folder / "empty").mkdir()
    public.configure({"user": "nobody", "chroot": str(public.folder / folder)})
    done = public.run("run", "test.yaml")
    assert done.returncode == 3
    assert f"cannot confine workers to {public.folder / folder}: {cause}" in done.stderr
    assert_nothing_is_left(public.folder)


@as_root
def test_a_reload_to_a_folder_that_cannot_be_the_root_is_refused(public: Running) -> None:
    public.expected_errors.append("reload refused")
    public.start()
    before = public.worker_pids()
    public.configure({"user": "nobody", "chroot": "/nowhere/at/all"})
    verdict = public.reload()
    assert verdict["verdict"] == "refused"
    assert "there is no such folder" in verdict["reason"]
    assert public.worker_pids() == before
