"""Every file in conf/ and the README's example are served as they stand, but for the port."""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.examples import EXAMPLES
from tests.system.conftest import Prepare
from tests.system.running import Running, exchange, receive

ROOT = Path(__file__).parents[2]


def is_served(running: Running, listener: dict[str, Any]) -> bool:
    """Ask a listener of any kind for an echo."""
    scheme, _, where = listener["bind"].partition("://")
    kind = socket.SOCK_DGRAM if scheme in ("udp", "unixgram") else socket.SOCK_STREAM
    if scheme in ("unix", "unixgram"):
        client = socket.socket(socket.AF_UNIX, kind)
        client.bind("")  # the kernel gives it a name to be answered under, unix(7)
        client.connect("\0" + where[1:] if where.startswith("@") else where)
    else:
        client = socket.socket(socket.AF_INET, kind)
        client.connect(("127.0.0.1", running.port(listener["name"])))
    client.settimeout(10)
    with client:
        if scheme == "tls":
            client = unverified().wrap_socket(client)
        with client:
            return exchange(client, b"hello\n") == b"hello\n"


def unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def somewhere(bind: str, name: str, folder: Path) -> str:
    """Return a bind of the same kind that no other test has."""
    scheme, _, where = bind.partition("://")
    if where.startswith("@"):
        return f"{scheme}://@{folder.parent.name}-{os.getpid()}-{name}"
    return f"{scheme}://{folder}/{name}.sock" if scheme in ("unix", "unixgram") else f"{scheme}://127.0.0.1:0"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_a_config_of_conf_is_served(path: Path, prepare: Prepare) -> None:
    config: dict[str, Any] = yaml.safe_load(path.read_text())
    running = prepare()
    shutil.copy(path, running.folder / "test.yaml")
    if "cert.pem" in path.read_text():
        if shutil.which("openssl") is None:
            pytest.skip("openssl is not installed, which tools/make-cert needs")
        subprocess.run([ROOT / "tools/make-cert", running.folder], check=True, capture_output=True)
    rows = [{**row, "bind": somewhere(row["bind"], row["name"], running.folder)} for row in config["listeners"]]
    running.start(
        f"--set=control={running.control}",
        f"--set=log.file={running.log_file}",
        "--set=log.format=text",
        *(f"--set=listeners.{row['name']}.bind={row['bind']}" for row in rows),
    )
    assert [row["name"] for row in rows if not is_served(running, row)] == []
    assert running.reload()["verdict"] == "committed"
    assert [row["name"] for row in rows if not is_served(running, row)] == []


def test_the_handler_of_the_readme_is_served_in_at_most_8_lines_of_python_and_6_of_yaml(prepare: Prepare) -> None:
    readme = (ROOT / "README.md").read_text()
    (python,) = re.findall(r"```python\n# chat\.py\n(.*?)```", readme, re.DOTALL)
    (text,) = re.findall(r"```yaml\n# chat\.yaml\n(.*?)```", readme, re.DOTALL)
    code = [line for line in python.splitlines() if line]
    config: dict[str, Any] = yaml.safe_load(text)
    assert len(code) <= 8
    assert len(text.splitlines()) <= 6
    assert config["listeners"][0]["bind"] == "tcp://0.0.0.0:9000"
    listener = {**config["listeners"][0], "name": "chat", "bind": "tcp://127.0.0.1:0"}
    running = prepare({"chat.py": python}, workers=config["workers"], listeners=[listener]).start()
    with running.connect("chat") as client:
        client.sendall(b"one\ntwo\nthr")
        assert receive(client, 8) == b"one\ntwo\n"
        client.sendall(b"ee\n")
        assert receive(client, 6) == b"three\n"
