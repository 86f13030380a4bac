"""The configuration read from all that speaks: flags over environment over file over defaults.

Knows: files, precedence, the order of problems. Does not know: kinds of values, sockets, processes.
"""

from __future__ import annotations

from collections.abc import Mapping as Variables
from collections.abc import Sequence
from dataclasses import dataclass, field

from prefork.config.checker import check_document
from prefork.config.document import (
    MAX_DOCUMENT_BYTES,
    Mapping,
    Node,
    Place,
    Problem,
    Scalar,
    Source,
    open_source,
    parse_document,
)
from prefork.config.document import Sequence as Elements
from prefork.config.model import Config
from prefork.config.overrides import apply_environment, apply_flags
from prefork.config.trail import Trail
from prefork.config.variables import substitute
from prefork.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Loaded:
    """A config that was read and checked, with what its user should be told."""

    config: Config
    path: str
    warnings: tuple[str, ...] = ()
    root: Node = field(default=Mapping(Place(Source(""))), repr=False)

    def at(self, *steps: str | int) -> str:
        """Return where a key stands, `file:line:column`; where it would stand, if it is not there."""
        node = self.root
        for step in steps:
            below: Node | None = None
            if isinstance(node, Mapping) and isinstance(step, str):
                below = node.find(step)
            elif isinstance(node, Elements) and isinstance(step, int):
                below = node.items[step]
            if below is None:
                break
            node = below
        return str(node.place)


def read_config(path: str, environ: Variables[str, str], sets: Sequence[str] = ()) -> Loaded:
    """Read a config file and check it.

    Args:
        path: of the YAML file, at most 1 MiB of UTF-8; paths within it are left as they are.
        environ: the process's environment, for `${VAR}` and `PREFORK_…`.
        sets: `KEY=VALUE` flags, the last one of a key wins.

    Raises:
        ConfigError: all that is wrong, each with its place, its cure and the line, sorted by place.
    """
    problems: list[Problem] = []
    text = _read_text(path, problems)
    source = open_source(path, text)
    root = None if problems else parse_document(text, source, problems)
    if root is None or (isinstance(root, Scalar) and root.is_null):
        if not problems:
            problems.append(
                Problem(Place(source), "the file holds no keys; write listeners: with a bind and an app")
            )
        raise _error(problems)
    loaded = _check(root, path, environ, sets, problems)
    if loaded is None:
        raise _error(problems)
    return loaded


def _check(
    root: Node, path: str, environ: Variables[str, str], sets: Sequence[str], problems: list[Problem]
) -> Loaded | None:
    root = substitute(root, environ, problems)
    warnings: list[str] = []
    if isinstance(root, Mapping):
        root, warnings = apply_environment(root, environ, problems)
        root = apply_flags(root, sets, problems)
    config = check_document(root, Trail(problems))
    return None if problems or config is None else Loaded(config, path, tuple(warnings), root)


def _error(problems: list[Problem]) -> ConfigError:
    return ConfigError([str(problem) for problem in sorted(problems, key=lambda problem: problem.place.order)])


def _read_text(path: str, problems: list[Problem]) -> str:
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_DOCUMENT_BYTES + 1)
        return content.decode("utf-8-sig")
    except OSError as error:
        cause = error.strerror or str(error)
        message = f"cannot read the file: {cause}; check its path and its permissions"
        problems.append(Problem(Place(Source(path)), message))
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        column = error.start - error.object.rfind(b"\n", 0, error.start)
        shown = error.object.decode("utf-8", "replace")
        place = Place(open_source(path, shown), line, column)
        problems.append(Problem(place, "not UTF-8; save the file in this encoding"))
    return ""
