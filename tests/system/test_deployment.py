"""What starts prefork elsewhere, conf/prefork.service, kubernetes.yaml and compose.yaml: sound, and at one.

Their times must fit the config that they carry; that config is checked and served as it stands, but for ports.
"""

from __future__ import annotations

import configparser
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from prefork.config import Config, Loaded, read_config
from prefork.config.limits import Limits
from prefork.config.model import Timeouts
from prefork.process.crew import DRAIN_GRACE_SECONDS
from tests.eventually import eventually
from tests.examples import CONF
from tests.system.conftest import Prepare
from tests.system.processes import is_gone, stopped
from tests.system.running import ECHO, Running, exchange, run_prefork

UNIT, KUBERNETES, COMPOSE = CONF / "prefork.service", CONF / "kubernetes.yaml", CONF / "compose.yaml"
FIRST_WITH_RELOAD = 253  # systemd: Type=notify-reload


def unit(section: str) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(interpolation=None, comment_prefixes=("#",), delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # as the documentation has it
    parser.read(UNIT)
    return parser[section]


def resources() -> dict[str, Any]:
    """Return the documents of kubernetes.yaml by their kind."""
    found = list(yaml.safe_load_all(KUBERNETES.read_text()))
    assert len({document["kind"] for document in found}) == len(found)
    return {document["kind"]: document for document in found}


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = resources()["Deployment"]["spec"]["template"]["spec"]
    return spec


def container() -> dict[str, Any]:
    (only,) = pod()["containers"]
    found: dict[str, Any] = only
    return found


def service() -> dict[str, Any]:
    (only,) = yaml.safe_load(COMPOSE.read_text())["services"].values()
    found: dict[str, Any] = only
    return found


def embedded(name: str) -> str:
    """Return the config that a file carries; what it takes out of the environment it writes `$$`."""
    if name == "kubernetes":
        (text,) = resources()["ConfigMap"]["data"].values()
    else:
        text = yaml.safe_load(COMPOSE.read_text())["configs"]["prefork"]["content"].replace("$$", "$")
    return str(text)


def config(name: str, folder: Path) -> Config:
    path = folder / f"{name}.yaml"
    path.write_text(embedded(name))
    loaded: Loaded = read_config(str(path), {})
    assert loaded.warnings == ()
    return loaded.config


def seconds(text: str) -> float:
    number = re.fullmatch(r"(\d+)s", text)
    assert number is not None, text
    return float(number[1])


def last(times: Timeouts) -> float:
    """Return how long a stop may take."""
    return times.delay + times.drain + DRAIN_GRACE_SECONDS


@pytest.fixture
def public() -> Iterator[Running]:
    """A server, not started, in a folder that every user can read."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        server = Running(Path(name), {}, {"app.py": ECHO})
        yield server
        server.finish()


# --- the configs that are carried ---


@pytest.mark.parametrize("name", ["kubernetes", "compose"])
def test_the_config_passes_its_check(name: str, tmp_path: Path) -> None:
    (tmp_path / "prefork.yaml").write_text(embedded(name))
    done = run_prefork("check", "prefork.yaml", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["kubernetes", "compose"])
def test_the_config_is_served(name: str, prepare: Prepare) -> None:
    server = prepare()
    server.write("test.yaml", embedded(name))
    server.start(
        f"--set=control={server.control}",
        f"--set=log.file={server.log_file}",
        "--set=log.format=text",
        "--set=workers=2",
        "--set=timeouts.delay=0s",
        "--set=listeners.echo.bind=tcp://127.0.0.1:0",
        "--set=admin.bind=tcp://127.0.0.1:0",
    )
    with server.connect() as client:
        assert exchange(client, b"hello") == b"hello"


# --- systemd ---


def test_the_times_of_the_unit_are_longer_than_what_they_wait_for() -> None:
    section, times = unit("Service"), Timeouts()
    assert float(section["TimeoutStopSec"]) > last(times)
    assert float(section["TimeoutStartSec"]) >= 2 * times.boot
    assert float(section["WatchdogSec"]) >= 10


def test_the_unit_has_what_the_program_tells_it() -> None:
    section = unit("Service")
    assert section["Type"] == "notify-reload"
    assert section["KillMode"] == "mixed"
    assert section["ExecStart"].split()[1] == "run"
    assert section["RestartPreventExitStatus"] == "2"
    assert int(section["LimitNOFILE"]) * 0.8 >= Limits().connections
    assert section["RuntimeDirectory"] == "prefork"  # which wire.run_directories() knows


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    shown = subprocess.run(["systemd-analyze", "--version"], capture_output=True, text=True, check=True).stdout
    text = re.sub("(?m)^ExecStart=.*", "ExecStart=/bin/true", UNIT.read_text())  # it must be there
    if int(shown.split()[1]) < FIRST_WITH_RELOAD:
        text = text.replace("Type=notify-reload", "Type=notify")
    (tmp_path / "prefork.service").write_text(text)
    command = ["systemd-analyze", "--man=no", "verify", str(tmp_path / "prefork.service")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "Failed to initialize" in done.stderr:
        pytest.skip(f"systemd-analyze cannot work here: {done.stderr.strip()}")
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_capabilities_that_the_unit_leaves_are_enough(public: Running) -> None:
    """To bind a low port, become another user, give it a socket, reload, kill a worker that stands still."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("it takes root and setpriv(1)")
    names = unit("Service")["CapabilityBoundingSet"].split()
    left = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in names)
    low = (f"127.9.{os.getpid() % 250 + 1}.{os.getpid() // 250 % 250 + 1}", 7)  # nobody else's at this time
    app = {"app": "app:echo"}
    rows: list[dict[str, Any]] = [
        {"name": "low", "bind": f"tcp://{low[0]}:{low[1]}", **app},
        {
            "name": "unix",
            "bind": f"unix://{public.folder}/u",
            "socket": {"owner": "nobody", "mode": "0600"},
            **app,
        },
    ]
    timeouts = {"boot": "20s", "beat": "1s", "drain": "5s"}
    public.configure({"user": "nobody", "listeners": rows, "timeouts": timeouts})
    public.process = subprocess.Popen(
        [
            *("setpriv", "--no-new-privs", f"--bounding-set=-all,{left}"),
            *(sys.executable, "-m", "prefork", "run", "test.yaml"),
        ],
        cwd=public.folder,
        env={**os.environ, "PYTHONPATH": str(CONF.parent)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    eventually(public.is_ready, within=30)
    nobody = pwd.getpwnam("nobody").pw_uid
    assert {Path(f"/proc/{pid}").stat().st_uid for pid in public.worker_pids()} == {nobody}
    assert (public.folder / "u").stat().st_uid == nobody
    assert "warning" not in public.log()
    with socket.create_connection(low, timeout=10) as client:
        assert exchange(client, b"hello") == b"hello"
    assert public.reload()["verdict"] == "committed"
    public.expected_errors += ["has not been round its loop", "the stack of worker", "was ended by SIGKILL"]
    victim = min(public.worker_pids())
    with stopped(victim):
        eventually(lambda: is_gone(victim))
    eventually(public.is_ready)


# --- Kubernetes ---


def test_the_schemas_of_kubernetes_are_kept() -> None:
    schemas = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    for document in resources().values():
        schemas.validate(document, "1.33", strict=True)


def test_a_pod_has_the_time_to_end(tmp_path: Path) -> None:
    times = config("kubernetes", tmp_path).timeouts
    assert pod()["terminationGracePeriodSeconds"] > last(times)
    assert "lifecycle" not in container(), "timeouts.delay is in place of it"
    ready = container()["readinessProbe"]
    assert times.delay > 2 * ready["periodSeconds"] * ready["failureThreshold"]


def test_a_pod_has_the_time_to_start(tmp_path: Path) -> None:
    start, times = container()["startupProbe"], config("kubernetes", tmp_path).timeouts
    assert start["periodSeconds"] * start["failureThreshold"] >= 2 * times.boot


def test_probes_and_ports_are_those_of_the_config(tmp_path: Path) -> None:
    chosen = config("kubernetes", tmp_path)
    ports = {row["name"]: row["containerPort"] for row in container()["ports"]}
    binds = {listener.name: listener.bind for listener in chosen.listeners} | {"admin": str(chosen.admin.bind)}
    assert {name: int(bind.rpartition(":")[2]) for name, bind in binds.items()} == ports
    assert all(bind.startswith("tcp://0.0.0.0:") for bind in binds.values())
    probes = {name: container()[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert {probe["port"] for probe in probes.values()} == {"admin"}
    assert [probe["path"] for probe in probes.values()] == ["/healthz/ready", "/healthz/ready", "/healthz/live"]
    (port,) = resources()["Service"]["spec"]["ports"]
    assert port["targetPort"] in ports
    notes = resources()["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert int(notes["prometheus.io/port"]) == ports["admin"]


def test_the_parts_name_one_another(tmp_path: Path) -> None:
    found = resources()
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert found["Deployment"]["spec"]["selector"]["matchLabels"] == found["Service"]["spec"]["selector"] == labels
    scaled = found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert scaled == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": found["Deployment"]["metadata"]["name"],
    }
    assert "replicas" not in found["Deployment"]["spec"], "it would undo the autoscaler at each apply"
    volumes = {volume["name"]: volume for volume in pod()["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container()["volumeMounts"]}
    assert volumes.keys() == mounts.keys()
    assert volumes["config"]["configMap"]["name"] == found["ConfigMap"]["metadata"]["name"]
    (key,) = found["ConfigMap"]["data"]
    assert container()["args"] == ["run", f"{mounts['config']}/{key}"]
    assert "/tmp" in mounts.values()  # for the control socket: the root is read-only
    assert pod()["enableServiceLinks"] is False


def test_a_pod_asks_for_what_the_autoscaler_counts_in_and_has_no_rights() -> None:
    (metric,) = resources()["HorizontalPodAutoscaler"]["spec"]["metrics"]
    wanted = container()["resources"]
    assert metric["resource"]["name"] in wanted["requests"]
    assert wanted["requests"].keys() == wanted["limits"].keys()
    assert pod()["securityContext"]["runAsNonRoot"]
    context = container()["securityContext"]
    assert context["readOnlyRootFilesystem"]
    assert not context["allowPrivilegeEscalation"]
    assert context["capabilities"] == {"drop": ["ALL"]}


def test_the_images_user_is_the_one_that_is_asked_for() -> None:
    (user,) = re.findall(r"(?m)^USER (\S+)$", (CONF.parent / "Dockerfile").read_text())
    context = pod()["securityContext"]
    assert f"{context['runAsUser']}:{context['runAsGroup']}" == service()["user"] == user


# --- Compose ---


def test_a_container_has_the_time_to_end(tmp_path: Path) -> None:
    assert seconds(service()["stop_grace_period"]) > last(config("compose", tmp_path).timeouts)


def test_a_container_publishes_the_ports_of_the_config(tmp_path: Path) -> None:
    chosen = config("compose", tmp_path)
    binds = [*(listener.bind for listener in chosen.listeners), str(chosen.admin.bind)]
    inside = [str(row).rpartition(":")[2] for row in service()["ports"]]
    assert inside == [bind.rpartition(":")[2] for bind in binds]
    assert service()["ports"][1].startswith("127.0.0.1:"), "the admin port is not for the world"


def test_a_container_runs_the_config_that_the_file_carries() -> None:
    (given,) = service()["configs"]
    assert service()["command"] == ["run", given["target"]]
    assert given["source"] in yaml.safe_load(COMPOSE.read_text())["configs"]
    assert service()["read_only"]
    assert service()["ulimits"]["nofile"] * 0.8 >= Limits().connections
    assert any(mount.startswith("/tmp") for mount in service()["tmpfs"])


def test_docker_finds_nothing_wrong_with_the_file() -> None:
    docker = ["docker", "compose"]
    if shutil.which("docker") is None or subprocess.run([*docker, "version"], capture_output=True).returncode:
        pytest.skip("docker compose is not installed")
    command = [*docker, "--file", str(COMPOSE), "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
