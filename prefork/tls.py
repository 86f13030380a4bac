"""TLS for listeners: contexts made of certificate files, proved to work before anybody is served with them.

The master makes them when the config is loaded, and every worker is forked with them: so all share the key of
the session tickets, which Python cannot set. A context is kept over reloads while its files do not change,
and tickets stay valid with it.

Knows: the ssl module, PEM files. Does not know: sockets, connections, who serves.
"""

from __future__ import annotations

import hashlib
import os
import ssl
import stat
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from prefork.config.model import NamedCertificate, Tls
from prefork.errors import ConfigError

RENEWAL_DAYS = 14
NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME, X509_VERIFY_PARAM_set_flags(3)
HANDSHAKE_STEPS = 8  # of two sides in memory; TLS 1.3 takes three


@dataclass(frozen=True, slots=True)
class Certificate:
    """What is told of a certificate file."""

    path: str
    names: tuple[str, ...] = ()
    ends_at: float | None = None  # seconds since the epoch; None: it cannot be read

    def describe_end(self, now: float) -> str:
        """Return a warning if it has ended or is to be renewed; empty if not."""
        if self.ends_at is None:
            return ""
        days = (self.ends_at - now) / 86_400
        when = time.strftime("%Y-%m-%d", time.gmtime(self.ends_at))
        if days < 0:
            return f"the certificate {self.path} has ended on {when}; renew it"
        return (
            f"the certificate {self.path} ends in {days:.0f} days, on {when}; renew it"
            if days < RENEWAL_DAYS
            else ""
        )


@dataclass(frozen=True, slots=True)
class Security:
    """What a TLS listener needs: a context, and what it was made of."""

    context: ssl.SSLContext
    further: tuple[ssl.SSLContext, ...]  # of other server names; `context` chooses them
    fingerprint: bytes
    certificates: tuple[Certificate, ...]
    alpn: tuple[str, ...] = ()
    is_on_request: bool = False  # connections begin plain, and the app asks for TLS
    keylog: str | None = None
    warnings: tuple[str, ...] = ()

    def write_keys(self) -> None:
        """Begin to write the keys of each session, in this process."""
        if self.keylog is not None:
            for context in (self.context, *self.further):
                context.keylog_filename = self.keylog


class Files:
    """The files that a config names, read once: looked for in some directories, the best first."""

    def __init__(self, directories: Sequence[str]) -> None:
        self._directories = directories
        self.digest = hashlib.sha256()
        self.warnings: list[str] = []

    def find(self, key: str, name: str, is_secret: bool = False) -> str:
        """Return the path of a file and take its content into the digest.

        Raises:
            ConfigError: it cannot be read.
        """
        places = [os.path.join(directory, name) for directory in self._directories]
        path = next((place for place in places if os.path.exists(place)), places[0])
        try:
            with open(path, "rb") as file:
                content = file.read()
                mode = os.fstat(file.fileno()).st_mode
        except OSError as error:
            raise ConfigError(
                [f"cannot read {key} {path}: {error.strerror}; check path and permissions"]
            ) from error
        self.digest.update(f"{key} {len(content)} ".encode() + content)
        if is_secret and mode & (stat.S_IRGRP | stat.S_IROTH):
            self.warnings.append(f"{key} {path} can be read by others than its owner; chmod 600 it")
        return path


def open_security(tls: Tls, directories: Sequence[str], kept: Iterable[Security] = ()) -> Security:
    """Load the certificates of a listener, or take what was made of the same files.

    Args:
        directories: where relative paths are looked for.
        kept: of the running generation.

    Raises:
        ConfigError: a file cannot be read, or is not what it should be; the message names the key and the file.
    """
    files = Files(directories)
    files.digest.update(repr((tls.client_auth, tls.alpn, [one.name for one in tls.sni], tls.keylog)).encode())
    own = _find_pair(files, NamedCertificate("", tls.cert or "", tls.key), "tls.")
    pairs = {one.name: _find_pair(files, one, f"tls.sni.{one.name}.") for one in tls.sni}
    authorities = files.find("tls.client_ca", tls.client_ca) if tls.client_ca else None
    fingerprint = files.digest.digest()
    for known in kept:
        if known.fingerprint == fingerprint:
            return replace(known, is_on_request=tls.starttls, keylog=tls.keylog, warnings=tuple(files.warnings))
    context = _open_context(tls, own, authorities)
    named = {name: _open_context(tls, pair, authorities) for name, pair in pairs.items()}
    certificates = tuple(_examine(pair) for pair in (own, *pairs.values()))
    context.sni_callback = _name_choice(named, certificates[0].names if named else None)
    return Security(
        context,
        tuple(named.values()),
        fingerprint,
        certificates,
        tls.alpn,
        tls.starttls,
        tls.keylog,
        tuple(files.warnings),
    )


@dataclass(frozen=True, slots=True)
class _Pair:
    key_name: str  # of the config, `tls.` or `tls.sni.NAME.`
    cert: str
    key: str


def _find_pair(files: Files, chosen: NamedCertificate, key: str) -> _Pair:
    cert = files.find(f"{key}cert", chosen.cert, is_secret=chosen.key is None)
    private = cert if chosen.key is None else files.find(f"{key}key", chosen.key, is_secret=True)
    return _Pair(key, cert, private)


def _open_context(tls: Tls, pair: _Pair, authorities: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 1  # a resumed handshake gives one, too; OpenSSL's second costs 3 % of a full one
    _load(context, pair)
    context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF  # many clients end without a goodbye, and still want an answer
    try:
        context.set_alpn_protocols(list(tls.alpn))
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError([f"cannot offer tls.alpn {', '.join(tls.alpn)[:100]}: {error}"]) from error
    if authorities is not None:
        try:
            context.load_verify_locations(authorities)
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(
                [f"cannot load tls.client_ca {authorities}: {_reason(error)}; it is to be PEM"]
            ) from error
        context.verify_mode = ssl.CERT_REQUIRED if tls.client_auth == "required" else ssl.CERT_OPTIONAL
    return context


def _load(context: ssl.SSLContext, pair: _Pair) -> None:
    asked: list[bool] = []

    def passphrase() -> str:
        asked.append(True)
        return ""

    try:
        context.load_cert_chain(pair.cert, pair.key, passphrase)
    except (ssl.SSLError, OSError, ValueError) as error:
        if asked:
            reason = "it is encrypted, and a server has nobody to ask; decrypt it with `openssl pkey`"
            raise ConfigError([f"cannot load {pair.key_name}key {pair.key}: {reason}"]) from error
        where = f"{pair.key_name}cert {pair.cert}"
        if pair.key != pair.cert:
            where += f" with {pair.key_name}key {pair.key}"
        raise ConfigError([f"cannot load {where}: {_reason(error)}"]) from error


NOT_ITS_KEY = "the key is not the certificate's; use the two that belong together"
_REASONS = {
    "KEY_VALUES_MISMATCH": NOT_ITS_KEY,
    "NO_CERTIFICATE_ASSIGNED": NOT_ITS_KEY,
    "NO_START_LINE": "it holds no PEM certificate, or no key: set `key`",
    "EE_KEY_TOO_SMALL": "the key is too small; make one of 2048 bits of RSA, or of P-256",
    "CA_MD_TOO_WEAK": "it is signed with a weak hash; renew it",
}


def _reason(error: Exception) -> str:
    name = getattr(error, "reason", None) or ""
    return (
        _REASONS.get(name) or name.replace("_", " ").lower() or "it holds no PEM certificate, or no key: set `key`"
    )


def _name_choice(
    named: Mapping[str, ssl.SSLContext], own: tuple[str, ...] | None
) -> Callable[[Any, str | None, ssl.SSLContext], int | None]:
    """Return what takes note of the name that a client asks for, and gives it the certificate of that name.

    Args:
        named: contexts by server name, `*.` for one label.
        own: names of the default certificate; None: it is for any name.
    """

    def choose(connection: Any, name: str | None, _: ssl.SSLContext) -> int | None:
        connection.server_name = name
        if name is None or own is None:
            return None
        asked = name.lower().rstrip(".")
        wild = f"*.{asked.partition('.')[2]}"
        context = named.get(asked) or named.get(wild)
        if context is not None:
            connection.context = context
        elif asked not in own and wild not in own:
            return int(ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME)  # RFC 6066, 3
        return None

    return choose


def _examine(pair: _Pair) -> Certificate:
    """Return what a certificate says, by a handshake in memory, which proves its key, too."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags = ssl.VerifyFlags(ssl.VERIFY_X509_PARTIAL_CHAIN | NO_CHECK_TIME)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    _load(server, pair)
    client.load_verify_locations(pair.cert)
    here = client.wrap_bio(to_client, to_server)
    there = server.wrap_bio(to_server, to_client, server_side=True)
    try:
        for _ in range(HANDSHAKE_STEPS):
            _step(here)
            _step(there)
        read: Any = here.getpeercert() or {}
    except (ssl.SSLError, ValueError):  # it is not for servers: clients will say so
        return Certificate(pair.cert)
    names = tuple(value.lower() for kind, value in read.get("subjectAltName", ()) if kind == "DNS")
    return Certificate(pair.cert, names, ssl.cert_time_to_seconds(read["notAfter"]))


def _step(end: ssl.SSLObject) -> None:
    try:
        end.do_handshake()
    except ssl.SSLWantReadError:  # the other side is to go on
        pass
