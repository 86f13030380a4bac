"""The certificate that scenarios serve with, and that their clients trust.

Knows: tools/make-cert, the files that it writes.
Does not know: the ssl module, who serves.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

FILES = ("cert.pem", "key.pem")
_MAKE_CERT = Path(__file__).resolve().parent.parent / "make-cert"
_SECONDS = 30


class CertificateError(Exception):
    """There is no certificate, so nothing can be said of TLS."""


def certify(directory: Path) -> Path:
    """Make a certificate for localhost, signed by itself; return its path. Its key lies beside it.

    Raises:
        CertificateError: it cannot be made, for want of openssl for example.
    """
    made = subprocess.run([_MAKE_CERT, directory.resolve()], capture_output=True, text=True, timeout=_SECONDS)
    if made.returncode:
        reason = (made.stderr.strip().splitlines() or [f"exit status {made.returncode}"])[-1]
        raise CertificateError(f"not tried, for want of a certificate: {reason}")
    return directory.resolve() / FILES[0]
