"""The kinds of values that no key of this version may hold yet.

Knows: `prefork.config.values`. Does not know: files, the model.
"""

from __future__ import annotations

from prefork.config.document import Problem, open_source, parse_document
from prefork.config.key import Key, Kind
from prefork.config.model import NamedCertificate
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


def test_certificates_of_server_names_keep_their_order_and_name_one_file_or_two() -> None:
    read = read_kind("{b.example: x, '*.A.example': {cert: y, key: z}}", Kind.CERTIFICATES)
    assert read == ((NamedCertificate("b.example", "x"), NamedCertificate("*.a.example", "y", "z")), [])
    assert read_kind("{b: 1}", Kind.CERTIFICATES)[1] == ['b: YAML reads 1 as a number; write it in quotes, "1"']
    assert read_kind("[b]", Kind.CERTIFICATES)[1] == ["it is a list; write a mapping, {} if it is empty"]
    assert read_kind("{b: {key: x}}", Kind.CERTIFICATES)[1] == [
        "b: cert is missing; write {cert: FILE, key: FILE}"
    ]
    assert read_kind("{'b*.example': x}", Kind.CERTIFICATES)[1] == [
        "b*.example: 'b*.example' is not a server name; write www.example.org or *.example.org"
    ]
    assert read_kind("x", Kind.STRINGS)[1] == ["it is a single value; write a list, [] if it is empty"]
