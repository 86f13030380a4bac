"""The other side of a connection, on the loop of the server under test: in plain bytes, or over TLS.

Knows: non-blocking sockets, both directions of TLS. Does not know: what is served, what is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from typing import Any

from tests.kernel.certificates import HOST

PATIENCE_SECONDS = 10.0
READ_BYTES = 262_144
WRITE_BYTES = 65_536


class Client:
    """A plain non-blocking socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._loop = asyncio.get_running_loop()

    async def connect(self, address: Any) -> None:
        await self._loop.sock_connect(self.socket, address)

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self.socket, data)

    async def receive(self, count: int = 65_536) -> bytes:
        """Return what comes next, at most `count` bytes."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self._loop.sock_recv(self.socket, count)

    async def receive_exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count and (more := await self.receive(min(65_536, count - len(data)))):
            data += more
        return bytes(data)

    async def receive_all(self) -> bytes:
        """Return all that comes until the other side's end: its FIN, in TLS its goodbye."""
        data = bytearray()
        while more := await self.receive():
            data += more
        return bytes(data)

    def has_end(self) -> bool:
        """Whether the other side's end is here already, next to be received."""
        try:
            return self.socket.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False

    def finish(self) -> None:
        """Say that nothing more will come."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._release()

    def close(self) -> None:
        self._release()

    def _release(self) -> None:
        """Close, and leave the loop before: the descriptor's number may be another's at once."""
        if self.socket.fileno() >= 0:
            self._loop.remove_reader(self.socket)
            self._loop.remove_writer(self.socket)
            self.socket.close()

    async def end(self) -> None:
        """Close, and wait for what is under way."""
        self.close()


class TlsClient(Client):
    """Speaks TLS in memory, beside the socket: so it can end one direction, and each record is its own choice.

    It is strict: a connection that ends without TLS's goodbye is an ssl.SSLEOFError.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        super().__init__(sock)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=HOST)
        self._sending = asyncio.Lock()
        self._plain = bytearray()  # what is decrypted, and not received yet
        self._is_over = False
        self._steps: list[asyncio.Task[None]] = []  # the handshake, then the goodbye

    async def connect(self, address: Any) -> None:
        """Connect, and let the handshake go its way: a server that is to begin later can be connected to."""
        await super().connect(address)
        self._steps.append(self._loop.create_task(self._agree()))

    async def _agree(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            else:
                break
        await self._flush()

    async def agree(self) -> None:
        """Wait for the end of the handshake."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.shield(self._steps[0])

    async def send(self, data: bytes) -> None:
        await self.agree()
        view = memoryview(data)
        for start in range(0, len(data), WRITE_BYTES):
            self.tls.write(view[start : start + WRITE_BYTES])
            await self._flush()

    def seal(self, data: bytes) -> bytes:
        """Return data as one record, which is to be sent next."""
        self.tls.write(data)
        return self._outgoing.read()

    async def _flush(self) -> None:
        async with self._sending:
            await self._loop.sock_sendall(self.socket, self._outgoing.read())

    async def _fill(self) -> None:
        if data := await self._loop.sock_recv(self.socket, READ_BYTES):
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def _decrypt(self) -> None:
        """Take everything out of the records that are whole."""
        try:
            while data := self.tls.read(READ_BYTES):
                self._plain += data
            self._is_over = True
        except ssl.SSLWantReadError:  # the next record is not whole yet
            pass
        except ssl.SSLZeroReturnError:  # both have said goodbye
            self._is_over = True
        except ssl.SSLEOFError:
            if not self._plain:
                raise

    async def receive(self, count: int = 65_536) -> bytes:
        await self.agree()
        async with asyncio.timeout(PATIENCE_SECONDS):
            self._decrypt()
            while not self._plain and not self._is_over:
                await self._fill()
                self._decrypt()
        data = bytes(self._plain[:count])
        del self._plain[:count]
        return data

    def has_end(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            self._incoming.write(self.socket.recv(READ_BYTES))
        self._decrypt()
        return self._is_over and not self._plain

    def finish(self) -> None:
        """Say goodbye in TLS's words alone (close_notify): the FIN comes with close()."""
        self._steps.append(self._loop.create_task(self._part()))

    async def _part(self) -> None:
        await self.agree()
        self._decrypt()
        with contextlib.suppress(ssl.SSLWantReadError):  # that the server's goodbye has not come is no news
            self.tls.unwrap()
        await self._flush()

    def truncate(self) -> None:
        """End without a word of TLS's, as one who cuts the line would."""
        super().finish()

    def close(self) -> None:
        """Close, after a goodbye that is on its way; without one, as a client that crashed."""
        if len(self._steps) > 1 and not self._steps[-1].done():
            self._steps[-1].add_done_callback(lambda _: self._release())
        else:
            self._release()

    async def end(self) -> None:
        self._release()
        for step in self._steps:
            step.cancel()
        await asyncio.gather(*self._steps, return_exceptions=True)
