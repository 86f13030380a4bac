"""The schema and the checker refuse the same documents; the reference file is what the model says.

Knows: `prefork.config.schema`, `prefork.config.reference`. Does not know: places of problems.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from prefork.config import Config, json_schema, read_config, reference_yaml
from prefork.config.checker import check_document
from prefork.config.document import Problem, open_source, parse_document
from prefork.config.key import Key, Kind, keys_of
from prefork.config.schema import schema_of
from prefork.config.trail import Trail
from prefork.config.values import read_value
from prefork.config.variables import substitute
from tests.examples import CONF, EXAMPLES

VALIDATOR = jsonschema.Draft202012Validator(json_schema())

# Every shape that a value can have, and for each kind what is good and what is bad. Left out is what a JSON
# Schema cannot say: bounds of values with a unit, 8.0 as an integer, binds whose host has no valid syntax.
POOL: list[Any] = [
    *(None, True, False, 0, 1, 2, 7, -1, 513, 70_000, 3 * 10**9, 10**18, 0.5, 1.5, -0.5),
    *("", "auto", "on", "30s", "500ms", "5m", "5 m", "1h30m", "64KiB", "64kb", "1MiB", "10%", "010%"),
    *("info", "INFO", "json", "text", "raw", "lines", "netstring", "line", "a b", "a:b", "a:b:c", "\t", "é"),
    *("tcp://127.0.0.1:9000", "tcp://[::1]:0", "tcp://h:65536", "tcp://h", "tcp://h:1/", "tcp://u@h:1"),
    *("unix:///run/x.sock", "unix:///run/", "unix://x", "unix:///" + "x" * 107, "tls://h:1", "udp://h:1"),
    *("a.b:c.d", "a:", ":a", "a-b:c", "chat", "10.0.0.0/8", "2026-01-02", "~", "null", "*x", "# x", "{a: b}"),
    *([], [1], ["x"], ["10.0.0.0/8"], {}, {"x": 1}, {"lines": {}}, {"lines": {"max": "1KiB"}}),
    *({"lines": {"max": 0}}, {"lines": {"max": None}}, {"lines": {"mix": 1}}, {"lines": None}, {"raw": {}}),
    *({"lines": {}, "raw": {}}, {"level": "debug"}, {"from": []}, {"idle": 5, "frame": 1}, {"drain": "x"}),
    *([{}], [{"bind": "tcp://h:1", "app": "a:b"}], [{"bind": "tcp://h:1"}], [{"bind": 1, "app": "a:b"}]),
]


def is_good(document: Any) -> bool:
    problems: list[Problem] = []
    text = json.dumps(document, ensure_ascii=False)
    root = parse_document(text, open_source("f", text), problems)
    assert root is not None
    assert not problems
    check_document(root, Trail(problems))
    return not problems


def assert_same_verdict(document: Any) -> bool:
    good = is_good(document)
    assert VALIDATOR.is_valid(document) == good, json.dumps(document)
    return good


def reference() -> Any:
    return yaml.safe_load(reference_yaml())


def places_of(tree: Any) -> list[tuple[Any, Any]]:
    """List every container of a tree with each of its keys or indices."""
    if not isinstance(tree, dict | list):
        return []
    steps = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    return [(tree, step) for step in steps] + [place for step in steps for place in places_of(tree[step])]


def paths_of(section: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """List the path of every key of the model, those of sections and listeners too."""
    for key in keys_of(section):
        here = (*path, key.name)
        yield here
        if key.items is not None:
            yield (*here, 0)
        below = key.section or key.items
        if below is not None:
            yield from paths_of(below, (*here, 0) if key.items is not None else here)


def document_with(path: tuple[str | int, ...], value: Any) -> Any:
    """Make the smallest document that is good but for what stands at a path."""
    document: Any = {"listeners": [{"bind": "tcp://127.0.0.1:0", "app": "a:b"}]}
    container = document
    for step in path[:-1]:
        container = container.setdefault(step, {}) if isinstance(container, dict) else container[step]
    container[path[-1]] = copy.deepcopy(value)
    return document


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    assert json.loads(json.dumps(json_schema())) == json_schema()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_file_in_conf_is_valid(path: Path) -> None:
    VALIDATOR.validate(yaml.safe_load(path.read_text("utf-8")))


def test_the_reference_file_is_the_rendered_one() -> None:
    assert (CONF / "reference.yaml").read_text("utf-8") == reference_yaml()


def test_the_reference_file_holds_the_defaults_and_nothing_else() -> None:
    loaded = read_config(str(CONF / "reference.yaml"), {})
    (listener,) = loaded.config.listeners
    assert loaded.config == Config(listeners=(listener,))
    assert listener == type(listener)(listener.bind, listener.app, listener.name)


def test_the_reference_file_shows_every_key() -> None:
    def assert_shown(section: Any, shown: Any) -> None:
        keys = {key.name: key for key in keys_of(section)}
        assert set(shown) == set(keys)
        for name, key in keys.items():
            below = key.section or key.items
            value = shown[name][0] if key.items else shown[name]
            if below is not None and value is not None:
                assert_shown(below, value)

    assert_shown(Config, reference())


def test_every_value_at_every_key_has_the_same_verdict_from_both() -> None:
    verdicts = {True: 0, False: 0}
    for path in paths_of(Config):
        for value in POOL:
            verdicts[assert_same_verdict(document_with(path, value))] += 1
    assert min(verdicts.values()) > 100


def test_keys_that_are_missing_or_unknown_have_the_same_verdict_from_both() -> None:
    for index in range(len(places_of(reference()))):
        document = reference()
        container, step = places_of(document)[index]
        del container[step]
        assert_same_verdict(document)
        document = reference()
        container, _ = places_of(document)[index]
        if isinstance(container, dict):
            container["unknown"] = None
            assert not assert_same_verdict(document)


def test_random_documents_have_the_same_verdict_from_both() -> None:
    dice = random.Random(1976)
    for _ in range(300):
        document = reference()
        for _ in range(dice.randrange(1, 6)):
            container, step = dice.choice(places_of(document))
            if dice.random() < 0.5:
                del container[step]
            else:
                container[step] = copy.deepcopy(dice.choice(POOL))
            if not places_of(document):
                break
        assert_same_verdict(document)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (Kind.NETWORKS, [[], ["10.0.0.0/8", "::1", "fd00::/8"]], ["x", ["host"], ["10.0.0.0/"], [1], None]),
        (Kind.STRINGS, [[], ["h2"]], [["h2", ""], "h2", [[]]]),
        (
            Kind.CERTIFICATES,
            [{}, {"a": "b"}, {"a.b": {"cert": "c", "key": "d"}}],
            [{"a": 1}, [], {"a": ""}, {"a": {}}],
        ),
    ],
)
def test_kinds_of_reserved_keys_have_a_schema_already(kind: Kind, good: list[Any], bad: list[Any]) -> None:
    key = Key("k", "k", "", (), False, kind, None, None, {})
    for value, expected in [(value, True) for value in good] + [(value, False) for value in bad]:
        problems: list[Problem] = []
        text = json.dumps(value)
        node = parse_document(text, open_source("f", text), problems)
        assert node is not None
        read_value(node, key, Trail(problems))
        assert (not problems) == expected
        assert jsonschema.Draft202012Validator(schema_of(key)).is_valid(value) == expected


def test_an_editor_finds_the_meaning_and_the_default_of_a_key() -> None:
    properties = json_schema()["properties"]
    assert properties["workers"]["description"].startswith("number of workers")
    assert properties["workers"]["default"] == "auto"
    assert properties["timeouts"]["properties"]["drain"]["default"] == "30s"
    listener = properties["listeners"]["items"]
    assert listener["required"] == ["bind", "app"]
    assert listener["properties"]["limits"]["properties"]["per_ip"]["default"] == "auto"


def test_a_damaged_file_is_read_or_refused_but_never_a_traceback() -> None:
    dice = random.Random(7)
    good = reference_yaml()
    refused = 0
    for _ in range(200):
        start = dice.randrange(len(good))
        junk = "".join(dice.choices("\t\n \"'[]{}:,-#&*!|>%@`${}~?0x1_é\x85\x00\ud7ff", k=dice.randrange(4)))
        text = good[:start] + junk + good[start + dice.randrange(6) :]
        problems: list[Problem] = []
        root = parse_document(text, open_source("f", text), problems)
        if root is not None:
            check_document(substitute(root, {}, problems), Trail(problems))
        refused += bool(problems)
        assert all(str(problem).startswith("f:") for problem in problems)
    assert 0 < refused < 200
