"""Where TLS differs by its nature: its goodbye, its records, what is known of the other side."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl

import pytest

from prefork import Connection
from prefork.net.tls_socket import RECORD_BYTES, RECORDS_PER_READ
from prefork.scoreboard import Count
from tests.kernel.clients import TlsClient
from tests.kernel.protocols import Echo, Gathering, KeepsOpen
from tests.kernel.serving import Listening, Serving, data_segments_out, run, serving, turn, until

SMALL_BUFFER = 4096  # of either socket
NOISE = random.Random(11).randbytes(1 << 20)
AROUND_RECORDS = (
    0,
    1,
    RECORD_BYTES - 1,
    RECORD_BYTES,
    RECORD_BYTES + 1,
    2 * RECORD_BYTES,
    RECORDS_PER_READ * RECORD_BYTES,
    (RECORDS_PER_READ + 1) * RECORD_BYTES,
)


async def connect(server: Serving) -> TlsClient:
    client = await server.connect()
    assert isinstance(client, TlsClient)
    await client.agree()
    return client


# --- the goodbye ---


def test_the_goodbye_ends_both_directions_so_there_is_no_half_close_of_ours(tls: Listening) -> None:
    async def scenario() -> None:
        protocols = Gathering()
        async with serving(protocols, tls) as server:
            client = await server.connect()
            protocol = await protocols.first()
            assert not protocol.transport.can_write_eof()
            with pytest.raises(NotImplementedError, match="half-close"):
                protocol.transport.write_eof()
            protocol.transport.write(b"as if nothing had been asked")
            assert await client.receive_exactly(28) == b"as if nothing had been asked"

    run(scenario())


@pytest.mark.parametrize("size", AROUND_RECORDS)
def test_a_goodbye_right_behind_a_full_record_is_the_end_of_the_input(tls: Listening, size: int) -> None:
    """No FIN comes with it, and none is to be waited for."""

    async def scenario() -> None:
        protocols = Gathering(KeepsOpen)
        async with serving(protocols, tls) as server:
            client = await connect(server)
            reader = await protocols.first()
            reader.transport.pause_reading()
            await client.send(NOISE[:size])
            client.finish()
            await turn(0.02)
            reader.transport.resume_reading()
            await until(lambda: "eof_received" in reader.calls, within=2)
            assert reader.data == NOISE[:size]
            reader.transport.close()
            assert await client.receive_all() == b""

    run(scenario())


@pytest.mark.parametrize("size", AROUND_RECORDS)
def test_a_handler_answers_a_client_that_says_goodbye_behind_full_records(tls: Listening, size: int) -> None:
    async def handle(conn: Connection) -> None:
        total = 0
        async for data in conn:
            total += len(data)
        await conn.send(b"%d" % total)

    async def scenario() -> None:
        async with serving(handle, tls) as server:
            client = await connect(server)
            await client.send(NOISE[:size])
            client.finish()
            assert await client.receive_all() == b"%d" % size

    run(scenario())


def test_the_goodbye_comes_though_the_last_bytes_fill_the_kernels_buffer(tls: Listening) -> None:
    """Without it a client that is strict takes a whole answer for a part of one."""
    tls.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)  # inherited by its connections

    async def scenario() -> None:
        protocols = Gathering()
        async with serving(protocols, tls) as server:
            for number in range(60):
                client = await server.connect(SMALL_BUFFER)
                await until(lambda n=number: len(protocols.made) > n and protocols.made[n].calls)  # type: ignore[misc]
                answer = NOISE[: 50_000 + 977 * number]
                protocols.made[number].transport.write(answer)
                protocols.made[number].transport.close()
                assert await client.receive_all() == answer
                client.close()

    run(scenario())


def test_an_answer_that_is_larger_than_the_kernels_buffer_follows_the_clients_goodbye(tls: Listening) -> None:
    async def handle(conn: Connection) -> None:
        await conn.read()
        assert await conn.read() == b""
        for _ in range(8):
            await conn.send(NOISE)

    async def scenario() -> None:
        async with serving(handle, tls) as server:
            client = await server.connect(SMALL_BUFFER)
            await client.send(b"all of it, please")
            client.finish()
            assert await client.receive_all() == NOISE * 8

    run(scenario())


@pytest.mark.parametrize("is_spoken", [True, False], ids=["after a goodbye", "without a goodbye"])
def test_a_fin_ends_the_input(tls: Listening, is_spoken: bool) -> None:
    """Some clients never say goodbye; what they ask last is answered as if they had."""

    async def scenario() -> None:
        protocols = Gathering(KeepsOpen)
        async with serving(protocols, tls) as server:
            client = await connect(server)
            reader = await protocols.first()
            await client.send(b"the last words")
            if is_spoken:
                client.finish()
                await turn()
            client.truncate()
            await until(lambda: "eof_received" in reader.calls)
            assert (reader.data, reader.lost) == (b"the last words", [])
            reader.transport.write(b"heard")
            reader.transport.close()
            assert await client.receive_all() == b"heard"
            await server.until_closed()
            assert reader.lost == [None]

    run(scenario())


def test_an_answer_and_the_goodbye_behind_it_leave_in_one_segment(tls: Listening) -> None:
    """So a client never has a whole answer in hand without knowing that it was the last."""

    class Answers(Echo):
        def data_received(self, data: bytes) -> None:
            self.transport.write(b"the answer")
            self.transport.close()

    async def scenario() -> None:
        async with serving(Answers, tls) as server:
            client = await connect(server)
            (transport,) = await until(lambda: server.transports)
            sock = transport.get_extra_info("socket")
            before = data_segments_out(sock)
            await client.send(b"the question")
            assert await client.receive_all() == b"the answer"
            assert data_segments_out(sock) - before == 1

    run(scenario())


# --- records ---


@pytest.mark.parametrize("size", [size for size in AROUND_RECORDS if size])
def test_messages_around_the_size_of_a_record_are_echoed_one_by_one(tls: Listening, size: int) -> None:
    """Nothing of a record may stay where epoll does not see it."""

    async def scenario() -> None:
        async with serving(Echo, tls) as server:
            client = await connect(server)
            for _ in range(5):
                await client.send(NOISE[:size])
                assert await client.receive_exactly(size) == NOISE[:size]

    run(scenario())


def test_a_record_that_comes_byte_by_byte_is_one_message(tls: Listening) -> None:
    async def scenario() -> None:
        protocols = Gathering()
        async with serving(protocols, tls) as server:
            client = await connect(server)
            reader = await protocols.first()
            for byte in client.seal(b"slowly"):
                client.socket.send(bytes([byte]))
                await turn()
            await until(lambda: reader.data == b"slowly")
            assert reader.calls == ["connection_made", "data_received"]

    run(scenario())


def test_many_small_records_that_come_at_once_are_read_to_the_last(tls: Listening) -> None:
    async def scenario() -> None:
        protocols = Gathering()
        async with serving(protocols, tls) as server:
            client = await connect(server)
            reader = await protocols.first()
            await asyncio.get_running_loop().sock_sendall(
                client.socket, b"".join(client.seal(b"%d," % number) for number in range(2000))
            )
            await until(lambda: reader.data.endswith(b"1999,"))
            assert reader.data == b"".join(b"%d," % number for number in range(2000))

    run(scenario())


@pytest.mark.parametrize("place", ["its own record", "behind a full record"])
def test_bytes_that_are_not_tls_cost_the_connection(tls: Listening, place: str) -> None:
    """What was sealed before them is delivered; who sends more is told with TLS's alert, or a reset."""

    async def scenario() -> None:
        protocols = Gathering()
        async with serving(protocols, tls) as server:
            client = await connect(server)
            reader = await protocols.first()
            before = client.seal(NOISE[:RECORD_BYTES]) if place == "behind a full record" else b""
            reader.transport.pause_reading()
            await asyncio.get_running_loop().sock_sendall(client.socket, before + b"GET / HTTP/1.1\r\n\r\n")
            await turn(0.02)
            reader.transport.resume_reading()
            await until(lambda: reader.lost, within=2)
            assert isinstance(reader.lost[0], ssl.SSLError)
            assert len(reader.data) == (RECORD_BYTES if before else 0)
            assert (server.count(Count.BROKEN), server.count(Count.ERRORS)) == (1, 0)
            with pytest.raises(OSError, match=r"alert|reset"):
                await client.receive_all()

    run(scenario())


# --- what is known ---


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions_echo_and_say_goodbye(tls: Listening, version: ssl.TLSVersion) -> None:
    assert tls.credentials is not None
    context = tls.credentials.new_client_context()
    context.maximum_version = context.minimum_version = version

    async def scenario() -> None:
        async with serving(Echo, tls) as server:
            sock = socket.socket()
            sock.setblocking(False)
            client = TlsClient(sock, context)
            server.clients.append(client)
            await client.connect(tls.getsockname())
            await client.send(NOISE)
            client.finish()
            assert await client.receive_all() == NOISE
            assert client.tls.version() == version.name.replace("_", ".")

    run(scenario())


def test_the_transport_tells_of_the_agreement_by_asyncios_names(tls: Listening) -> None:
    async def scenario() -> None:
        protocols = Gathering()
        async with serving(protocols, tls) as server:
            client = await connect(server)
            transport = (await protocols.first()).transport
            assert tls.credentials is not None
            assert transport.get_extra_info("sslcontext") is tls.credentials.security.context
            assert transport.get_extra_info("ssl_object").version() == client.tls.version()
            assert transport.get_extra_info("cipher") == client.tls.cipher()
            assert transport.get_extra_info("compression") is None
            assert transport.get_extra_info("peercert") is None
            assert transport.get_extra_info("nothing", "default") == "default"

    run(scenario())
