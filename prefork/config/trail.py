"""Where a value stands in the configuration, and where the problems found on the way are kept.

Knows: paths of keys. Does not know: kinds, YAML's syntax, the model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from prefork.config.document import Mapping, Node, Place, Problem, Sequence


@dataclass(frozen=True, slots=True)
class Trail:
    """The way to a value, such as `listeners.0.limits.idle`, and the list of problems."""

    problems: list[Problem]
    path: str = ""

    def below(self, name: str) -> Trail:
        """Return the trail of a key or an element of this one."""
        return Trail(self.problems, f"{self.path}.{name}" if self.path else name)

    def refuse(self, place: Place, message: str) -> None:
        """Note a problem: what is wrong, a semicolon, the cure."""
        prefix = f"{self.path}: " if self.path else ""
        self.problems.append(Problem(place, prefix + message))


def shape_of(node: Node) -> str:
    """Name the shape of a node: a list, a mapping or a single value."""
    if isinstance(node, Sequence):
        return "a list"
    return "a mapping" if isinstance(node, Mapping) else "a single value"


def cure_for(word: str, known: Iterable[str]) -> str:
    """Return the cure for an unknown word: the nearest known one, else all of them."""
    words = tuple(known)
    near = get_close_matches(word.lower().replace("-", "_"), words, 1)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(words)}"
