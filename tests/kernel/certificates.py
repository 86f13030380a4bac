"""A certificate for TLS over 127.0.0.1, and a client that trusts the authority behind it.

Knows: PEM files, the two contexts of ssl. Does not know: sockets, what is served.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme

from prefork.config.model import Tls
from prefork.tls import Security, open_security

HOST = "127.0.0.1"
OWNER_ONLY = 0o600


@dataclass(frozen=True, slots=True)
class Credentials:
    """What both ends of TLS need: the server's certificate with its key, and a client's trust in it."""

    security: Security
    client: ssl.SSLContext
    authority: trustme.CA

    def new_client_context(self) -> ssl.SSLContext:
        """Return another context of a client, to be set up further."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context


def certify(folder: Path) -> Credentials:
    """Make an authority and a certificate of it, as files and contexts."""
    authority = trustme.CA()
    pem = folder / "server.pem"
    pem.touch(OWNER_ONLY)
    pem.write_bytes(authority.issue_cert(HOST).private_key_and_cert_chain_pem.bytes())
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return Credentials(open_security(Tls(cert=pem.name), [str(folder)]), client, authority)
