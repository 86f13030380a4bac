"""Every file in conf/ and the README's example are served as they stand, but for the port."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.system.conftest import Prepare
from tests.system.running import exchange, receive

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "conf").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_a_config_of_conf_is_served(path: Path, prepare: Prepare) -> None:
    config: dict[str, Any] = yaml.safe_load(path.read_text())
    running = prepare()
    shutil.copy(path, running.folder / "test.yaml")
    name = config["listeners"][0]["name"]
    running.start(
        f"--set=control={running.control}",
        f"--set=log.file={running.log_file}",
        "--set=log.format=text",
        f"--set=listeners.{name}.bind=tcp://127.0.0.1:0",
    )
    with running.connect(name) as client:
        assert exchange(client, b"hello") == b"hello"


def test_the_handler_of_the_readme_is_served_in_at_most_8_lines_of_python_and_6_of_yaml(prepare: Prepare) -> None:
    (block,) = re.findall(r"```python\n(# chat\.py.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    lines = [line.partition("#")[::2] for line in block.splitlines()]
    code = [python.rstrip() for python, _ in lines[1:] if python.strip()]
    text = "\n".join(comment.removeprefix(" ").rstrip() for _, comment in lines[1:] if comment.strip())
    config: dict[str, Any] = yaml.safe_load(text)
    assert len(code) <= 8
    assert len(text.splitlines()) <= 6
    assert config["listeners"][0]["bind"] == "tcp://0.0.0.0:9000"
    listener = {**config["listeners"][0], "name": "chat", "bind": "tcp://127.0.0.1:0"}
    running = prepare({"chat.py": "\n".join(code) + "\n"}, workers=config["workers"], listeners=[listener]).start()
    with running.connect("chat") as client:
        client.sendall(b"one\ntwo\nthr")
        assert receive(client, 8) == b"one\ntwo\n"
        client.sendall(b"ee\n")
        assert receive(client, 6) == b"three\n"
