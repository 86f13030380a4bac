"""What TLS must not do: old versions, weak ciphers, renegotiation, compression; asked by hand, and by openssl."""

from __future__ import annotations

import shutil
import subprocess

import pytest
import trustme

from tests.client_hello import ALERT, HANDSHAKE, SERVER_HELLO, STRONG, message, records
from tests.eventually import eventually
from tests.system.certificates import Authority, counters, first_record, listener, refusals
from tests.system.conftest import Prepare
from tests.system.running import Running

OPENSSL = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed, which is asked here")
HANDSHAKE_FAILURE, PROTOCOL_VERSION = 40, 70  # RFC 8446, 6.2
ONCE = "async def echo(conn):\n    await conn.send(await conn.read())\n"
REFUSALS = ((ALERT, HANDSHAKE_FAILURE), (ALERT, PROTOCOL_VERSION))
LISTENERS = ("echo", "rsa")
OLD = (0x0300, 0x0301, 0x0302)  # SSL 3, TLS 1.0, TLS 1.1
WEAK = {
    "NULL": (0x0001, 0x0002, 0x003B, 0xC001, 0xC006, 0xC010, 0xC015),
    "export": (0x0003, 0x0006, 0x0008, 0x000B, 0x0011, 0x0014, 0x0017, 0x0019, 0x0062, 0x0064),
    "RC4": (0x0004, 0x0005, 0x0018, 0xC007, 0xC011, 0xC016),
    "DES": (0x0009, 0x000C, 0x0012, 0x0015),
    "3DES": (0x000A, 0x000D, 0x0013, 0x0016, 0xC003, 0xC008, 0xC00D, 0xC012),
    "anonymous": (0x001B, 0x0034, 0x003A, 0x006C, 0x006D, 0x00A6, 0x00A7, 0xC017, 0xC018, 0xC019),
    "no forward secrecy": (0x002F, 0x0035, 0x003C, 0x003D, 0x009C, 0x009D),
    "SHA-1": (0x0033, 0x0039, 0xC009, 0xC00A, 0xC013, 0xC014),
}


@pytest.fixture
def kinds(prepare: Prepare) -> Running:
    """A server of one worker with a certificate of each kind of key: the weak suites want one or the other."""
    second = {**listener(cert="rsa.pem", key="rsa.key"), "name": "rsa"}
    server = prepare({"app.py": ONCE}, workers=1, listeners=[listener(), second])
    authority = Authority()
    authority.issue().write(server.folder)
    authority.issue(kind=trustme.KeyType.RSA).write(server.folder, "rsa")
    return server.start()


def answer(server: Running, hello: bytes, name: str = "echo") -> tuple[int, int]:
    """Send a ClientHello; return the kind of the answer, and an alert's reason or a message's type."""
    kind, content = first_record(server, records(hello), name)
    return kind, content[1] if kind == ALERT else content[0]


def chosen(server_hello: bytes) -> tuple[int, int]:
    """Return the suite and the compression that a ServerHello chooses, RFC 5246, 7.4.1.3."""
    at = 4 + 2 + 32
    at += 1 + server_hello[at]
    return int.from_bytes(server_hello[at : at + 2], "big"), server_hello[at + 2]


def test_old_versions_and_weak_suites_are_refused_by_an_alert(kinds: Running) -> None:
    for name in LISTENERS:
        assert answer(kinds, message(), name) == (HANDSHAKE, SERVER_HELLO)  # else a refusal would mean nothing
    weak = [suite for suites in WEAK.values() for suite in suites]
    hellos = {f"version {version:#06x}": message(version=version) for version in OLD}
    hellos |= {f"suite {suite:#06x}": message(suites=[suite]) for suite in weak}
    answers = {(what, name): answer(kinds, hellos[what], name) for what in hellos for name in LISTENERS}
    taken = {what for what, found in answers.items() if found not in REFUSALS}
    assert not taken
    eventually(lambda: counters(kinds)["unsecured"] == len(answers) + len(LISTENERS))
    assert len(refusals(kinds)) < 10  # one line for each reason, the others are counted


def test_no_compression_and_no_weak_suite_is_chosen_among_others(kinds: Running) -> None:
    none, deflate = 0, 1  # RFC 3749
    assert answer(kinds, message(compressions=bytes((deflate,))))[0] == ALERT
    _, hello = first_record(kinds, records(message(compressions=bytes((deflate, none)))))
    assert chosen(hello)[1] == none
    weak = [suite for suites in WEAK.values() for suite in suites]
    _, hello = first_record(kinds, records(message(suites=[*weak, *STRONG])))
    assert chosen(hello)[0] in STRONG


# --- openssl, as people ask it ---


def s_client(server: Running, *arguments: str, said: bytes = b"", name: str = "echo") -> str:
    """Run `openssl s_client`, say something, and return all that it printed."""
    assert OPENSSL is not None
    command = [OPENSSL, "s_client", "-connect", f"127.0.0.1:{server.port(name)}", "-servername", "localhost"]
    done = subprocess.run(
        [*command, *arguments], input=said, capture_output=True, timeout=20, check=False, cwd=server.folder
    )
    return (done.stdout + done.stderr).decode(errors="replace")


def can_speak(*arguments: str) -> bool:
    """Whether this openssl has the ciphers that it is to offer."""
    assert OPENSSL is not None
    return subprocess.run([OPENSSL, "ciphers", *arguments], capture_output=True, check=False).returncode == 0


@needs_openssl
def test_openssl_agrees_upon_a_good_version(kinds: Running) -> None:
    for arguments, version in ((["-tls1_2"], "TLSv1.2"), (["-tls1_3"], "TLSv1.3"), ([], "TLSv1.3")):
        told = s_client(kinds, *arguments)
        assert f"New, {version}, Cipher is " in told
        assert "Compression: NONE" in told
        assert version == "TLSv1.3" or "Secure Renegotiation IS supported" in told


@needs_openssl
def test_openssl_cannot_agree_upon_an_old_version_or_a_weak_cipher(kinds: Running) -> None:
    level = "@SECLEVEL=0"
    tries = [["-tls1", "-cipher", f"ALL{level}"], ["-tls1_1", "-cipher", f"ALL{level}"]]
    for suites in ("eNULL", "aNULL", "RC4", "3DES", "EXPORT", "MD5", "kRSA", "PSK", "SRP", "AES128-SHA"):
        if can_speak(f"{suites}{level}"):
            tries.append(["-tls1_2", "-cipher", f"{suites}{level}"])
    told = {" ".join(arguments): s_client(kinds, *arguments, name="rsa") for arguments in tries}
    assert not {name: text for name, text in told.items() if "Cipher is (NONE)" not in text}
    assert len(tries) > 4


@needs_openssl
def test_a_client_that_renegotiates_is_refused_and_nobody_else_notices(kinds: Running) -> None:
    pids = kinds.worker_pids()
    told = s_client(kinds, "-tls1_2", said=b"R\n")
    assert "RENEGOTIATING" in told
    assert "no renegotiation" in told.lower()
    eventually(lambda: kinds.workers()[0]["connections"] == 0)
    assert kinds.worker_pids() == pids


@needs_openssl
def test_openssl_takes_sessions_up_again(kinds: Running) -> None:
    told = s_client(kinds, "-tls1_2", "-reconnect")
    assert told.count("Reused, TLSv1.2") == 5, told
    for arguments, wanted in (("-sess_out", "New, TLSv1.3"), ("-sess_in", "Reused, TLSv1.3")):
        told = s_client(kinds, "-tls1_3", arguments, "session.pem", "-ign_eof", said=b"hello\n")
        assert wanted in told
