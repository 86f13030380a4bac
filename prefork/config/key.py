"""The keys of the configuration file: what a dataclass field of the model says about each.

Each field carries in its metadata what a checker and a reader need: the kind of value, its bounds and one
line of meaning.

Knows: kinds of values, bounds. Does not know: which keys there are, YAML, files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from enum import Enum
from typing import Any

MAX_INTEGER = 2**31 - 1  # a C int, which is what the kernel takes
MAX_DURATION = 366 * 86_400.0
MAX_SIZE_BYTES = 1 << 50


class Kind(Enum):
    """How a value is written in the file; `model` is the Python value that it becomes."""

    INTEGER = "integer"
    BOOLEAN = "boolean"
    STRING = "string"
    DURATION = "duration"  # 30s -> 30.0
    SIZE = "size"  # 64KiB -> 65536
    PERCENT = "percent"  # 10% -> 0.1
    AUTO = "auto"  # a number or auto -> int | None
    BIND = "bind"  # tcp://host:port -> str, checked by prefork.address
    APP = "app"  # module:attribute -> str
    FRAMING = "framing"  # raw | {lines: {max: 64KiB}} -> Framing
    STRINGS = "strings"  # a list of strings -> tuple[str, ...]
    NETWORKS = "networks"  # a list of CIDR networks -> tuple[str, ...]
    DELIMITER = "delimiter"  # what ends a line -> str
    MODE = "mode"  # "0660" -> int
    STEER = "steer"  # source | {payload: "0:4"} -> Steer
    CERTIFICATES = "certificates"  # {name: file} or {name: {cert: …, key: …}} -> tuple[NamedCertificate, ...]


def setting(default: Any, kind: Kind, meaning: str, **bounds: Any) -> Any:
    """Declare a key of the file.

    Args:
        default: the model's value when the key is absent; None means the key may be null.
        bounds: `minimum`, `maximum` (of the model's value), `choices` (tuple of str), `pattern` with `form`
            (a regular expression of a string, and how to write one), `secret` (True: never shown),
            `later` (True: the key is reserved, and any value but the default is refused), `files` (True: of a list
            of networks, `file:PATH` too), `trial` (True: `{value: …, dry_run: true}` too).
    """
    return field(default=default, metadata={"kind": kind, "meaning": meaning, **bounds})


def required(kind: Kind, meaning: str, **bounds: Any) -> Any:
    """Declare a key that has no default."""
    return field(metadata={"kind": kind, "meaning": meaning, **bounds})


def section(factory: Any, meaning: str) -> Any:
    """Declare a mapping of keys that is there with its defaults when the file is silent."""
    return field(default_factory=factory, metadata={"section": factory, "meaning": meaning})


def optional_section(factory: Any, meaning: str, **bounds: Any) -> Any:
    """Declare a mapping of keys that is None when the file is silent; `bounds` may hold `later`."""
    return field(default=None, metadata={"section": factory, "meaning": meaning, **bounds})


def sections(item: Any, meaning: str) -> Any:
    """Declare a list of mappings."""
    return field(default=(), metadata={"items": item, "meaning": meaning})


_MAXIMA: dict[Kind | None, float] = {
    Kind.INTEGER: MAX_INTEGER,
    Kind.DURATION: MAX_DURATION,
    Kind.SIZE: MAX_SIZE_BYTES,
}


@dataclass(frozen=True, slots=True)
class Key:
    """A key of the file as its dataclass declares it; exactly one of `kind`, `section`, `items` is set."""

    name: str  # in the file
    attribute: str  # in the dataclass
    meaning: str
    default: Any
    is_required: bool
    kind: Kind | None
    section: Any
    items: Any
    bounds: Mapping[str, Any]

    @property
    def is_nullable(self) -> bool:
        """Whether null is a value; None of a number or auto is written `auto`."""
        return not self.is_required and self.default is None and self.kind is not Kind.AUTO

    @property
    def is_later(self) -> bool:
        return bool(self.bounds.get("later"))

    @property
    def has_trial(self) -> bool:
        """Whether it can be tried: `{value: …, dry_run: true}`."""
        return bool(self.bounds.get("trial"))

    @property
    def minimum(self) -> Any:
        return self.bounds.get("minimum")

    @property
    def maximum(self) -> Any:
        return self.bounds.get("maximum", _MAXIMA.get(self.kind))


def keys_of(section: Any) -> tuple[Key, ...]:
    """List the keys of a dataclass of this module, in their order in the file."""
    keys = []
    for declared in fields(section):
        bounds = dict(declared.metadata)
        factory = declared.default_factory
        default = declared.default if factory is MISSING else factory()
        keys.append(
            Key(
                name=declared.name.rstrip("_"),
                attribute=declared.name,
                meaning=bounds.pop("meaning"),
                default=default,
                is_required=default is MISSING,
                kind=bounds.pop("kind", None),
                section=bounds.pop("section", None),
                items=bounds.pop("items", None),
                bounds=bounds,
            )
        )
    return tuple(keys)
