"""The control socket: each answer reaches its question, and nothing that is sent to it harms the server."""

from __future__ import annotations

import contextlib
import json
import socket
import struct

import pytest

from prefork.wire import pack
from tests.eventually import eventually
from tests.system.questions import Questions
from tests.system.running import ECHO, Running, exchange
from tests.system.sources import importing_behind, noted


def begin_slow_reload(server: Running, questions: Questions, number: object) -> None:
    server.write("app.py", importing_behind("gate", ECHO))
    questions.ask(number, "reload")
    eventually(lambda: noted(server.folder, "importing"))


def test_a_late_answer_comes_with_the_id_of_its_own_question(server: Running) -> None:
    with Questions(server.control) as questions:
        begin_slow_reload(server, questions, 1)
        questions.ask(2, "status")
        second = questions.take()
        assert second is not None
        assert (second["id"], second["result"]["pid"]) == (2, server.pid)
        server.write("gate", "")
        first = questions.take()
        assert first is not None
        assert (first["id"], first["result"]["verdict"]) == (1, "committed")


def test_a_late_answer_never_reaches_the_next_client(server: Running) -> None:
    with Questions(server.control) as impatient:
        begin_slow_reload(server, impatient, 1)
    with Questions(server.control) as questions:
        questions.ask(1, "status")
        server.write("gate", "")
        answer = questions.take()
        assert answer is not None
        assert answer["result"]["pid"] == server.pid
        eventually(lambda: server.status()["last_reload"]["verdict"] == "committed")
        questions.ask(2, "health")
        answer = questions.take()
        assert answer is not None
        assert (answer["id"], answer["result"]["ready"]) == (2, True)


def test_several_questions_in_one_packet_and_one_question_in_many(server: Running) -> None:
    one, two = (pack({"id": number, "command": "health"}) for number in ("one", "two"))
    with Questions(server.control) as questions:
        questions.send(one + two)
        assert [(questions.take() or {})["id"] for _ in range(2)] == ["one", "two"]
        for byte in one:
            questions.send(bytes([byte]))
        assert (questions.take() or {})["id"] == "one"


UNANSWERABLE: list[tuple[dict[str, object], str]] = [
    ({"id": 1, "command": "fly"}, "there is no command 'fly'; there are status, health"),
    ({"id": 1}, "there is no command 'None'"),
    ({"id": 1, "command": ["status"]}, "there is no command"),
    ({"id": 1, "command": "scale", "arguments": {}}, "cannot scale to ''; write N, +N or -N"),
    ({"id": 1, "command": "scale", "arguments": {"count": {}}}, "cannot scale to '{}'"),
    ({"id": 1, "command": "scale", "arguments": {"count": "9" * 5000}}, "cannot scale to"),
    ({"id": 1, "command": "scale", "arguments": [1]}, "arguments are a JSON object"),
    ({"id": 1, "command": "status", "arguments": "all"}, "arguments are a JSON object"),
]


def test_a_question_that_cannot_be_answered_gets_an_error(server: Running) -> None:
    for question, wanted in UNANSWERABLE:
        with Questions(server.control) as questions:
            questions.send(pack(question))
            answer = questions.take()
            assert answer is not None
            assert answer["ok"] is False
            assert wanted in answer["error"]
            assert questions.answer("status")["pid"] == server.pid


GARBAGE = {
    "words": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "zeros": bytes(64),
    "a length of 4 GiB": b"\xff\xff\xff\xff",
    "a length just over the limit": struct.pack(">I", 65_537),
    "a list": struct.pack(">I", 2) + b"[]",
    "a number": struct.pack(">I", 1) + b"7",
    "no JSON": struct.pack(">I", 3) + b"{a}",
    "no UTF-8": struct.pack(">I", 4) + b'"\xff\xfe"',
    "a deep nest": struct.pack(">I", 60_000) + b"[" * 60_000,
}


def test_a_client_that_sends_garbage_is_dropped_and_nobody_else_notices(server: Running) -> None:
    before = server.worker_pids()
    with Questions(server.control) as neighbour, server.connect() as client:
        for name, garbage in GARBAGE.items():
            with Questions(server.control) as questions:
                questions.send(garbage)
                reason = questions.take()
                assert reason is not None, name
                assert (reason["id"], reason["ok"], bool(reason["error"])) == (None, False, True), name
                assert questions.take() is None, name
            assert neighbour.answer("status")["pid"] == server.pid, name
            assert exchange(client, b"hello") == b"hello", name
            assert server.log().count("dropped a control client") > list(GARBAGE).index(name)
    assert server.worker_pids() == before


def test_a_client_that_hangs_up_in_the_middle_of_a_question_harms_nobody(server: Running) -> None:
    question = pack({"id": 1, "command": "status"})
    with Questions(server.control) as neighbour:
        neighbour.settle()
        before = len(server.open_fds())
        for length in range(len(question)):
            with Questions(server.control) as questions:
                questions.send(question[:length])
        neighbour.settle()
        eventually(lambda: len(server.open_fds()) == before)


def test_a_client_that_hangs_up_before_its_answer_harms_nobody(server: Running) -> None:
    with Questions(server.control) as neighbour:
        neighbour.settle()
        before = len(server.open_fds())
        for _ in range(20):
            with Questions(server.control) as questions:
                questions.ask(1, "status")
        neighbour.settle()
        eventually(lambda: len(server.open_fds()) == before)


def test_a_client_that_never_reads_its_answers_is_dropped_in_the_end(server: Running) -> None:
    question = pack({"id": "x" * 30_000, "command": "health"})
    with socket.socket(socket.AF_UNIX) as greedy, Questions(server.control) as neighbour:
        greedy.settimeout(10)
        greedy.connect(str(server.control))
        with pytest.raises(ConnectionError):
            greedy.sendall(question * 1000)
        assert neighbour.answer("status")["pid"] == server.pid


def test_more_clients_than_there_is_room_for_are_turned_away_and_room_comes_back(server: Running) -> None:
    with contextlib.ExitStack() as stack:
        answered = [is_answered(stack.enter_context(Questions(server.control))) for _ in range(70)]
    assert 10 < sum(answered) < 70
    assert answered == sorted(answered, reverse=True)
    eventually(server.is_ready)


def is_answered(questions: Questions) -> bool:
    try:
        questions.ask(1, "health")
        answer = questions.take()
    except BrokenPipeError:
        return False
    assert answer is None or answer["ok"] or "64 clients" in answer["error"]
    return answer is not None and answer["ok"]


def test_any_json_may_be_an_id(server: Running) -> None:
    with Questions(server.control) as questions:
        for number in (None, 0, -1.5, "text", [1, {"a": None}], {"k": "v"}, 10**30):
            questions.ask(number, "health")
            answer = questions.take()
            assert answer is not None
            assert json.dumps(answer["id"]) == json.dumps(number)
