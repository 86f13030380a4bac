"""What a ClientHello offers by ALPN is found however its bytes arrive, and nothing in it can raise."""

from __future__ import annotations

import random
import ssl

import pytest

from prefork.net.hello import MAX_HELLO_BYTES, MAX_RECORDS, read_offer
from tests.client_hello import alpn, extension, message, payload, records, server_name

OFFER = (b"echo", b"h2", b"http/1.1")
OFFERED = ("echo", "h2", "http/1.1")
HELLO = records(message(server_name(b"localhost"), alpn(*OFFER), extension(0x0A0A, b"grease")))
PADDING = 21  # RFC 7685


def real_hello(*names: str) -> bytes:
    """Return the first words of Python's own client."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if names:
        context.set_alpn_protocols(list(names))
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def test_the_offer_of_a_whole_hello_is_found() -> None:
    assert read_offer(HELLO) == OFFERED


def test_the_offer_of_a_real_client_is_found() -> None:
    assert read_offer(real_hello(*OFFERED)) == OFFERED
    assert read_offer(real_hello()) == ()


def test_a_hello_is_not_judged_before_its_last_byte() -> None:
    assert {read_offer(HELLO[:count]) for count in range(1, len(HELLO))} == {None}


def test_what_comes_behind_a_hello_changes_nothing() -> None:
    for tail in (b"x", b"\x14\x03\x03\x00\x01\x01", HELLO, bytes(20_000)):
        assert read_offer(HELLO + tail) == OFFERED


def test_no_byte_yet_or_no_hello_offers_nothing() -> None:
    for data in (b"GET / HTTP/1.1\r\n\r\n", b"\x80\x2e\x01\x00\x02", b"\x15\x03\x01\x00\x02\x02\x28"):
        assert read_offer(data) == ()
    assert read_offer(records(b"\2" + message()[1:])) == ()  # a ServerHello


def test_a_hello_without_alpn_offers_nothing() -> None:
    assert read_offer(records(message(server_name(b"localhost")))) == ()
    assert read_offer(records(message())) == ()
    assert read_offer(records(message(alpn()))) == ()


def test_alpn_is_found_as_the_first_and_as_the_last_extension() -> None:
    for extensions in ((alpn(*OFFER), server_name(b"x")), (extension(PADDING, bytes(500)), alpn(*OFFER))):
        assert read_offer(records(message(*extensions))) == OFFERED


@pytest.mark.parametrize("name", [b"\xca\xca", b"\x8a\x8a", b"\xff" * 255, b"\0"])
def test_a_name_that_is_no_text_is_offered_like_any_other(name: bytes) -> None:
    """Names are bytes, RFC 7301, 3.1, and RFC 8701 wants clients to offer such ones."""
    offer = read_offer(records(message(alpn(name, b"other"))))
    assert offer is not None
    assert len(offer) == 2
    assert offer[1] == "other"


@pytest.mark.parametrize("cut", [1, 4, 5, 38, 60, -40, -20, -1])
def test_a_hello_cut_over_two_records_offers_the_same(cut: int) -> None:
    """RFC 8446, 5.1: handshake messages may be fragmented over several records."""
    whole = message(server_name(b"localhost"), alpn(*OFFER))
    data = records(whole, cut if cut > 0 else len(whole) + cut)
    assert read_offer(data) == OFFERED
    assert read_offer(data[:-1]) is None


def test_a_hello_in_some_records_offers_the_same_and_one_in_many_is_left_to_openssl() -> None:
    whole = message(alpn(*OFFER))
    assert read_offer(records(whole, *range(1, MAX_RECORDS))) == OFFERED
    assert read_offer(records(whole, *range(1, len(whole)))) == ()


def test_a_hello_as_large_as_a_record_can_be_is_read() -> None:
    room = MAX_HELLO_BYTES - len(records(message(alpn(*OFFER), extension(PADDING, b""))))
    data = records(message(extension(PADDING, bytes(room)), alpn(*OFFER)))
    assert len(data) == MAX_HELLO_BYTES
    assert read_offer(data) == OFFERED
    assert read_offer(data[:-1]) is None


def test_what_can_never_be_whole_is_not_waited_for() -> None:
    """A record may claim more than a record can hold: what is peeked at is never more than MAX_HELLO_BYTES."""
    data = b"\x16\x03\x01\xff\xff" + payload(HELLO) + bytes(20_000)
    assert read_offer(data[:MAX_HELLO_BYTES]) is not None


def test_nothing_a_client_sends_raises() -> None:
    random_ = random.Random(7301)
    for _ in range(20_000):
        data = bytearray(HELLO)
        for _ in range(random_.randint(1, 6)):
            data[random_.randrange(len(data))] = random_.randrange(256)
        del data[random_.randint(5, len(data)) :]
        found = read_offer(bytes(data))
        assert found is None or all(type(name) is str for name in found)


def test_random_bytes_behind_a_record_header_never_raise() -> None:
    random_ = random.Random(8446)
    for _ in range(5_000):
        content = random_.randbytes(random_.randint(0, 300))
        read_offer(records(content))
        read_offer(records(b"\1" + content))
