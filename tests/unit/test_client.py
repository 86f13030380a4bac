"""Which server a command means: `control:` read from a config file, without YAML where that can be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from prefork.client import NoServerError, UsageError, ask, locate

PLAIN = {
    "control: /run/x.sock": "/run/x.sock",
    "control:   /run/x.sock   ": "/run/x.sock",
    "control: '/run/x.sock'": "/run/x.sock",
    'control: "/run/x.sock"': "/run/x.sock",
    "control: /run/x.sock  # where it is": "/run/x.sock",
    "workers: 2\ncontrol: /run/x.sock\nlisteners: []": "/run/x.sock",
    "control: relative.sock": "relative.sock",
    "control: /run/x#1.sock": "/run/x#1.sock",
    "control: /run/x#1.sock # where it is": "/run/x#1.sock",
}
NEITHER = [
    "workers: 2",
    "control: null",
    "control: # where",
    "control: null # none",
    "control: ~",
    "control:",
    "# control: /run/x.sock",
    "x:\n  control: /no",
]


def config(folder: Path, text: str) -> str:
    path = folder / "server.yaml"
    path.write_text(text + "\n")
    return str(path)


@pytest.mark.parametrize(("text", "path"), PLAIN.items())
def test_a_plain_path_is_read_from_the_config(tmp_path: Path, text: str, path: str) -> None:
    assert locate(config(tmp_path, text), None, {}) == path


@pytest.mark.parametrize("text", NEITHER)
def test_without_a_path_the_control_socket_has_the_configs_name(tmp_path: Path, text: str) -> None:
    tmp_path.chmod(0o700)
    found = locate(config(tmp_path, text), None, {"XDG_RUNTIME_DIR": str(tmp_path)})
    assert found == str(tmp_path / "server.sock")


def test_an_option_wins_over_the_config(tmp_path: Path) -> None:
    assert locate(config(tmp_path, "control: /a"), "/b", {}) == "/b"


def test_a_path_with_a_variable_is_read_the_long_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTROL_FOLDER", "/run/mine")
    text = "control: ${CONTROL_FOLDER}/x.sock\nlisteners: [{bind: 'tcp://127.0.0.1:0', app: 'a:b'}]"
    assert locate(config(tmp_path, text), None, {}) == "/run/mine/x.sock"


def test_a_config_that_cannot_be_read_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        locate(str(tmp_path / "missing.yaml"), None, {})
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot read"):
        locate(str(tmp_path / "binary.yaml"), None, {})


def test_where_nobody_answers_that_is_what_is_said(tmp_path: Path) -> None:
    with pytest.raises(NoServerError, match="no server answers"):
        ask(str(tmp_path / "no.sock"), "health", {}, 1.0)
    tmp_path.chmod(0o700)
    with pytest.raises(NoServerError):
        locate(None, None, {"XDG_RUNTIME_DIR": str(tmp_path), "TMPDIR": str(tmp_path)})


def test_a_probe_loads_neither_yaml_nor_asyncio(tmp_path: Path) -> None:
    code = (
        "import sys; from prefork.cli import main; code = main(['health', '--control', '/nowhere/x.sock']); "
        "print(code, *(name for name in ('yaml', 'asyncio', 'logging', 'typing') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["4"]
