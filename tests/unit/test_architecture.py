"""The rules of style that can be read off the source: sizes, layers, names, state, exceptions.

A rule that no check enforces is a wish. Each test lists every place that breaks its rule.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit import source
from tests.unit.source import Source

PREFORK = source.read_all("prefork")
TOOLS = source.read_all("tools")
TESTS = source.read_all("tests")
EVERYTHING = (*PREFORK, *TOOLS, *TESTS)
CLASSES = {c.name: c for s in EVERYTHING for c in s.classes()}

MAX_LINES, MAX_FUNCTION, MAX_PARAMETERS, MAX_ATTRIBUTES, MAX_NESTING, MAX_DOCSTRING = 400, 50, 5, 12, 3, 12

# User code is called or interrupted there, or it is the top of a process, or logging's own rule: nowhere else.
CATCH_ALL = {
    ("prefork/app.py", "import_app"),
    ("prefork/cli.py", "_run"),
    ("prefork/framing/json_lines.py", "_read"),
    ("prefork/log.py", "emit"),
    ("prefork/net/service.py", "USER_ERRORS"),
    ("prefork/process/alarm.py", "_ring"),
    ("prefork/process/kernel.py", "_become"),
    ("prefork/process/reload.py", "begin"),
    ("prefork/process/worker.py", "_enter_lifespan"),
}
# The duck-typed future of asyncio.isfuture(), and where asyncio.Task looks for its loop.
FUTURE_PROTOCOL = {
    ("prefork/net/inlet.py", "_asyncio_future_blocking"),
    ("prefork/net/inlet.py", "_loop"),
    ("prefork/net/framed_connection.py", "_asyncio_future_blocking"),
}
DOCUMENTED_UNDERSCORES = {"_exit", "_replace", "_asdict", "_make", "_fields", "_field_defaults", "_current_frames"}
REFUSED_WORDS = {"manager", "util", "utils", "helper", "helpers", "base", "common", "misc", "info", "cfg"}
REFUSED_BEGINNINGS = ("do_", "process_")
ASYNCIO_NAMES = {"get_extra_info"}
CLIENT_READS = {"recv", "recv_into", "recvfrom", "recvmsg", "recvmsg_into", "recvfrom_into"}
READERS_OF_THE_MASTER = {"prefork/process/channel.py", "prefork/process/control.py"}  # its children, its operator


def check(violations: Iterator[str]) -> None:
    found = sorted(violations)
    assert not found, f"{len(found)} places:\n" + "\n".join(found)


# --- sizes ---


def test_no_file_is_longer_than_400_lines() -> None:
    check(f"{s.name}: {len(s.lines)} lines" for s in EVERYTHING if len(s.lines) > MAX_LINES)


def test_no_function_is_longer_than_50_lines() -> None:
    check(
        f"{s.at(f)} {f.name} has {size} lines"
        for s in EVERYTHING
        for f in s.functions()
        if (size := (f.end_lineno or f.lineno) - f.lineno + 1) > MAX_FUNCTION
    )


def test_no_function_has_more_than_5_parameters_besides_self() -> None:
    check(
        f"{s.at(f)} {f.name} has {count} parameters"
        for s in EVERYTHING
        for f in s.functions()
        if (count := source.count_parameters(f)) > MAX_PARAMETERS
    )


def test_no_class_adds_more_than_12_attributes_to_self() -> None:
    """Counted per class: slots, assignments on self, fields of dataclasses, less what a base class has.

    Frozen dataclasses are exempt: they mirror the config file, a message, a row, and have no behaviour that
    could mix the attributes up. What a base class has is counted there: its reader meets it in that file.
    """
    check(
        f"{s.at(c)} {c.name} has {len(names)} attributes: {', '.join(sorted(names))}"
        for s in EVERYTHING
        for c in s.classes()
        if not source.is_frozen_dataclass(c)
        and len(names := source.attributes(c) - source.inherited(c, CLASSES)) > MAX_ATTRIBUTES
    )


def test_nothing_is_nested_deeper_than_3() -> None:
    check(
        f"{s.at(f)} {f.name} is nested {depth} deep"
        for s in EVERYTHING
        for f in s.functions()
        if (depth := source.nesting(f)) > MAX_NESTING
    )


# --- docstrings ---


def test_every_module_says_in_at_most_12_lines_what_it_is() -> None:
    for_all = ((s, ast.get_docstring(s.tree)) for s in EVERYTHING if s.tree.body)
    check(
        f"{s.name}: " + ("no docstring" if doc is None else f"{len(doc.splitlines())} lines of docstring")
        for s, doc in for_all
        if doc is None or len(doc.splitlines()) > MAX_DOCSTRING
    )


def test_every_module_of_the_product_says_what_it_does_not_know() -> None:
    """A package's docstring without any code has nothing that could know something."""
    with_code = (s for s in (*PREFORK, *TOOLS) if len(s.tree.body) > 1)
    check(
        f"{s.name}: no “{word}”"
        for s in with_code
        for word in ("Knows:", "Does not know:")
        if word not in (ast.get_docstring(s.tree) or "")
    )


# --- layers ---


def layer_violations(s: Source) -> Iterator[str]:
    for place in s.imports():
        if not place.is_of("prefork"):
            continue
        is_net, is_process = place.is_of("prefork.net"), place.is_of("prefork.process")
        is_meeting = s.name == "prefork/process/worker.py"
        is_up = s.is_under("prefork/process/") and is_net and not is_meeting
        is_wing_crossed = is_up or (s.is_under("prefork/net/") and is_process)
        is_ground = s.name.count("/") == 1 or s.is_under("prefork/config/") or s.is_under("prefork/framing/")
        is_lifted = is_ground and (is_net or is_process) and not is_allowed_from_ground(s.name, place)
        if is_wing_crossed or is_lifted:
            yield f"{s.name}:{place.line} imports {place.module}"


def is_allowed_from_ground(name: str, place: source.Import) -> bool:
    """The command line and the package's names are fetched when they are needed; a test's server is both."""
    return (
        name == "prefork/testing.py"
        or (name == "prefork/cli.py" and place.is_lazy and place.is_of("prefork.process"))
        or (name == "prefork/__init__.py" and place.is_for_types)
    )


def test_the_wings_meet_in_the_worker_alone_and_the_ground_imports_neither() -> None:
    check(v for s in PREFORK for v in layer_violations(s))


def test_apps_are_written_against_the_public_names_alone() -> None:
    check(
        f"{s.name}:{i.line} imports {i.module}"
        for s in PREFORK
        if s.is_under("prefork/apps/")
        for i in s.imports()
        if i.module != "prefork" and i.module.partition(".")[0] not in sys.stdlib_module_names
    )


def test_the_bytes_wing_never_forks_and_never_signals() -> None:
    forbidden = re.compile(r"^(os\.(fork|forkpty|kill|killpg|waitpid|exec\w*|posix_spawn\w*)|signal\..*)$")
    check(
        f"{s.name}:{node.lineno} uses {ast.unparse(node)}"
        for s in PREFORK
        if s.is_under("prefork/net/")
        for node in ast.walk(s.tree)
        if isinstance(node, ast.Attribute) and forbidden.match(ast.unparse(node))
    )
    check(
        f"{s.name}:{i.line} imports {i.module}"
        for s in PREFORK
        if s.is_under("prefork/net/")
        for i in s.imports()
        if i.module in ("signal", "subprocess", "multiprocessing")
    )


def test_the_processes_wing_never_reads_a_clients_byte() -> None:
    check(
        f"{s.name}:{node.lineno} calls {ast.unparse(node.func)}"
        for s in PREFORK
        if s.is_under("prefork/process/") and s.name not in READERS_OF_THE_MASTER
        for node in s.calls()
        if isinstance(node.func, ast.Attribute) and node.func.attr in CLIENT_READS
    )


def test_the_command_line_imports_no_yaml_and_no_asyncio_at_its_top() -> None:
    heavy = ("yaml", "asyncio", "logging", "prefork.config", "prefork.net", "prefork.process", "prefork.app")
    light = {f"prefork/{name}.py" for name in ("__init__", "__main__", "cli", "client", "errors", "wire")}
    check(
        f"{s.name}:{i.line} imports {i.module}"
        for s in PREFORK
        if s.name in light
        for i in s.imports()
        if not i.is_lazy and not i.is_for_types and any(i.is_of(module) for module in heavy)
    )


# --- exceptions ---


def is_catch_all(node: ast.expr | None) -> bool:
    names = node.elts if isinstance(node, ast.Tuple) else [node]
    return any(name is None or ast.unparse(name) in ("Exception", "BaseException") for name in names)


def test_every_exception_is_caught_in_the_named_places_alone() -> None:
    check(
        f"{s.at(handler)} in {where}: except {ast.unparse(handler.type) if handler.type else ''}"
        for s in PREFORK
        for where, handler in s.handlers()
        if is_catch_all(handler.type) and (s.name, where) not in CATCH_ALL
    )
    check(
        f"{s.at(node)}: a tuple with Exception"
        for s in PREFORK
        for node in ast.walk(s.tree)
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Tuple)
        and is_catch_all(node.value)
        and (s.name, ast.unparse(node.targets[0])) not in CATCH_ALL
    )


def test_every_named_place_of_a_catch_all_still_exists() -> None:
    existing = {s.name for s in PREFORK}
    used = {(s.name, where) for s in PREFORK for where, h in s.handlers() if is_catch_all(h.type)}
    named = {(path, where) for path, where in CATCH_ALL if where != "USER_ERRORS"}
    assert {path for path, _ in CATCH_ALL} <= existing
    assert named <= used, f"no longer there: {named - used}"


def test_no_exception_is_passed_over_without_a_word_why() -> None:
    check(
        f"{s.at(handler)} in {where}"
        for s in EVERYTHING
        for where, handler in s.handlers()
        if all(isinstance(node, ast.Pass) for node in handler.body)
        and not any("#" in line for line in s.lines[handler.lineno - 1 : handler.end_lineno])
    )


# --- names ---


def test_no_private_name_of_another_object_is_touched() -> None:
    """It also holds that nothing private of asyncio or selectors is used: that changes without notice."""
    check(
        f"{s.at(node)} {ast.unparse(node)}"
        for s in (*PREFORK, *TOOLS)
        for node in ast.walk(s.tree)
        if isinstance(node, ast.Attribute)
        and re.match(r"_[a-z]", node.attr)
        and node.attr not in DOCUMENTED_UNDERSCORES
        and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
        and not (isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "super")
    )


def test_no_private_name_of_asyncio_is_used_on_self() -> None:
    """A subclass or a duck of asyncio's would meet them; those that asyncio documents are named above."""
    check(
        f"{s.name} {c.name}.{name}"
        for s in PREFORK
        for c in s.classes()
        for name in source.attributes(c) & source.private_names_of_asyncio(c)
        if (s.name, name) not in FUTURE_PROTOCOL
    )


def names_of(s: Source) -> Iterator[tuple[str, str]]:
    yield s.name, Path(s.name).stem
    yield from ((s.at(c), c.name) for c in s.classes())
    yield from ((s.at(f), f.name) for f in s.functions())


@pytest.mark.parametrize("tree", [PREFORK, TOOLS, TESTS], ids=["prefork", "tools", "tests"])
def test_no_refused_word_names_a_file_a_class_or_a_function(tree: tuple[Source, ...]) -> None:
    """A test's name is a sentence, in which any word may stand."""
    check(
        f"{where} {name}"
        for s in tree
        for where, name in names_of(s)
        if not name.startswith("test_")
        and name not in ASYNCIO_NAMES
        and (source.words(name) & REFUSED_WORDS or name.lstrip("_").startswith(REFUSED_BEGINNINGS))
    )


# --- state ---


def test_no_module_and_no_class_has_mutable_state() -> None:
    check(
        f"{s.at(node)} {name}" for s in (*PREFORK, *TOOLS) for node, name in s.mutables() if name != name.upper()
    )


def test_no_function_rebinds_a_name_of_its_module() -> None:
    check(
        f"{s.at(node)} global {', '.join(node.names)}"
        for s in EVERYTHING
        for node in ast.walk(s.tree)
        if isinstance(node, ast.Global)
    )


# --- tests ---


def test_no_test_sleeps() -> None:
    check(
        f"{s.at(call)} {ast.unparse(call.func)}"
        for s in TESTS
        if s.name != "tests/eventually.py"
        for call in s.calls()
        if ast.unparse(call.func) == "time.sleep"
        or (ast.unparse(call.func) == "asyncio.sleep" and ast.unparse(call.args[0]) != "0")
    )
    check(
        f"{s.name}:{i.line} from time import sleep"
        for s in TESTS
        for i in s.imports()
        if i.module in ("time", "asyncio") and "sleep" in i.names
    )


def test_no_test_patches_the_kernel() -> None:
    patched = re.compile(r"""^monkeypatch\.setattr\(['"]?(os|signal|socket|select|time)\b""")
    check(f"{s.at(call)}" for s in TESTS for call in s.calls() if patched.match(ast.unparse(call)))
    check(f"{s.name}:{i.line}" for s in TESTS for i in s.imports() if i.is_of("unittest.mock"))


@pytest.mark.parametrize("wing", ["prefork/net/", "prefork/process/", "prefork/config/", "prefork/apps/"])
def test_the_rooms_that_the_rules_speak_of_are_there(wing: str) -> None:
    """Else a rule would hold for want of anything to hold it against."""
    assert sum(s.is_under(wing) for s in PREFORK) > 1
