"""The JSON Schema (draft 2020-12) of the config, for editors and for checks before a deployment.

It describes the document after `${VAR}` was put in and after YAML was read: it cannot see duplicate keys,
YAML's traps, bounds of values with a unit, or that names and binds are unique. All else the checker and the
schema refuse alike.

Knows: JSON Schema's words. Does not know: YAML, files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from prefork.config.key import Key, Kind, keys_of
from prefork.config.model import FRAMINGS, Config, ListenerConfig
from prefork.config.notation import (
    APP_PATTERN,
    FILE_PATTERN,
    NETWORK_PATTERN,
    PATTERNS,
    SERVER_NAME_PATTERN,
    STEER_PATTERN,
    STRING_PATTERN,
    written,
)

DIALECT = "https://json-schema.org/draft/2020-12/schema"
OF_SOURCES = ("per_ip", "per_ip_rate", "rate")
_NEVER = {"anyOf": [{"const": 0}, {"type": "string", "pattern": r"^0+(\.0+)?(ms|s|m|h|d)?$"}]}
_SCOPE = "The document after substitution of ${VAR} and ${VAR:-default}."


def json_schema() -> dict[str, Any]:
    """Return the schema of the config file, made of JSON's types only."""
    return {"$schema": DIALECT, "title": "prefork configuration", "$comment": _SCOPE, **_section(Config)}


def _section(section: Any) -> dict[str, Any]:
    keys = keys_of(section)
    required = [key.name for key in keys if key.is_required or key.items is not None]
    schema: dict[str, Any] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {key.name: _described(key) for key in keys},
    }
    if section is ListenerConfig:
        schema["allOf"] = _combinations()
    return {**schema, "required": required} if required else schema


def _combinations() -> list[dict[str, Any]]:
    """Return the rules of prefork.config.combinations."""
    absent: dict[str, Any] = {"type": "null"}
    given = {"type": "object", "required": ["cert"], "properties": {"cert": {"type": "string"}}}
    optional = {"required": ["client_auth"], "properties": {"client_auth": {"const": "optional"}}}
    authority = {"required": ["client_ca"], "properties": {"client_ca": {"type": "string"}}}
    at_once = {"properties": {"starttls": {"const": False}}}
    return [
        {"properties": {"tls": {"anyOf": [absent, {**given, "if": optional, "then": authority}]}}},
        _where("^tls://", {"tls": {"anyOf": [absent, at_once]}}, ["tls"]),
        _where("^(udp|unixgram)://", {"framing": {"const": "raw"}, "tls": absent}),
        _where(
            "^(?!udp://)", {"steer": {"const": "source"}, "socket": {"properties": {"multicast": {"maxItems": 0}}}}
        ),
        _where("^unix(gram)?://", {"allow": {"maxItems": 0}, "deny": {"maxItems": 0}, **_without_sources()}),
        _where("^(udp|unixgram)://", {**_without_sources("life")}),
        _where("^(?!unix(gram)?:///)", {"socket": {"properties": {"mode": absent, "owner": absent}}}),
    ]


def _without_sources(*more: str) -> dict[str, Any]:
    """Return that limits of sources, and PROXY headers, have no meaning."""
    zero: dict[str, Any] = {"enum": [0, "auto"]}
    none = {"anyOf": [zero, {"type": "object", "properties": {"value": zero}}]}
    unset = {"life": {"anyOf": [_NEVER, {"type": "object", "properties": {"value": _NEVER}}]}}
    limits = {name: unset.get(name, none) for name in (*OF_SOURCES, *more)}
    return {"limits": {"properties": limits}, "proxy_protocol": {"properties": {"from": {"maxItems": 0}}}}


def _where(bind: str, properties: dict[str, Any], required: Sequence[str] = ()) -> dict[str, Any]:
    condition = {"required": ["bind"], "properties": {"bind": {"type": "string", "pattern": bind}}}
    return {"if": condition, "then": {"properties": properties, "required": list(required)}}


def _described(key: Key) -> dict[str, Any]:
    described = {"description": key.meaning, **schema_of(key)}
    if not key.is_required and key.section is None and key.items is None and key.default != "":
        described["default"] = written(key.kind, key.default)
    return described


def schema_of(key: Key) -> dict[str, Any]:
    """Return the schema of a key's value."""
    if key.is_later:
        return {"const": written(key.kind, key.default)}
    if key.items is not None:
        return {"type": "array", "minItems": 1, "items": _section(key.items)}
    schema = _section(key.section) if key.section is not None else _KINDS[key.kind](key)
    if key.has_trial:
        properties = {"value": schema, "dry_run": {"type": "boolean"}}
        trial = {"type": "object", "additionalProperties": False, "properties": properties, "required": ["value"]}
        schema = {"anyOf": [schema, trial]}
    return {"anyOf": [schema, {"type": "null"}]} if key.is_nullable else schema


def _number(key: Key, kind: str) -> dict[str, Any]:
    if key.bounds.get("choices"):
        return {"enum": list(key.bounds["choices"])}
    bounds = {"minimum": key.minimum, "maximum": key.maximum}
    return {"type": kind, **{name: bound for name, bound in bounds.items() if bound is not None}}


def _with_unit(kind: str) -> Callable[[Key], dict[str, Any]]:
    return lambda key: {"anyOf": [_number(key, kind), {"type": "string", "pattern": PATTERNS[_kind(key)]}]}


def _kind(key: Key) -> Kind:
    return key.kind or Kind.STRING


def _string(key: Key) -> dict[str, Any]:
    choices = key.bounds.get("choices")
    if choices:
        return {"enum": list(choices)}
    schema = {"type": "string", "pattern": key.bounds.get("pattern", PATTERNS[_kind(key)])}
    schemes = key.bounds.get("schemes")
    return {"allOf": [schema, {"pattern": f"^({'|'.join(schemes)})://"}]} if schemes else schema


def _list_of(pattern: str) -> Callable[[Key], dict[str, Any]]:
    return lambda key: {
        "type": "array",
        "items": {"type": "string", "pattern": key.bounds.get("pattern", pattern)},
    }


def _networks(key: Key) -> dict[str, Any]:
    pattern = f"({NETWORK_PATTERN})|({FILE_PATTERN})" if key.bounds.get("files") else NETWORK_PATTERN
    return {"type": "array", "items": {"type": "string", "pattern": pattern}}


def _framing(_key: Key) -> dict[str, Any]:
    options = {name: _section(section) for name, section in FRAMINGS.items() if section is not None}
    bare = [name for name in FRAMINGS if not options.get(name, {}).get("required")]
    mapping = {"type": "object", "additionalProperties": False, "properties": options, "minProperties": 1}
    return {"anyOf": [{"enum": bare}, {**mapping, "maxProperties": 1}]}


def _steer(_key: Key) -> dict[str, Any]:
    payload = {"payload": {"type": "string", "pattern": STEER_PATTERN}}
    mapping = {"type": "object", "additionalProperties": False, "properties": payload, "required": ["payload"]}
    return {"anyOf": [{"const": "source"}, mapping]}


def _certificates(_key: Key) -> dict[str, Any]:
    file = {"type": "string", "pattern": STRING_PATTERN}
    pair = {"type": "object", "additionalProperties": False, "properties": {"cert": file, "key": file}}
    value = {"anyOf": [file, {**pair, "required": ["cert"]}]}
    names = {"propertyNames": {"pattern": SERVER_NAME_PATTERN}}
    return {"type": "object", "additionalProperties": value, **names}


_KINDS: dict[Kind | None, Callable[[Key], dict[str, Any]]] = {
    Kind.INTEGER: lambda key: _number(key, "integer"),
    Kind.AUTO: lambda key: {"anyOf": [_number(key, "integer"), {"const": "auto"}]},
    Kind.BOOLEAN: lambda _key: {"type": "boolean"},
    Kind.DURATION: _with_unit("number"),
    Kind.SIZE: _with_unit("integer"),
    Kind.PERCENT: lambda _key: {"type": "string", "pattern": PATTERNS[Kind.PERCENT]},
    Kind.STRING: _string,
    Kind.BIND: _string,
    Kind.APP: lambda _key: {"type": "string", "pattern": APP_PATTERN},
    Kind.FRAMING: _framing,
    Kind.STRINGS: _list_of(STRING_PATTERN),
    Kind.NETWORKS: _networks,
    Kind.CERTIFICATES: _certificates,
    Kind.STEER: _steer,
    Kind.MODE: _string,
    Kind.DELIMITER: _string,
}
