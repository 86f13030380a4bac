"""YAML texts as trees, and the variables in them.

Knows: `prefork.config.document`, `prefork.config.variables`. Does not know: keys.
"""

from __future__ import annotations

import pytest

from prefork.config.document import (
    MAX_DEPTH,
    MAX_DOCUMENT_BYTES,
    Mapping,
    Node,
    Place,
    Problem,
    Scalar,
    Source,
    Style,
    open_source,
    parse_document,
    plain_value,
)
from prefork.config.variables import substitute


def parse(text: str) -> tuple[Node | None, list[Problem]]:
    problems: list[Problem] = []
    return parse_document(text, open_source("f.yaml", text), problems), problems


def parsed(text: str) -> Node:
    root, problems = parse(text)
    assert not problems
    assert root is not None
    return root


def refused(text: str) -> str:
    _, problems = parse(text)
    assert len(problems) == 1
    return str(problems[0])


def value_of(text: str) -> Scalar:
    root = parsed(text)
    assert isinstance(root, Mapping)
    value = root.entries[0].value
    assert isinstance(value, Scalar)
    return value


def test_a_scalar_keeps_its_text_its_style_and_its_place() -> None:
    value = value_of("\n  key:  0600 # octal\n")
    assert (value.text, value.style, value.tag) == ("0600", Style.PLAIN, "int")
    assert (value.place.line, value.place.column) == (2, 9)


@pytest.mark.parametrize(
    ("text", "tag", "value"),
    [
        ("22:22", "int", 1342),
        ("0600", "int", 384),
        ("0o600", "str", "0o600"),
        ("on", "bool", True),
        ("no", "bool", False),
        ("~", "null", None),
        ("", "null", None),
        ("1.5", "float", 1.5),
        ("2026-01-02", "timestamp", "2026-01-02"),
        ("2026-99-99", "timestamp", "2026-99-99"),
        ("0b_", "int", "0b_"),
        ("'on'", "str", "on"),
        ('"22:22"', "str", "22:22"),
    ],
)
def test_the_tag_and_the_plain_value_are_what_yaml_makes_of_the_text(text: str, tag: str, value: object) -> None:
    scalar = value_of(f"key: {text}")
    assert scalar.tag == tag
    assert plain_value(scalar) == value


def test_a_tree_becomes_plain_values() -> None:
    assert plain_value(parsed("a: [1, {b: x}]\nc: {}")) == {"a": [1, {"b": "x"}], "c": {}}


@pytest.mark.parametrize("text", ["", "\n", "# only a comment\n", "---\n...\n"])
def test_a_text_without_a_value_has_no_keys(text: str) -> None:
    root, problems = parse(text)
    assert not problems
    assert root is None or (isinstance(root, Scalar) and root.is_null)


def test_duplicate_keys_are_refused_at_the_second_one_and_the_reading_goes_on() -> None:
    _, problems = parse("a: 1\nb: {c: 1, c: 2}\na: 3\n")
    assert [str(problem).splitlines()[0] for problem in problems] == [
        "f.yaml:2:11: duplicate key 'c', first in line 2; remove one of them",
        "f.yaml:3:1: duplicate key 'a', first in line 1; remove one of them",
    ]


def test_a_problem_shows_the_line_and_a_caret_under_the_column() -> None:
    assert refused("a: 1\nb: *x\n") == (
        "f.yaml:2:4: the alias *x is not followed; write the value out\n    b: *x\n       ^"
    )


def test_a_long_line_is_shown_around_the_column() -> None:
    lines = refused(f"{{key: {'x' * 5000}, other: *x}}").splitlines()
    assert len(lines[1]) < 200
    assert lines[1][lines[2].index("^")] == "*"


def test_control_characters_of_the_line_are_not_shown() -> None:
    assert str(Problem(Place(Source("f.yaml")), "\ufeff is no mode")) == "f.yaml: \\ufeff is no mode"
    message = refused("a: \x1b[31m\n")
    assert "\x1b" not in message
    assert message.startswith("f.yaml:1:4: the character U+001B is not allowed; remove it")


@pytest.mark.parametrize(
    ("text", "place", "cure"),
    [
        ("a: 1\n\tb: 2\n", "f.yaml:2:1", "a tab cannot indent YAML; use spaces"),
        ("a: b: c\n", "f.yaml:1:5", "needs quotes"),
        ("a: @x\n", "f.yaml:1:4", "write it in quotes"),
        ("a: [1\n", "f.yaml:2:1", "from line 1); close the bracket"),
        ('a: "x\n', "f.yaml:2:1", "close the quote"),
        ("- a: 1\n b: 2\n", "f.yaml:2:2", "check the indentation"),
        ("a: 1\n---\nb: 1\n", "f.yaml:2:1", "one document"),
        ("a: !!python/name:os.system x\n", "f.yaml:1:4", "tags are not read"),
        ("a: !!str 1\n", "f.yaml:1:4", "tags are not read"),
        ("a: {b: ${X}}\n", "f.yaml:1:9", "${VAR} within brackets needs quotes"),
        ("[a]: b\n", "f.yaml:1:1", "a key is a word"),
        ("{a: b}: c\n", "f.yaml:1:1", "a key is a word"),
        ("a: &x 1\nb: *x\n", "f.yaml:2:4", "the alias *x is not followed"),
    ],
)
def test_broken_yaml_is_a_problem_with_a_place_and_a_cure(text: str, place: str, cure: str) -> None:
    message = refused(text)
    assert message.startswith(place + ": ")
    assert cure in message


def test_depth_and_size_are_bounded() -> None:
    assert "nested deeper" in refused("[" * 100_000)
    assert "nested deeper" in refused("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))
    assert "larger than 1 MiB" in refused("#" * (MAX_DOCUMENT_BYTES + 1))
    parsed("[" * MAX_DEPTH + "]" * MAX_DEPTH)


def test_every_beginning_of_a_document_is_a_tree_or_one_problem() -> None:
    text = 'a: [1, "x\\n", {b: ~}]\nlist:\n  - name: é\n    k: |\n      text\n"q": \'s\' # c\n'
    for end in range(len(text) + 1):
        root, problems = parse(text[:end])
        assert len(problems) <= 1
        assert root is None or not problems


ENVIRON = {"HOST": "db", "EMPTY": "", "YAML": "{a: [b]}", "NUMBER": "8", "ON": "on"}


def substituted(text: str) -> tuple[Scalar, list[Problem]]:
    problems: list[Problem] = []
    value = substitute(value_of(text), ENVIRON, problems)
    assert isinstance(value, Scalar)
    return value, problems


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("k: ${HOST}", "db"),
        ("k: tcp://${HOST}:${PORT:-90}", "tcp://db:90"),
        ("k: '${HOST}'", "db"),
        ("k: ${EMPTY:-x}", "x"),
        ("k: a${EMPTY}b", "ab"),
        ("k: ${NONE:-}", ""),
        ("k: ${NONE:-a:-b}", "a:-b"),
        ("k: $${HOST}", "${HOST}"),
        ("k: $HOST", "$HOST"),
        ("k: ${YAML}", "{a: [b]}"),
    ],
)
def test_variables_are_put_into_values(text: str, value: str) -> None:
    scalar, problems = substituted(text)
    assert not problems
    assert scalar.text == value


def test_a_variable_is_read_by_its_text_and_not_by_the_quotes_around_it() -> None:
    scalar, _ = substituted('k: "${NUMBER}"')
    assert (scalar.style, scalar.tag) == (Style.GIVEN, "int")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("k: ${NONE}", "the variable NONE is not set; set it, or write ${NONE:-default}"),
        ("k: ${}", "'${}' is not a variable"),
        ("k: ${A-b}", "'${A-b}' is not a variable"),
        ("k: a${HOST", "'${' is not a variable"),
    ],
)
def test_a_variable_that_cannot_be_put_in_is_a_problem_at_its_place(text: str, message: str) -> None:
    scalar, problems = substituted(text)
    assert scalar.style is Style.UNSET
    assert [str(problem.place) for problem in problems] == ["f.yaml:1:4"]
    assert message in problems[0].message


def test_keys_are_not_substituted() -> None:
    problems: list[Problem] = []
    root = substitute(parsed('{"${HOST}": [x, "${HOST}"]}'), ENVIRON, problems)
    assert plain_value(root) == {"${HOST}": ["x", "db"]}
