"""`${VAR}` and `${VAR:-default}` in the values of a document.

They are put in after the document was parsed: a variable can become a value, but never structure.
As in the shell (POSIX, Parameter Expansion) a default also stands in for an empty variable.

Knows: the syntax of a variable. Does not know: keys, the process's own environment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping as Variables

from prefork.config.document import Entry, Mapping, Node, Problem, Scalar, Sequence, Style, scalar_of

_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)\}|\$\{")
_BODY = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)
_SYNTAX = "write ${NAME} or ${NAME:-default}, and $${ for a literal ${"


def substitute(node: Node, environ: Variables[str, str], problems: list[Problem]) -> Node:
    """Put the variables into the values of a tree; `$${` becomes `${`.

    Args:
        node: the root of the tree; keys are left alone.
        environ: the variables.
        problems: gets a problem for each variable that is not set and has no default.

    Returns:
        A new tree. A value that held a variable has the style GIVEN, or UNSET when that was a problem.
    """
    if isinstance(node, Sequence):
        return Sequence(node.place, tuple(substitute(item, environ, problems) for item in node.items))
    if isinstance(node, Mapping):
        return Mapping(
            node.place,
            tuple(Entry(entry.key, substitute(entry.value, environ, problems)) for entry in node.entries),
        )
    return _expand(node, environ, problems)


def _expand(scalar: Scalar, environ: Variables[str, str], problems: list[Problem]) -> Scalar:
    if "${" not in scalar.text:
        return scalar
    try:
        text = _REFERENCE.sub(lambda match: _value(match, environ), scalar.text)
    except ValueError as error:
        problems.append(Problem(scalar.place, str(error)))
        return Scalar(scalar.place, scalar.text, Style.UNSET, "str")
    return scalar_of(text, scalar.place, Style.GIVEN)


def _value(match: re.Match[str], environ: Variables[str, str]) -> str:
    if match[0] == "$${":
        return "${"
    body = None if match[1] is None else _BODY.fullmatch(match[1])
    if body is None:
        raise ValueError(f"{match[0]!r} is not a variable; {_SYNTAX}")
    name, default = body[1], body[2]
    value = environ.get(name)
    if value is None and default is None:
        raise ValueError(f"the variable {name} is not set; set it, or write ${{{name}:-default}}")
    return value or default or ""
