"""The applications that scenarios serve, as the text of a module `chaos_app`.

Knows: prefork's public handlers: coroutine, asyncio.Protocol and function of a datagram; a worker's title.
Does not know: which scenario uses which.
"""

from __future__ import annotations

MODULE = "chaos_app"

ECHO = '''\
import asyncio
import gc
import time


async def echo(conn):
    """Send back what comes."""
    async for data in conn:
        await conn.send(data)


async def slow(conn):
    """Answer after two seconds."""
    async for data in conn:
        await asyncio.sleep(2)
        await conn.send(data)


async def endless(conn):
    """Answer after a time that nobody waits for."""
    async for data in conn:
        await asyncio.sleep(600)
        await conn.send(data)


class EchoProtocol(asyncio.Protocol):
    """Send back what comes; once a drain is requested, end the connection with the answer."""

    def connection_made(self, transport):
        self.transport = transport
        self.draining = False

    def data_received(self, data):
        self.transport.write(data)
        if self.draining:
            self.transport.close()

    def drain_requested(self):
        self.draining = True


def _stall():
    time.sleep(0.3)
    asyncio.get_running_loop().call_later(0.7, _stall)


async def stall(conn):
    """From now on this worker's loop stands still for 0.3 s of each second."""
    async for data in conn:
        await conn.send(data)
        asyncio.get_running_loop().call_later(0.7, _stall)


number = 42
'''

# A worker has its title before it serves, and no two of a slot serve one socket.
DATAGRAM = '''\
import functools

from setproctitle import getproctitle


@functools.cache
def _slot():
    """Return this worker's slot in two bytes, from its title: prefork: worker SLOT …"""
    return int(getproctitle().split()[2]).to_bytes(2)


def where(data, peer, reply):
    """Answer with the slot, and what came."""
    reply(_slot() + data)
'''

# A heap of many small objects: one large block of bytes would never be written to by reference counts or gc.
HEAP = (
    ECHO
    + '''

HEAP = [{"key": i, "text": f"value {i}", "list": [i]} for i in range(580_000)]
requests = 0


async def heavy(conn):
    """Echo beside a heap of 200 MB, with a full collection now and then."""
    global requests
    async for data in conn:
        requests += 1
        if requests % 500 == 0:
            gc.collect()
        await conn.send(data)
'''
)
