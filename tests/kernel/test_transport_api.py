"""What asyncio's documentation asks of a transport beside moving bytes: protocols, extra information, marks."""

from __future__ import annotations

import asyncio

import pytest

from prefork.net.send_buffer import HIGH_WATER_BYTES, LOW_WATER_BYTES
from tests.kernel.clients import Client
from tests.kernel.protocols import Buffered, Gathering, Recorder
from tests.kernel.serving import Listening, Serving, run, serving, turn, until


async def accepted(server: Serving, protocols: Gathering) -> tuple[Client, Recorder]:
    """Connect; return the client and the protocol that serves it."""
    return await server.connect(), await protocols.first()


def test_bytes_go_to_the_protocol_that_was_set_last(listening: Listening) -> None:
    async def scenario() -> None:
        protocols = Gathering()
        async with serving(protocols, listening) as server:
            client, first = await accepted(server, protocols)
            await client.send(b"one")
            await until(lambda: first.data == b"one")
            second = Recorder()
            assert first.transport.get_protocol() is first
            first.transport.set_protocol(second)
            assert first.transport.get_protocol() is second
            await client.send(b"two")
            await until(lambda: second.data == b"two")
            first.transport.close()
            client.close()
            await server.until_closed()
            assert (first.lost, second.lost) == ([], [None])

    run(scenario())


def test_a_protocol_may_be_exchanged_for_a_buffered_one_in_a_read_event(listening: Listening) -> None:
    class Upgrades(Recorder):
        def data_received(self, data: bytes) -> None:
            buffered = Buffered()
            buffered.connection_made(self.transport)
            self.transport.set_protocol(buffered)
            self.transport.write(b"upgraded ")

    async def scenario() -> None:
        async with serving(Upgrades, listening) as server:
            client = await server.connect()
            await client.send(b"please")
            assert await client.receive_exactly(9) == b"upgraded "
            await client.send(b"more than fits into the buffer at once")
            assert await client.receive_exactly(38) == b"more than fits into the buffer at once"

    run(scenario())


def test_a_buffered_protocol_without_room_costs_its_connection(listening: Listening) -> None:
    async def scenario() -> None:
        async with serving(lambda: Buffered(0), listening) as server:
            client = await server.connect()
            await client.send(b"x")
            assert await client.receive_all() == b""

    run(scenario())


def test_it_tells_its_names_and_its_socket(inet: Listening) -> None:
    async def scenario() -> None:
        protocols = Gathering()
        async with serving(protocols, inet) as server:
            client, protocol = await accepted(server, protocols)
            transport = protocol.transport
            assert transport.get_extra_info("peername") == client.socket.getsockname()
            assert transport.get_extra_info("sockname") == inet.getsockname()
            assert transport.get_extra_info("socket").fileno() >= 0
            assert (transport.get_extra_info("sslcontext") is None) == (inet.credentials is None)
            assert transport.get_extra_info("nothing", "default") == "default"
            transport.abort()
            await server.until_closed()
            assert transport.get_extra_info("sockname", "gone") == "gone"
            assert transport.get_extra_info("peername") is not None

    run(scenario())


def test_the_marks_are_asyncios_and_can_be_set(listening: Listening) -> None:
    async def scenario() -> None:
        protocols = Gathering()
        async with serving(protocols, listening) as server:
            _, protocol = await accepted(server, protocols)
            transport = protocol.transport
            assert transport.get_write_buffer_limits() == (LOW_WATER_BYTES, HIGH_WATER_BYTES)
            transport.set_write_buffer_limits(high=100)
            assert transport.get_write_buffer_limits() == (25, 100)
            with pytest.raises(ValueError, match="must be"):
                transport.set_write_buffer_limits(high=1, low=2)

    run(scenario())


def test_a_high_mark_of_nothing_pauses_the_writer_as_soon_as_anything_waits(listening: Listening) -> None:
    async def scenario() -> None:
        protocols = Gathering()
        async with serving(protocols, listening) as server:
            client, protocol = await accepted(server, protocols)
            protocol.transport.set_write_buffer_limits(high=0)
            protocol.transport.write(b"fits into the kernel")
            assert "pause_writing" not in protocol.calls
            protocol.transport.write(bytes(8 << 20))
            assert protocol.calls[-1] == "pause_writing"
            await client.receive_exactly(20 + (8 << 20))
            assert protocol.calls[-1] == "resume_writing"
            assert protocol.transport.get_write_buffer_size() == 0

    run(scenario())


@pytest.mark.parametrize("wrong", ["text", 7, None, [1]])
def test_a_write_of_anything_but_bytes_is_an_error(listening: Listening, wrong: object) -> None:
    async def scenario() -> None:
        protocols = Gathering()
        async with serving(protocols, listening) as server:
            _, protocol = await accepted(server, protocols)
            with pytest.raises(TypeError):
                protocol.transport.write(wrong)  # type: ignore[arg-type]
            assert not protocol.transport.is_closing()

    run(scenario())


def test_asyncios_own_streams_run_on_it_unchanged(listening: Listening) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readline() == b"hello\n"
        assert await reader.readexactly(3) == b"abc"
        writer.writelines([b"one ", b"two"])
        await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
        assert await reader.read() == b"rest"
        writer.close()
        await writer.wait_closed()
        done.set()

    done = asyncio.Event()

    async def scenario() -> None:
        async with serving(handle, listening) as server:
            client = await server.connect()
            await client.send(b"hello\nab")
            await turn(0.01)
            await client.send(b"crest")
            assert await client.receive_exactly(7) == b"one two"
            client.finish()
            assert await client.receive_all() == b""
            client.close()
            await asyncio.wait_for(done.wait(), 5)

    run(scenario())
