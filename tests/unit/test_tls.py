"""Certificates are loaded or refused with their cure, kept while they stay the same, and chosen by name."""

from __future__ import annotations

import shutil
import ssl
from pathlib import Path
from typing import Any

import pytest

from prefork.config.model import NamedCertificate, Tls
from prefork.errors import ConfigError
from prefork.net.tls_socket import RECORD_BYTES, first_of
from prefork.tls import RENEWAL_DAYS, Certificate, Security, open_security
from tests.system.certificates import Authority

DAY = 86_400.0
UNRECOGNIZED_NAME = 112  # RFC 6066, 9
PLAIN = Tls(cert="server.pem", key="server.key")
SNI = Tls(
    cert="server.pem",
    key="server.key",
    sni=(
        NamedCertificate("b.example.org", "b.pem", "b.key"),
        NamedCertificate("*.c.example.org", "c.pem", "c.key"),
    ),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with server.pem for localhost and *.a.example.org, and b.pem, c.pem."""
    authority = Authority()
    authority.issue("localhost", "A.Example.org", "*.a.example.org").write(tmp_path)
    authority.issue("b.example.org").write(tmp_path, "b")
    authority.issue("*.c.example.org").write(tmp_path, "c")
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    return tmp_path


def load(folder: Path, tls: Tls = PLAIN, *kept: Security) -> Security:
    return open_security(tls, [str(folder)], kept)


def refusal(folder: Path, tls: Tls = PLAIN) -> str:
    """Return the one line that refuses a section."""
    with pytest.raises(ConfigError) as caught:
        load(folder, tls)
    (problem,) = caught.value.problems
    assert len(problem.splitlines()) == 1
    return problem


# --- names ---


class Asked:
    """What a server name callback may touch of a connection."""

    server_name: str | None = None
    context: ssl.SSLContext | None = None


def choose(security: Security, name: str | None) -> tuple[int | None, Asked]:
    """Ask for a server name; return the alert and what became of the connection."""
    callback: Any = security.context.sni_callback
    asked = Asked()
    alert: int | None = callback(asked, name, security.context)
    return alert, asked


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST", "a.example.org", "x.a.example.org", "localhost."])
def test_a_name_of_the_first_certificate_gets_it(folder: Path, name: str) -> None:
    alert, asked = choose(load(folder, SNI), name)
    assert (alert, asked.context, asked.server_name) == (None, None, name)


@pytest.mark.parametrize(
    ("name", "index"),
    [("b.example.org", 0), ("B.Example.ORG.", 0), ("x.c.example.org", 1), ("X.C.EXAMPLE.ORG", 1)],
)
def test_a_further_name_gets_its_own_certificate(folder: Path, name: str, index: int) -> None:
    security = load(folder, SNI)
    alert, asked = choose(security, name)
    assert (alert, asked.context) == (None, security.further[index])


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "example.org",
        "c.example.org",  # a wildcard stands for one label, not for none (RFC 6125, 6.4.3)
        "x.y.c.example.org",  # and not for two
        "x.b.example.org",
        "*.d.example.org",
        "b.example.org.evil",
        "b.example.org\0",
        "x" * 5000,
    ],
)
def test_another_name_is_refused_by_the_alert_of_the_rfc(folder: Path, name: str) -> None:
    alert, asked = choose(load(folder, SNI), name)
    assert (alert, asked.context) == (UNRECOGNIZED_NAME, None)


def test_without_a_name_the_first_certificate_is_shown(folder: Path) -> None:
    assert choose(load(folder, SNI), None)[0] is None


def test_without_further_names_any_name_is_good(folder: Path) -> None:
    for name in ("nobody.example.com", "192.0.2.1", ""):
        alert, asked = choose(load(folder), name)
        assert (alert, asked.server_name) == (None, name)


# --- what is kept ---


def test_the_same_files_keep_the_context_and_with_it_the_key_of_the_tickets(folder: Path) -> None:
    first = load(folder, SNI)
    again = load(folder, SNI, first)
    assert again.context is first.context
    assert again.further == first.further


def test_files_of_the_same_content_are_the_same(folder: Path) -> None:
    first = load(folder)
    for name in ("server.pem", "server.key"):
        shutil.copy(folder / name, folder / f"copy-{name}")
    assert load(folder, Tls(cert="copy-server.pem", key="copy-server.key"), first).context is first.context


def test_a_renewed_certificate_makes_a_new_context(folder: Path) -> None:
    first = load(folder, SNI)
    Authority().issue().write(folder, "b")
    assert load(folder, SNI, first).context is not first.context


@pytest.mark.parametrize(
    "other",
    [
        Tls(cert="server.pem", key="server.key", alpn=("echo",)),
        Tls(cert="server.pem", key="server.key", client_ca="ca.pem"),
        Tls(cert="server.pem", key="server.key", sni=(NamedCertificate("b.example.org", "b.pem", "b.key"),)),
        Tls(cert="b.pem", key="b.key"),
    ],
    ids=["alpn", "client_ca", "sni", "cert"],
)
def test_what_clients_can_see_makes_a_new_context(folder: Path, other: Tls) -> None:
    first = load(folder)
    assert load(folder, other, first).context is not first.context
    assert load(folder, other, first).fingerprint != first.fingerprint


def test_optional_and_required_clients_do_not_share_sessions(folder: Path) -> None:
    """A session of a client without a certificate would be taken up where one is required."""
    required = Tls(cert="server.pem", key="server.key", client_ca="ca.pem")
    optional = Tls(cert="server.pem", key="server.key", client_ca="ca.pem", client_auth="optional")
    first = load(folder, optional)
    assert load(folder, required, first).context is not first.context


def test_keys_are_written_for_no_listener_but_the_one_that_says_so(folder: Path) -> None:
    telling = load(folder, Tls(cert="server.pem", key="server.key", keylog=str(folder / "keys")))
    silent = load(folder, PLAIN, telling)
    (folder / "keys").touch(0o600)
    telling.write_keys()
    silent.write_keys()
    written: Any = silent.context.keylog_filename
    context: Any = telling.context
    context.keylog_filename = None  # closes it
    assert written is None


# --- what is refused ---


def test_a_file_that_is_not_there_is_told_with_its_key_and_its_cure(folder: Path) -> None:
    text = refusal(folder, Tls(cert="away.pem", key="server.key"))
    assert text.startswith(f"cannot read tls.cert {folder}/away.pem: No such file or directory")
    assert "; check path" in text
    assert "tls.key" in refusal(folder, Tls(cert="server.pem", key="away.key"))


def test_the_first_directory_that_has_a_file_wins(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    Authority().issue("other.example.org").write(other)
    both = open_security(PLAIN, [str(other), str(folder)])
    assert both.certificates[0].names == ("other.example.org",)
    assert open_security(PLAIN, [str(tmp_path / "none"), str(folder)]).certificates[0].names[0] == "localhost"


@pytest.mark.parametrize("content", [b"", b"garbage\n", bytes(range(256)) * 20])
def test_a_certificate_that_is_none_is_told_with_a_cure(folder: Path, content: bytes) -> None:
    (folder / "server.pem").write_bytes(content)
    text = refusal(folder)
    assert f"tls.cert {folder}/server.pem" in text
    assert "PEM" in text


@pytest.mark.parametrize("content", [b"", b"garbage\n"])
def test_a_key_that_is_none_is_told_with_a_cure(folder: Path, content: bytes) -> None:
    (folder / "server.key").write_bytes(content)
    text = refusal(folder)
    assert f"tls.key {folder}/server.key" in text
    assert "PEM" in text


def test_a_certificate_and_a_key_that_were_exchanged_are_told(folder: Path) -> None:
    text = refusal(folder, Tls(cert="server.key", key="server.pem"))
    assert "tls.cert" in text
    assert "PEM" in text


def test_the_key_of_another_certificate_is_told_with_both_files(folder: Path) -> None:
    text = refusal(folder, Tls(cert="server.pem", key="b.key"))
    for part in (f"tls.cert {folder}/server.pem", f"tls.key {folder}/b.key", "the key is not the certificate's"):
        assert part in text


def test_a_key_in_the_file_of_the_certificate_is_found(folder: Path) -> None:
    both = folder / "both.pem"
    both.touch(0o600)
    both.write_bytes((folder / "server.key").read_bytes() + (folder / "server.pem").read_bytes())
    assert load(folder, Tls(cert="both.pem")).warnings == ()
    assert "PEM" in refusal(folder, Tls(cert="server.pem"))


def test_a_further_certificate_is_told_with_its_name(folder: Path) -> None:
    (folder / "b.pem").write_bytes(b"garbage")
    assert f"tls.sni.b.example.org.cert {folder}/b.pem" in refusal(folder, SNI)


@pytest.mark.parametrize("content", [b"", b"garbage"])
def test_authorities_that_are_none_are_told(folder: Path, content: bytes) -> None:
    (folder / "ca.pem").write_bytes(content)
    text = refusal(folder, Tls(cert="server.pem", key="server.key", client_ca="ca.pem"))
    assert f"tls.client_ca {folder}/ca.pem" in text
    assert "PEM" in text


# --- what is warned about ---


@pytest.mark.parametrize(
    ("days", "wanted"),
    [
        (RENEWAL_DAYS + 1, ""),
        (RENEWAL_DAYS - 1, f"ends in {RENEWAL_DAYS - 1} days, on "),
        (1, "ends in 1 day"),
        (-1, "has ended on "),
    ],
)
def test_a_certificate_that_ends_soon_is_told_with_the_day(days: float, wanted: str) -> None:
    now = 1_700_000_000.0
    text = Certificate("server.pem", (), now + days * DAY).describe_end(now)
    assert wanted in text
    assert bool(text) == bool(wanted)
    if text:
        assert "server.pem" in text
        assert text.endswith("; renew it")


def test_of_a_certificate_that_cannot_be_read_nothing_is_told() -> None:
    assert Certificate("server.pem").describe_end(0.0) == ""


def test_names_and_end_of_a_certificate_are_read_of_one_that_has_ended_too(folder: Path) -> None:
    Authority().issue("Old.Example.org", days=-5).write(folder)
    (read,) = load(folder).certificates
    assert read.names == ("old.example.org",)
    assert read.ends_at is not None


@pytest.mark.parametrize(("mode", "is_told"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True)])
def test_a_key_that_others_can_read_is_told_with_the_cure(folder: Path, mode: int, is_told: bool) -> None:
    (folder / "server.key").chmod(mode)
    warnings = load(folder).warnings
    assert [f"tls.key {folder}/server.key" in text and "chmod 600" in text for text in warnings] == [
        True
    ] * is_told


# --- records ---


def test_small_buffers_share_a_record_and_the_first_is_always_sent() -> None:
    small, full = b"x" * 100, b"y" * RECORD_BYTES
    assert first_of([small] * 3) == [small] * 3
    assert first_of([full, small]) == [full]
    assert first_of([small, full, small]) == [small, full]
    assert first_of([b"z" * 3 * RECORD_BYTES]) == [b"z" * 3 * RECORD_BYTES]
