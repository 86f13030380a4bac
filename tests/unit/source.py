"""Python source as the tests of the architecture look at it: files, functions, classes, imports.

Knows: `ast`. Does not know: any rule.
"""

from __future__ import annotations

import ast
import asyncio
import re
import selectors
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
Function = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)
MUTABLE_LITERALS = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
MUTABLE_CALLS = {"list", "dict", "set", "bytearray", "deque", "defaultdict", "Counter", "OrderedDict", "count"}


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module: `from a import b` names both `a` and, should that be a module, `a.b`."""

    module: str
    names: tuple[str, ...]
    line: int
    is_lazy: bool  # inside a function
    is_for_types: bool  # under `if TYPE_CHECKING`

    def is_of(self, package: str) -> bool:
        full = (self.module, *(f"{self.module}.{name}" for name in self.names))
        return any(name == package or name.startswith(f"{package}.") for name in full)


@dataclass(frozen=True, slots=True)
class Source:
    """One file."""

    name: str  # from the top of the checkout on
    lines: tuple[str, ...]
    tree: ast.Module

    def at(self, node: ast.stmt | ast.expr | ast.excepthandler) -> str:
        return f"{self.name}:{node.lineno}"

    def is_under(self, folder: str) -> bool:
        return self.name.startswith(folder)

    def functions(self) -> Iterator[Function]:
        return (node for node in ast.walk(self.tree) if isinstance(node, FUNCTIONS))

    def classes(self) -> Iterator[ast.ClassDef]:
        return (node for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef))

    def calls(self) -> Iterator[ast.Call]:
        return (node for node in ast.walk(self.tree) if isinstance(node, ast.Call))

    def handlers(self) -> Iterator[tuple[str, ast.ExceptHandler]]:
        """Yield except clauses with the name of the innermost function around each."""
        yield from _handlers(self.tree, "")

    def imports(self) -> Iterator[Import]:
        yield from _imports(self.tree, False, False)

    def mutables(self) -> Iterator[tuple[ast.stmt, str]]:
        """Yield assignments of mutable values at module and class level, and the names."""
        for body in (self.tree.body, *(c.body for c in self.classes())):
            for node in body:
                targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
                if isinstance(node, ast.Assign | ast.AnnAssign) and _is_mutable(node.value):
                    yield from ((node, t.id) for t in targets if isinstance(t, ast.Name) and t.id[:2] != "__")


def read_all(folder: str) -> tuple[Source, ...]:
    """Return the Python files of a folder, those without a suffix that Python runs too."""
    sources = []
    for path in sorted((ROOT / folder).rglob("*")):
        if not path.is_file() or "__pycache__" in path.parts or path.suffix not in (".py", ""):
            continue
        text = path.read_text()
        if path.suffix == ".py" or re.match(r"#!.*python", text):
            sources.append(Source(str(path.relative_to(ROOT)), tuple(text.splitlines()), ast.parse(text)))
    return tuple(sources)


def _handlers(node: ast.AST, where: str) -> Iterator[tuple[str, ast.ExceptHandler]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ExceptHandler):
            yield where, child
        yield from _handlers(child, child.name if isinstance(child, FUNCTIONS) else where)


def _imports(node: ast.AST, is_lazy: bool, is_for_types: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, (), child.lineno, is_lazy, is_for_types)
        elif isinstance(child, ast.ImportFrom):
            names = tuple(alias.name for alias in child.names)
            yield Import("." * child.level + (child.module or ""), names, child.lineno, is_lazy, is_for_types)
        else:
            is_types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            yield from _imports(child, is_lazy or isinstance(child, FUNCTIONS), is_for_types or is_types)


def _is_mutable(value: ast.expr | None) -> bool:
    if isinstance(value, ast.Call):
        return ast.unparse(value.func).rpartition(".")[2] in MUTABLE_CALLS
    return isinstance(value, MUTABLE_LITERALS)


def count_parameters(function: Function) -> int:
    """Count what a caller gives: `*args` and `**kwargs` are one each, self and cls are none."""
    of = function.args
    given = [*of.posonlyargs, *of.args, *of.kwonlyargs, *filter(None, (of.vararg, of.kwarg))]
    return len([a for place, a in enumerate(given) if not (place == 0 and a.arg in ("self", "cls"))])


def nesting(function: Function) -> int:
    """Return how many blocks lie within one another; an `elif` is beside its `if`, a function begins anew."""
    return max((_depth(child) for child in function.body), default=0)


def _depth(node: ast.AST) -> int:
    if isinstance(node, (*FUNCTIONS, ast.ClassDef, ast.Lambda)):
        return 0
    children = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.If) and len(node.orelse) == 1 and isinstance(node.orelse[0], ast.If):
        children.remove(node.orelse[0])
        return max(_depth(node.orelse[0]), 1 + max(map(_depth, children), default=0))
    return isinstance(node, BLOCKS) + max(map(_depth, children), default=0)


def attributes(cls: ast.ClassDef) -> set[str]:
    """Return what a class puts on its instances: slots, assignments on self, fields of a dataclass."""
    names = set()
    for node in cls.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__slots__":
            names |= {str(n.value) for n in ast.walk(node.value) if isinstance(n, ast.Constant)}
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and _is_dataclass(cls):
            names.add(node.target.id)
    for function in (node for node in cls.body if isinstance(node, FUNCTIONS)):
        stored = (n for n in ast.walk(function) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store))
        names |= {n.attr for n in stored if isinstance(n.value, ast.Name) and n.value.id == "self"}
    return {name for name in names if not name.startswith("__")}


def inherited(cls: ast.ClassDef, known: Mapping[str, ast.ClassDef]) -> set[str]:
    """Return the attributes of those base classes that are known, by name."""
    bases = {ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in cls.bases} - {cls.name}
    found = [known[name] for name in bases if name in known]
    return set().union(*(attributes(base) | inherited(base, known) for base in found))


def _is_dataclass(cls: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(decorator) for decorator in cls.decorator_list)


def is_frozen_dataclass(cls: ast.ClassDef) -> bool:
    return any("frozen=True" in ast.unparse(decorator) for decorator in cls.decorator_list if _is_dataclass(cls))


def private_names_of_asyncio(cls: ast.ClassDef) -> set[str]:
    """Return the underscored names that asyncio or selectors use on a class's instances.

    Asyncio looks at those that inherit from its classes, and at the ducks of its futures.
    """
    looked_at: list[type] = [asyncio.Future] if "_asyncio_future_blocking" in attributes(cls) else []
    for base in cls.bases:
        module, _, name = ast.unparse(base).rpartition(".")
        if module in ("asyncio", "selectors"):
            looked_at.append(getattr({"asyncio": asyncio, "selectors": selectors}[module], name))
    return {name for found in looked_at for name in dir(found) if re.match(r"_[a-z]", name)}


def words(name: str) -> set[str]:
    """Return the words of a name in snake or camel case, in lower case."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)}
