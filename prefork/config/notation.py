"""How each kind of value is written in the file: patterns, and the way back from the model.

The patterns are held by the checker and by the JSON Schema alike, so both refuse the same texts.

Knows: kinds and their spelling. Does not know: YAML, keys, who reads or writes.
"""

from __future__ import annotations

from typing import Any

from prefork.address import LABEL, ZONE
from prefork.config.key import Kind, keys_of
from prefork.config.model import Framing, Steer
from prefork.config.units import (
    DURATION_PATTERN,
    PERCENT_PATTERN,
    SIZE_PATTERN,
    format_duration,
    format_percent,
    format_size,
)

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_DOTTED = rf"{_NAME}(\.{_NAME})*"
_PORT = r"([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_HOST = rf"({LABEL}(\.{LABEL})*\.?|\[[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*(%{ZONE})?\])"
# A NUL ends a path for the kernel, and a lone surrogate cannot be written to a log.
_REFUSED = r"\u0000-\u001f\u007f\ud800-\udfff"
_CHARACTER = rf"[^{_REFUSED}]"

STRING_PATTERN = rf"^{_CHARACTER}+$"
APP_PATTERN = rf"^{_DOTTED}:{_DOTTED}$"
_UNIX_PATH = rf"(/{_CHARACTER}{{0,105}}[^/{_REFUSED}]|@{_CHARACTER}{{1,106}})"  # sun_path, unix(7)
BIND_PATTERN = rf"^((tcp|tls|udp)://{_HOST}:{_PORT}|unix(gram)?://{_UNIX_PATH}|fd://[^/{_REFUSED}]+)$"
SERVER_NAME_PATTERN = r"^(\*\.)?[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*$"  # RFC 6125, 6.4.3
STEER_PATTERN = r"^(0|[1-9][0-9]{0,4}):([1-9][0-9]{0,4})$"
NETWORK_PATTERN = r"^([0-9]{1,3}(\.[0-9]{1,3}){3}(/[0-9]{1,2})?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(/[0-9]{1,3})?)$"

FILE_PATTERN = rf"^file:{_CHARACTER}+$"

PATTERNS: dict[Kind, str] = {
    Kind.STRING: STRING_PATTERN,
    Kind.DURATION: DURATION_PATTERN,
    Kind.SIZE: SIZE_PATTERN,
    Kind.PERCENT: PERCENT_PATTERN,
    Kind.BIND: BIND_PATTERN,
    Kind.APP: APP_PATTERN,
    Kind.MODE: r"^0?[0-7]{3}$",
    Kind.DELIMITER: r"^[\u0000-\u007f]{1,16}$",
}


def written(kind: Kind | None, value: Any) -> Any:
    """Return what stands in the file for a value of the model.

    Returns:
        JSON's types only: None, bool, int, str, list or dict.
    """
    if value is None:
        return "auto" if kind is Kind.AUTO else None
    if isinstance(value, Framing):
        return _framing(value)
    if isinstance(value, Steer):
        return "source" if value.is_by_source else {"payload": f"{value.start}:{value.end}"}
    if kind is Kind.CERTIFICATES:
        return {one.name: one.cert if one.key is None else {"cert": one.cert, "key": one.key} for one in value}
    if isinstance(value, tuple):
        return list(value)
    return _UNITS[kind](value) if kind in _UNITS else value


def _framing(value: Framing) -> Any:
    options = value.options
    if options is None:
        return value.name
    given = {
        key.name: written(key.kind, getattr(options, key.attribute))
        for key in keys_of(type(options))
        if key.is_required or getattr(options, key.attribute) != key.default
    }
    return {value.name: given} if given else value.name


_UNITS: dict[Kind | None, Any] = {
    Kind.DURATION: format_duration,
    Kind.SIZE: format_size,
    Kind.PERCENT: format_percent,
    Kind.MODE: "0{:03o}".format,
}
