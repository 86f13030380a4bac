"""The recipe of the container image: its steps work without an engine, and its entry point is process 1."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from prefork.client import ask
from prefork.errors import PreforkError
from tests.eventually import eventually

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "Dockerfile"

pytestmark = pytest.mark.skipif(not RECIPE.exists(), reason="there is no Dockerfile yet")


def instructions(name: str) -> list[str]:
    """Return what follows a word of the recipe, once for each time that it is used."""
    text = RECIPE.read_text().replace("\\\n", " ")
    lines = [line.partition(" ") for line in text.splitlines()]
    return [rest.strip() for word, _, rest in lines if word == name]


def test_the_entry_point_gets_the_signals_itself() -> None:
    for name in ("ENTRYPOINT", "CMD"):
        (form,) = instructions(name)
        assert all(isinstance(word, str) for word in json.loads(form))  # the shell form would be a shell's child
    assert instructions("STOPSIGNAL") == ["SIGTERM"]


def test_the_user_is_a_number_that_is_not_root() -> None:
    (user,) = instructions("USER")
    assert all(number.isdigit() and int(number) > 0 for number in user.split(":"))


def test_the_probe_is_the_health_command() -> None:
    (probe,) = instructions("HEALTHCHECK")
    assert json.loads(probe.partition("CMD ")[2])[:2] == ["prefork", "health"]


@pytest.mark.slow
def test_the_steps_of_the_recipe_give_a_server_that_serves_and_stops(tmp_path: Path) -> None:
    source, image = tmp_path / "src", tmp_path / "image"
    source.mkdir()
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "prefork", source / "prefork", ignore=shutil.ignore_patterns("__pycache__"))
    (build,) = [step for step in instructions("RUN") if "pip install" in step]
    assert "/opt/prefork" in build
    build = build.replace("/opt/prefork", str(image)).replace("python -m venv", f"{sys.executable} -m venv")
    subprocess.run(build, shell=True, cwd=source, check=True, timeout=300)
    command = [*json.loads(instructions("ENTRYPOINT")[0]), *json.loads(instructions("CMD")[0])]
    command[0] = str(image / "bin" / command[0])
    command = [word.replace("/app/", f"{ROOT}/") for word in command]
    control = tmp_path / "control.sock"
    overrides = ["--set", f"control={control}", "--set", "listeners.echo.bind=tcp://127.0.0.1:0"]
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    server = subprocess.Popen([*command, *overrides], cwd=tmp_path, env=environ)
    try:
        eventually(lambda: is_ready(control), within=20)
        server.send_signal(signal.Signals[instructions("STOPSIGNAL")[0]])
        assert server.wait(10) == 0
    finally:
        server.kill()
        server.wait()


def is_ready(control: Path) -> bool:
    try:
        return bool(ask(str(control), "health", {}, 5.0)["ready"])
    except PreforkError:
        return False
