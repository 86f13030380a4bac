"""The certificate with which all servers under TLS answer.

Knows: the command of OpenSSL that makes one.
Does not know: who presents it; no client verifies it.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from tools.benchmark.workshop import Failure, Unavailable, Workshop, last_line, run_tool

DAYS = "365"
KEY_TYPES = {"p256": ("ec", "-pkeyopt", "ec_paramgen_curve:P-256"), "rsa2048": ("rsa:2048",)}
NAMES = "subjectAltName=DNS:localhost,IP:127.0.0.1"


@dataclass(frozen=True, slots=True)
class Certificate:
    """The files in PEM."""

    cert: Path
    key: Path


def self_signed(shop: Workshop) -> Certificate:
    """Return the one certificate of a workshop, with a key of its kind.

    Raises:
        Unavailable: there is no command `openssl`.
        Failure: it refuses.
    """
    files = Certificate(shop.directory / "cert.pem", shop.directory / "key.pem")
    if files.cert.exists():
        return files
    openssl = shutil.which("openssl")
    if openssl is None:
        raise Unavailable("no command openssl")
    request = [openssl, "req", "-x509", "-nodes", "-newkey", *KEY_TYPES[shop.key_type], "-days", DAYS]
    names = ["-subj", "/CN=localhost", "-addext", NAMES]
    made = run_tool([*request, *names, "-keyout", str(files.key), "-out", str(files.cert)])
    if made.returncode != 0:
        raise Failure(f"cannot make a certificate: {last_line(made.stderr)}")
    files.key.chmod(0o600)
    return files
