"""The load generator without a compiler: generator.py tcp|tls|udp KIND PORT CONNECTIONS BYTES PIECE_BYTES

The arguments after the first, the lines read and the lines written are those of load.c, which says what they mean.

Knows: what is in flight, and when a run is over.
Does not know: protocols; those are the clients' matter.
"""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Mapping, Sequence

from tools.benchmark.client import Client, Plan, WrongAnswer
from tools.benchmark.client_tcp import TcpClient
from tools.benchmark.client_tls import TlsClient
from tools.benchmark.client_udp import UdpClient

MAX_ERRORS = 100
STALL = 3.0  # seconds without any answer that end a run
SOURCES = 8
KINDS: Mapping[str, type[Client]] = {"tcp": TcpClient, "tls": TlsClient, "udp": UdpClient}


class Generator:
    """A closed loop over all clients."""

    def __init__(self, clients: Sequence[Client], is_exchange: bool) -> None:
        self.clients = clients
        self.is_exchange = is_exchange
        self.poll = select.epoll()
        self.by_fd: dict[int, Client] = {}
        self.opened = self.in_flight = self.operations = self.errors = self.resumed = 0

    def _open(self, client: Client) -> None:
        # Clients that close first leave their port in TIME_WAIT: one source address has some 28,000 of them.
        fd = client.connect(f"127.0.0.{1 + self.opened % SOURCES}").fileno()
        self.opened += 1
        self.by_fd[fd] = client
        self.poll.register(fd, client.events)

    def _send(self, client: Client) -> None:
        try:
            if client.sock is None:
                self._open(client)
            client.send()
        except OSError:
            self.errors += 1
            client.close()
            return
        client.is_waiting = True
        self.in_flight += 1

    def _take(self, client: Client) -> bool:
        """Return whether the client may send again."""
        if not client.is_waiting:
            return False
        try:
            if not client.take():
                return False
        except (OSError, WrongAnswer):
            self.errors += 1
            client.close()
        else:
            self.operations += 1
            self.resumed += client.is_resumed
            if not self.is_exchange:
                client.close()
        client.is_waiting = False
        self.in_flight -= 1
        return True

    def run(self, seconds: float) -> str:
        start = last_answer = moment = time.monotonic()
        end = start + seconds
        self.operations = self.errors = self.resumed = self.in_flight = 0
        for client in self.clients:
            self._send(client)
        while self.in_flight > 0 and self.errors < MAX_ERRORS and moment - last_answer < STALL:
            events = self.poll.poll(0.1)
            moment = time.monotonic()
            if events:
                last_answer = moment
            for fd, _ in events:
                client = self.by_fd[fd]
                if self._take(client) and moment < end and self.errors < MAX_ERRORS:
                    self._send(client)
        failed = self.errors + self.in_flight
        return f"{self.operations} {failed} {time.monotonic() - start:.6f} {self.resumed}"


def main(arguments: Sequence[str]) -> None:
    transport, kind, *numbers = arguments
    plan = Plan(kind, *map(int, numbers))
    clients = [KINDS[transport](plan, index) for index in range(plan.connections)]
    generator = Generator(clients, kind == "exchange")
    for line in sys.stdin:
        print(generator.run(float(line.split()[1])), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
