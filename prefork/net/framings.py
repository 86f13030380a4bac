"""The framing that a listener's config names, as a value.

Knows: the names and their options. Does not know: bytes, connections.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from prefork.config.model import Framing as FramingConfig
from prefork.framing import Fixed, Framing, JsonLines, Length, Lines, Netstring, Over, Varint
from prefork.framing.checks import build_check


def build_framing(chosen: FramingConfig, limit: int, apps: Mapping[str, Any]) -> Framing | None:
    """Return the framing that a listener's config names; None means raw.

    Args:
        limit: bytes of the largest frame when the framing does not say.
        apps: what `check` stands for.

    Raises:
        ConfigError: `check` cannot check anything.
    """
    options = chosen.options
    return None if options is None else _BUILDERS[chosen.name](options, limit, apps)


def _lines(options: Any, limit: int, _: Mapping[str, Any]) -> Framing:
    return Lines(options.max or limit, options.delimiter.encode(), options.strip, Over(options.over))


def _length(options: Any, limit: int, _: Mapping[str, Any]) -> Framing:
    return Length(options.max or limit, Over(options.over), options.bytes, options.endian, options.counts_itself)


def _json_lines(options: Any, limit: int, apps: Mapping[str, Any]) -> Framing:
    check = build_check(apps[options.check], options.check) if options.check else None
    return JsonLines(options.max or limit, check, Over(options.over))


_BUILDERS: dict[str, Callable[[Any, int, Mapping[str, Any]], Framing]] = {
    "lines": _lines,
    "length": _length,
    "varint": lambda options, limit, _: Varint(options.max or limit, Over(options.over)),
    "netstring": lambda options, limit, _: Netstring(options.max or limit, Over(options.over)),
    "fixed": lambda options, _, __: Fixed(options.size),
    "json-lines": _json_lines,
}
