"""The kinds of values that no key of this version may hold yet.

Knows: `prefork.config.values`. Does not know: files, the model.
"""

from __future__ import annotations

from prefork.config.document import Problem, open_source, parse_document
from prefork.config.model import Key, Kind
from prefork.config.trail import Trail
from prefork.config.values import read_value


def read_kind(text: str, kind: Kind) -> tuple[object, list[str]]:
    problems: list[Problem] = []
    node = parse_document(text, open_source("f", text), problems)
    key = Key("k", "k", "", (), False, kind, None, None, {})
    assert node is not None
    return read_value(node, key, Trail(problems)), [problem.message for problem in problems]


def test_networks_are_checked_one_by_one() -> None:
    value, problems = read_kind("[10.0.0.0/8, 10.1.2.3, fd00::/8, '::1']", Kind.NETWORKS)
    assert (value, problems) == (("10.0.0.0/8", "10.1.2.3", "fd00::/8", "::1"), [])
    _, problems = read_kind("[10.0.0.1/8, 10.0.0.0/33, host, 1, [], ~]", Kind.NETWORKS)
    assert problems == [
        "0: '10.0.0.1/8' has bits set beyond its prefix; write 10.0.0.0/8",
        "1: '10.0.0.0/33' is not a network; write 10.0.0.0/8 or fd00::/8",
        "2: 'host' is not a network; write 10.0.0.0/8 or fd00::/8",
        '3: YAML reads 1 as a number; write it in quotes, "1"',
        "4: it is a list; write a string",
        '5: YAML reads ~ as null; write it in quotes, "~"',
    ]


def test_maps_of_strings_keep_their_order() -> None:
    assert read_kind("{b: x, a: y}", Kind.STRING_MAP) == ((("b", "x"), ("a", "y")), [])
    assert read_kind("{b: 1}", Kind.STRING_MAP)[1] == ['b: YAML reads 1 as a number; write it in quotes, "1"']
    assert read_kind("[b]", Kind.STRING_MAP)[1] == ["it is a list; write a mapping, {} if it is empty"]
    assert read_kind("x", Kind.STRINGS)[1] == ["it is a single value; write a list, [] if it is empty"]
