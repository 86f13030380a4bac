"""One value of the file, read by the kind of its key: scalars, lists, mappings, null, reserved keys.

Knows: kinds, and which keys are reserved for later. Does not know: sections, files, precedence.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from prefork.config.document import Mapping, Node, Scalar, Sequence, Style, plain_value
from prefork.config.key import Key, Kind
from prefork.config.model import NamedCertificate, Steer
from prefork.config.notation import FILE_PATTERN, NETWORK_PATTERN, SERVER_NAME_PATTERN, STEER_PATTERN, written
from prefork.config.scalars import read_scalar, read_string
from prefork.config.trail import Trail, cure_for, shape_of

MAX_STEER_BYTES = 64  # each word of 4 bytes is four instructions of the program in the kernel
MAX_STEER_OFFSET = 1024
_STEER_CURE = 'write source, or {payload: "0:4"} for the first four bytes'


def is_refused(node: Node, key: Key, trail: Trail) -> bool:
    """Refuse what no kind of value can cure: an unset variable, a reserved key, null where it has no meaning.

    Returns:
        Whether reading the value is over; it was noted unless that had been done before.
    """
    if isinstance(node, Scalar) and node.style is Style.UNSET:
        return True
    if key.is_later and not _is_default(node, key):
        trail.refuse(node.place, f"{key.name} is not served by this version; remove it")
        return True
    if isinstance(node, Scalar) and node.is_null and not key.is_nullable:
        trail.refuse(node.place, "it is null; give it a value, or remove the key")
        return True
    return False


def read_value(node: Node, key: Key, trail: Trail) -> Any:
    """Read the value of a key that has a kind other than framing.

    Args:
        node: what stands in the file.
        key: its bounds are held.
        trail: gets every problem.

    Returns:
        The model's value; without meaning if there was a problem.
    """
    if is_refused(node, key, trail) or (isinstance(node, Scalar) and node.is_null):
        return None
    if key.is_later:
        return key.default
    if key.kind in (Kind.STRINGS, Kind.NETWORKS):
        return _read_list(node, key, trail)
    if key.kind is Kind.CERTIFICATES:
        return _read_certificates(node, key, trail)
    if key.kind is Kind.STEER:
        return _read_steer(node, trail)
    return _read_one(node, key, trail)


def _is_default(node: Node, key: Key) -> bool:
    default, value = written(key.kind, key.default), plain_value(node)
    return type(default) is type(value) and bool(default == value)


def _read_one(node: Node, key: Key, trail: Trail) -> Any:
    if not isinstance(node, Scalar):
        is_trial = isinstance(node, Mapping) and node.find("dry_run") is not None
        why = "it cannot be tried by dry_run" if is_trial else f"it is {shape_of(node)}"
        trail.refuse(node.place, f"{why}; write a single value")
        return None
    try:
        return read_scalar(node, key)
    except ValueError as error:
        trail.refuse(node.place, str(error))
        return None


def _read_list(node: Node, key: Key, trail: Trail) -> tuple[str, ...]:
    if not isinstance(node, Sequence):
        trail.refuse(node.place, f"it is {shape_of(node)}; write a list, [] if it is empty")
        return ()
    return tuple(_read_item(item, key, trail.below(str(i))) for i, item in enumerate(node.items))


def _read_item(item: Node, key: Key, trail: Trail) -> str:
    if isinstance(item, Scalar) and item.style is Style.UNSET:
        return ""
    if not isinstance(item, Scalar):
        trail.refuse(item.place, f"it is {shape_of(item)}; write a string")
        return ""
    try:
        text = read_string(item, key)
        is_file = bool(key.bounds.get("files")) and re.fullmatch(FILE_PATTERN, text)
        return _network(text) if key.kind is Kind.NETWORKS and not is_file else text
    except ValueError as error:
        trail.refuse(item.place, str(error))
        return ""


def _network(text: str) -> str:
    try:
        network = ipaddress.ip_network(text, strict=False) if re.fullmatch(NETWORK_PATTERN, text) else None
    except ValueError:
        network = None
    if network is None:
        raise ValueError(f"{text!r} is not a network; write 10.0.0.0/8 or fd00::/8")
    if network.network_address != ipaddress.ip_address(text.partition("/")[0]):
        raise ValueError(f"{text!r} has bits set beyond its prefix; write {network}")
    return text


def _read_certificates(node: Node, key: Key, trail: Trail) -> tuple[NamedCertificate, ...]:
    if not isinstance(node, Mapping):
        trail.refuse(node.place, f"it is {shape_of(node)}; write a mapping, {{}} if it is empty")
        return ()
    found = []
    for entry in node.entries:
        name, here = entry.key.text, trail.below(entry.key.text)
        if not re.fullmatch(SERVER_NAME_PATTERN, name):
            here.refuse(entry.key.place, f"{name!r} is not a server name; write www.example.org or *.example.org")
        if isinstance(entry.value, Mapping):
            found.append(NamedCertificate(name.lower(), *_read_pair(entry.value, key, here)))
        else:
            found.append(NamedCertificate(name.lower(), _read_item(entry.value, key, here)))
    return tuple(found)


def _read_pair(node: Mapping, key: Key, trail: Trail) -> tuple[str, str | None]:
    for entry in node.entries:
        if entry.key.text not in ("cert", "key"):
            cure = cure_for(entry.key.text, ("cert", "key"))
            trail.refuse(entry.key.place, f"unknown key {entry.key.text!r}; {cure}")
    cert, private = node.find("cert"), node.find("key")
    if cert is None:
        trail.refuse(node.place, "cert is missing; write {cert: FILE, key: FILE}")
    pair = [None if item is None else _read_item(item, key, trail) for item in (cert, private)]
    return pair[0] or "", pair[1]


def _read_steer(node: Node, trail: Trail) -> Steer:
    if isinstance(node, Scalar) and node.text == "source":
        return Steer()
    entry = node.entries[0] if isinstance(node, Mapping) and len(node.entries) == 1 else None
    if entry is None or entry.key.text != "payload" or not isinstance(entry.value, Scalar):
        trail.refuse(node.place, f"it is neither source nor payload; {_STEER_CURE}")
        return Steer()
    match = re.fullmatch(STEER_PATTERN, entry.value.text)
    start, end = (int(match[1]), int(match[2])) if match else (0, 0)
    if not start < end <= min(MAX_STEER_OFFSET, start + MAX_STEER_BYTES):
        trail.refuse(
            entry.value.place,
            f"{entry.value.text!r} are no bytes of a payload, of which the end is not one; {_STEER_CURE}, "
            f"at most {MAX_STEER_BYTES} bytes and none after the {MAX_STEER_OFFSET}th",
        )
        return Steer()
    return Steer(start, end)
