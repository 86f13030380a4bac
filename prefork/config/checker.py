"""A tree of nodes checked against the model, and turned into it.

Every mistake is noted and the reading goes on, so that all of them are reported at once.

Knows: sections, listeners and what must be unique. Does not know: files, environment, flags.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterator
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from prefork.address import Address, parse_address
from prefork.config.combinations import check_combinations
from prefork.config.document import Mapping, Node, Place, Scalar, Sequence, Style
from prefork.config.key import Key, Kind, keys_of
from prefork.config.model import FRAMINGS, Config, Framing, ListenerConfig
from prefork.config.trail import Trail, cure_for, shape_of
from prefork.config.trials import gather, unwrap
from prefork.config.values import is_refused, read_value

_CERTAIN = 0.8  # of difflib's ratio: a key of another section is only proposed when it is nearly the same
_FRAMING_CURE = "write raw, lines, or {lines: {max: 64KiB}}"


def check_document(root: Node, trail: Trail) -> Config | None:
    """Turn the tree of a document into a config.

    Args:
        root: the tree, with variables and overrides put in.
        trail: gets every problem; when it got one, the result is without meaning.
    """
    if not isinstance(root, Mapping):
        trail.refuse(root.place, f"the document is {shape_of(root)}; write a mapping of keys, such as workers: 2")
        return None
    config: Config | None = _read_section(Config, root, trail)
    _refuse_twin_of_admin(root, trail)
    if root.find("listeners") is None:
        trail.refuse(root.place, "no listeners; write listeners: with a bind and an app")
    return config


def _read_section(section: Any, node: Node, trail: Trail) -> Any:
    if not isinstance(node, Mapping):
        trail.refuse(node.place, f"it is {shape_of(node)}; write a mapping of keys")
        return None
    keys = {key.name: key for key in keys_of(section)}
    values: dict[str, Any] = {}
    dry: set[str] = set()
    for entry in node.entries:
        name, value = entry.key.text, entry.value
        if name not in keys:
            trail.refuse(entry.key.place, f"unknown key {name!r}; {_cure_for_key(name, keys)}")
            continue
        if keys[name].has_trial:
            found, is_dry = unwrap(value, trail.below(name))
            if found is None:
                continue
            dry |= {name} if is_dry else set()
            value = found
        values[keys[name].attribute] = _read_key(keys[name], value, trail.below(name))
    if "dry_run" in keys:
        gather(values, dry)
    missing = [key for key in keys.values() if key.is_required and node.find(key.name) is None]
    unknown = [entry.key.text for entry in node.entries if entry.key.text not in keys]
    for key in missing:
        if any(get_close_matches(name, [key.name], 1, _CERTAIN) for name in unknown):
            continue  # that one is told with its cure
        trail.refuse(node.place, f"{key.name} is missing; write {key.name}: {key.meaning}")
    return None if missing else section(**values)


def _cure_for_key(name: str, known: Collection[str]) -> str:
    homes = dict(_homes(Config, ""))
    near = get_close_matches(name, [*known, *homes], 1, _CERTAIN)
    if near and near[0] not in known:
        return f"did you mean {near[0]}? It belongs in {homes[near[0]]}"
    return cure_for(name, known)


def _homes(section: Any, path: str) -> Iterator[tuple[str, str]]:
    """List the keys below the top level with the sections that they belong in."""
    for key in keys_of(section):
        if path:
            yield key.name, path
        below = key.section or key.items
        if below is not None and not key.is_later:
            yield from _homes(below, f"{path}.{key.name}" if path else key.name)


def _read_key(key: Key, node: Node, trail: Trail) -> Any:
    if key.items is not None:
        return _read_listeners(node, trail)
    if key.section is None and key.kind is not Kind.FRAMING:
        return read_value(node, key, trail)
    if is_refused(node, key, trail) or (isinstance(node, Scalar) and node.is_null):
        return None
    return _read_framing(node, trail) if key.section is None else _read_section(key.section, node, trail)


def _read_framing(node: Node, trail: Trail) -> Framing:
    if isinstance(node, Scalar):
        options = _options_of(node, trail)
        missing = [key.name for key in keys_of(options) if key.is_required] if options is not None else []
        if missing:
            form = f"{{{node.text}: {{{missing[0]}: …}}}}"
            trail.refuse(node.place, f"{node.text} needs {', '.join(missing)}; write {form}")
        return Framing(node.text, None if options is None or missing else options())
    if isinstance(node, Sequence) or len(node.entries) != 1:
        trail.refuse(node.place, f"it is not one framing; {_FRAMING_CURE}")
        return Framing()
    name, chosen = node.entries[0].key, node.entries[0].value
    if name.text == "raw":
        trail.refuse(name.place, "raw has no options; write framing: raw")
        return Framing()
    options = _options_of(name, trail)
    if options is None:
        return Framing()
    return Framing(name.text, _read_section(options, chosen, trail.below(name.text)))


def _options_of(name: Scalar, trail: Trail) -> Any:
    if name.text not in FRAMINGS:
        trail.refuse(name.place, f"unknown framing {name.text!r}; {cure_for(name.text, FRAMINGS)}")
    return FRAMINGS.get(name.text)


def _read_listeners(node: Node, trail: Trail) -> tuple[ListenerConfig, ...]:
    if isinstance(node, Scalar) and node.style is Style.UNSET:
        return ()
    if isinstance(node, Scalar) and node.is_null:
        node = Sequence(node.place)
    if not isinstance(node, Sequence):
        trail.refuse(node.place, f"it is {shape_of(node)}; write a list, each with a dash, a bind and an app")
        return ()
    if not node.items:
        trail.refuse(node.place, "no listeners; write at least one with a bind and an app")
    read = [_read_section(ListenerConfig, item, trail.below(str(i))) for i, item in enumerate(node.items)]
    for index, (item, listener) in enumerate(zip(node.items, read, strict=True)):
        if listener is not None and isinstance(item, Mapping):
            check_combinations(listener, item, trail.below(str(index)))
    _refuse_twins(node, trail)
    return _with_names(tuple(listener for listener in read if listener is not None))


def _refuse_twins(listeners: Sequence, trail: Trail) -> None:
    names: dict[str, Place] = {}
    binds: dict[Address, Place] = {}
    for index, item in enumerate(listeners.items):
        here = trail.below(str(index))
        name, bind = _scalar(item, "name"), _scalar(item, "bind")
        if name is not None:
            first = names.setdefault(name.text, name.place)
            if first is not name.place:
                here.refuse(name.place, f"the name {name.text!r} is taken at {first}; names are unique")
        address = None if bind is None else _canonical(bind.text)
        if bind is not None and address is not None and (address.path or address.port):
            first = binds.setdefault(address, bind.place)
            if first is not bind.place:
                here.refuse(bind.place, f"{bind.text} is bound at {first}; change or remove one of them")


def _refuse_twin_of_admin(root: Mapping, trail: Trail) -> None:
    admin, listeners = root.find("admin"), root.find("listeners")
    bind = None if admin is None else _scalar(admin, "bind")
    if bind is None or not isinstance(listeners, Sequence):
        return
    address = _canonical(bind.text)
    for item in listeners.items if address is not None and (address.path or address.port) else ():
        other = _scalar(item, "bind")
        if other is not None and _canonical(other.text) == address:
            words = f"{bind.text} is bound at {other.place}; change or remove one of them"
            trail.below("admin").below("bind").refuse(bind.place, words)


def _scalar(item: Node, key: str) -> Scalar | None:
    found = item.find(key) if isinstance(item, Mapping) else None
    return found if isinstance(found, Scalar) and found.style is not Style.UNSET and not found.is_null else None


def _canonical(bind: str) -> Address | None:
    try:
        address = parse_address(bind).plain
    except ValueError:
        return None
    if address.is_unix and not address.is_abstract:
        return replace(address, path="/" + "/".join(part for part in address.path.split("/") if part))
    try:
        return replace(address, host=str(ipaddress.ip_address(address.host)))
    except ValueError:
        return address


def default_name(bind: str) -> str:
    """Derive a listener's name from its bind; empty when that cannot be parsed."""
    try:
        return parse_address(bind).default_name
    except ValueError:
        return ""


def _with_names(listeners: tuple[ListenerConfig, ...]) -> tuple[ListenerConfig, ...]:
    taken = {listener.name for listener in listeners if listener.name}
    named = []
    for listener in listeners:
        name = listener.name or _free_name(default_name(listener.bind or ""), taken)
        taken.add(name)
        named.append(replace(listener, name=name))
    return tuple(named)


def _free_name(name: str, taken: set[str]) -> str:
    index = 2
    free = name
    while free in taken:
        free = f"{name}-{index}"
        index += 1
    return free
