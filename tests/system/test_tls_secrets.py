"""Keys and certificates are looked after: who could read them, when they end, what is written for debugging."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from tests.eventually import eventually
from tests.system.certificates import TELLING, VERSIONS, Authority, connect, listener, told, wrap
from tests.system.conftest import Prepare
from tests.system.running import Running

KEPT = "tls.keylog: the keys of every connection are written to keys.log"


def start(prepare: Prepare, *rows: dict[str, Any]) -> tuple[Running, Authority]:
    server = prepare({"app.py": TELLING}, listeners=list(rows))
    authority = Authority()
    authority.issue().write(server.folder)
    return server.start(), authority


def warnings(text: str) -> list[str]:
    return [line for line in text.splitlines() if "warning" in line]


# --- keylog ---


def test_keys_are_written_for_the_owner_alone_and_told_at_the_start(prepare: Prepare) -> None:
    server, authority = start(prepare, listener(keylog="keys.log"))
    path = server.folder / "keys.log"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len([line for line in warnings(server.log()) if KEPT in line]) == 1
    for version in VERSIONS.values():
        context = authority.client(version)
        context.keylog_filename = str(server.folder / "mine.log")
        with connect(server, context) as client:
            told(client)
        del context
    written = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    mine = [line for line in (server.folder / "mine.log").read_text().splitlines() if not line.startswith("#")]
    assert set(mine) <= set(written)
    assert {"CLIENT_RANDOM", "CLIENT_TRAFFIC_SECRET_0"} <= {line.partition(" ")[0] for line in written}
    assert KEPT in server.run("check", "test.yaml").stderr


def test_a_file_that_others_could_read_is_closed_to_them(prepare: Prepare) -> None:
    server = prepare({"app.py": TELLING}, listeners=[listener(keylog="keys.log")])
    Authority().issue().write(server.folder)
    path = server.folder / "keys.log"
    path.write_text("# before\n")
    path.chmod(0o644)
    server.start()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().startswith("# before\n")


def test_keys_of_another_listener_are_not_written_though_its_certificate_is_the_same(prepare: Prepare) -> None:
    server, authority = start(prepare, listener(keylog="keys.log"), {**listener(), "name": "other"})
    with wrap(server.connect("other"), authority.client()) as client:
        told(client)
    assert "SECRET" not in (server.folder / "keys.log").read_text()


def test_keys_are_written_no_more_after_a_reload_without_keylog(prepare: Prepare) -> None:
    server, authority = start(prepare, listener(keylog="keys.log"))
    server.configure({"listeners": [listener()]})
    assert server.reload()["verdict"] == "committed"
    eventually(lambda: not server.workers("draining"))
    before = (server.folder / "keys.log").read_text()
    with connect(server, authority.client()) as client:
        told(client)
    assert (server.folder / "keys.log").read_text() == before


def a_folder(folder: Path) -> str:
    return str(folder)


def a_missing_folder(folder: Path) -> str:
    return str(folder / "missing" / "keys.log")


def a_link(folder: Path) -> str:
    (folder / "target").write_text("precious")
    os.symlink(folder / "target", folder / "link")
    return str(folder / "link")


def a_pipe(folder: Path) -> str:
    os.mkfifo(folder / "pipe")
    return str(folder / "pipe")


def test_a_place_where_no_keys_can_be_kept_is_refused_with_its_line(prepare: Prepare) -> None:
    server, authority = start(prepare, listener())
    server.expected_errors += ["cannot write tls.keylog", "reload refused"]
    for place in (a_folder, a_missing_folder, a_link, a_pipe):
        keylog = place(server.folder)
        server.configure({"listeners": [listener(keylog=keylog)]})
        done, verdict = server.run("check", "test.yaml"), server.reload()
        assert (done.returncode, verdict["verdict"]) == (2, "refused")
        for text in (done.stderr, verdict["reason"]):
            assert f"cannot write tls.keylog {keylog}: " in text
            assert "test.yaml:9:5: " in text
    assert (server.folder / "target").read_text() == "precious"
    with connect(server, authority.client()) as client:
        told(client)


# --- warnings ---


def test_certificates_that_end_are_told_by_check_and_at_the_start(prepare: Prepare) -> None:
    ends = {"a": (5.5, "ends in 5 days, on "), "b": (13.5, "ends in 13 days, on "), "c": (-2.5, "has ended on ")}
    rows = [{**listener(cert=f"{name}.pem", key=f"{name}.key"), "name": name} for name in (*ends, "good")]
    server = prepare({"app.py": TELLING}, workers=1, listeners=rows)
    for name, (days, _) in ends.items():
        Authority().issue(days=days).write(server.folder, name)
    Authority().issue(days=15).write(server.folder, "good")
    checked = server.run("check", "test.yaml")
    assert checked.returncode == 0
    server.start()
    for text in (checked.stderr, server.log()):
        lines = warnings(text)
        assert len(lines) == len(ends)
        for line, (name, (_, wanted)) in zip(lines, ends.items(), strict=True):
            assert f"the certificate {server.folder}/{name}.pem {wanted}" in line
            assert line.endswith("; renew it")


def test_a_further_certificate_that_ends_is_told_too(prepare: Prepare) -> None:
    sni = {"b.example.org": {"cert": "b.pem", "key": "b.key"}}
    server = prepare({"app.py": TELLING}, listeners=[listener(sni=sni)])
    Authority().issue().write(server.folder)
    Authority().issue("b.example.org", days=-1).write(server.folder, "b")
    (server.folder / "b.key").chmod(0o640)
    lines = warnings(server.run("check", "test.yaml").stderr)
    assert len(lines) == 2
    assert any(f"the certificate {server.folder}/b.pem has ended on " in line for line in lines)
    assert any(f"tls.sni.b.example.org.key {server.folder}/b.key can be read by others" in line for line in lines)


def test_a_key_that_others_can_read_is_told_with_the_cure(prepare: Prepare) -> None:
    server = prepare({"app.py": TELLING}, listeners=[listener()])
    Authority().issue().write(server.folder)
    (server.folder / "server.key").chmod(0o644)
    done = server.run("check", "test.yaml")
    assert done.returncode == 0
    (line,) = warnings(done.stderr)
    assert f"tls.key {server.folder}/server.key can be read by others" in line
    assert "chmod 600" in line


def test_no_key_and_no_passphrase_is_ever_in_the_log(prepare: Prepare) -> None:
    server, authority = start(prepare, listener())
    server.expected_errors += ["cannot load", "reload refused"]
    pair = authority.issue()
    pair.encrypted(b"open sesame").write(server.folder)
    assert server.reload()["verdict"] == "refused"
    text = server.log() + server.run("check", "test.yaml").stderr
    assert "sesame" not in text
    assert "BEGIN" not in text
    pair.write(server.folder)
