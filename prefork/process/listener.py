"""Listening sockets, as the master opens and keeps them: one per slot, so that no queue dies with a worker.

An inet address has one SO_REUSEPORT socket per slot. Closing one loses what waits in its queue, and moves the
last of the group into its place (socket(7), net/core/sock_reuseport.c): so they are only ever added, in the
order of the slots, and closed from the end. Other addresses have one socket for all workers: AF_UNIX has no
SO_REUSEPORT, and what was inherited is one.

Knows: one address and its sockets. Does not know: workers, who watches what.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from itertools import count
from typing import Any

from prefork.address import Address
from prefork.config import ListenerConfig
from prefork.errors import ListenError
from prefork.process import binding, steering
from prefork.process.flows import spread_flows
from prefork.process.inherited import Inheritance

TCP_INFO_UNACKED = 24  # offset of tcpi_unacked in struct tcp_info, linux/tcp.h
SO_MEMINFO = 55  # socket(7): SK_MEMINFO_VARS numbers, of which the last counts what was dropped
SK_MEMINFO_DROPS, SK_MEMINFO_VARS = 8, 9  # linux/sock_diag.h


class Listener:
    """A bound address and the sockets of its slots."""

    def __init__(
        self, config: ListenerConfig, address: Address, slots: int, inheritance: Inheritance | None = None
    ) -> None:
        """Bind the address; nobody is served before a worker watches the sockets.

        Raises:
            ListenError: it cannot be bound; the message says why, and what to do.
        """
        self.name = config.name
        self.address = address
        self._steer = config.steer
        self._steered: Any = None
        self._is_steered = False
        self.sockets: list[socket.socket] = []
        self._where: Any = None
        self._inode = 0
        self._groups: set[str] = set()
        self._served: set[int] = set()  # slots of datagrams that have had a worker
        self._flows = slots  # how many slots have flows
        if address.is_inherited:
            self.sockets.append((inheritance or Inheritance()).find(address))
        elif address.is_unix:
            self.sockets.append(binding.open_unix(address, config.socket, config.name))
            self._inode = 0 if address.is_abstract else os.lstat(address.path).st_ino
        else:
            self._bind(config, slots)
        self._kind: int = self.sockets[0].type

    def _bind(self, config: ListenerConfig, slots: int) -> None:
        family, self._where = binding.resolve(self.address)
        try:
            binding.probe(family, self._kind_of_address, self._where)
            self.sockets.append(binding.open_inet(family, self._kind_of_address, self._where, config))
            self._where = self.sockets[0].getsockname()  # with the port, if any was free
            self._kind = self._kind_of_address
        except OSError as error:
            raise ListenError(self._complaint(error)) from error
        try:
            self.prepare(slots, config)
            if self.address.is_datagram:
                self.steer(tuple(range(slots)), slots)  # before the first flow has found its socket
        except ListenError:
            self.close()
            raise

    @property
    def _kind_of_address(self) -> int:
        return socket.SOCK_DGRAM if self.address.is_datagram else socket.SOCK_STREAM

    def _complaint(self, error: OSError) -> str:
        return f"cannot listen on {self.address} ({self.name}): {binding.describe(error)}"

    # --- what it is ---

    @property
    def is_shared(self) -> bool:
        """Whether all workers have one socket."""
        return self._where is None

    @property
    def is_datagram(self) -> bool:
        return self._kind == socket.SOCK_DGRAM

    @property
    def bound(self) -> Address:
        """The address with its real port."""
        if self._where is None:
            return self.address
        return Address(self.address.scheme, self.address.host, self._where[1])

    @property
    def dropped(self) -> int:
        """How many datagrams the kernel had no room for in a socket's buffer."""
        if not self.is_datagram:
            return 0
        size = 4 * SK_MEMINFO_VARS
        try:
            found = [sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, size) for sock in self.sockets]
        except OSError:  # kernels before 4.12, gVisor
            return 0
        return sum(struct.unpack(f"@{SK_MEMINFO_VARS}I", data)[SK_MEMINFO_DROPS] for data in found)

    # --- more sockets, and fewer ---

    def prepare(self, slots: int, config: ListenerConfig) -> None:
        """Have what a config needs, while the one that serves loses nothing.

        Groups that were joined for a reload that is refused are left with the next one that is not.

        Raises:
            ListenError: the kernel gives no further socket, a group cannot be joined, there is no such owner.
        """
        if self.address.is_unix:
            binding.check_owner(config.socket, self.name)
        if self.address.scheme == "udp":
            binding.join(self.sockets[0], set(config.socket.multicast) - self._groups, self.name)
            self._groups |= set(config.socket.multicast)
        self.grow(slots, config)

    def grow(self, slots: int, config: ListenerConfig) -> None:
        """Have a socket for each of so many slots; those that are there stay.

        Raises:
            ListenError: the kernel gives no further socket.
        """
        while not self.is_shared and len(self.sockets) < slots:
            family = self.sockets[0].family
            try:
                self.sockets.append(binding.open_inet(family, self._kind_of_address, self._where, config))
            except OSError as error:
                raise ListenError(self._complaint(error)) from error

    @property
    def is_parked(self) -> bool:
        """Whether the last socket is steered around, so that nobody new comes to it.

        One for datagrams never counts as parked: a stopped worker may hold it, and only shutdown(2), which UDP
        does not have, would take it out of the group.
        """
        steered = self._steered or ()
        return not self.is_datagram and self._is_steered and bool(steered) and len(self.sockets) - 1 > max(steered)

    def is_queue_empty(self) -> bool:
        """Whether nobody waits at the last socket."""
        return count_queued(self.sockets[-1]) == 0

    @property
    def queued(self) -> int:
        """How many connections wait to be accepted; of a unix socket the kernel does not tell."""
        if self.sockets[0].family == socket.AF_UNIX or self.is_datagram:
            return 0
        return sum(map(count_queued, self.sockets))

    def shrink(self) -> None:
        """Close the last socket. Only the last: any other's place in the group would go to the last."""
        last = self.sockets.pop()
        last.shutdown(socket.SHUT_RDWR)  # a worker that stands still may hold it too: it must leave the group now
        last.close()

    def configure(self, config: ListenerConfig) -> None:
        """Set the options on sockets that serve already; their connections inherit them, tcp(7).

        Raises:
            OSError: the kernel refuses one.
        """
        self.name = config.name
        self._steer = config.steer
        for sock in self.sockets:
            if not self.address.is_inherited:
                binding.set_options(sock, config.socket)
            if not self.is_datagram:
                sock.listen(config.socket.backlog)  # a second listen(2) changes the backlog and loses nothing
        if self.address.is_unix and not self.address.is_abstract:
            binding.set_owner(self.address.path, self._inode, config.socket)
        binding.leave(self.sockets[0], self._groups - set(config.socket.multicast))
        self._groups &= set(config.socket.multicast)

    # --- who comes to which socket ---

    def steer(self, slots: tuple[int, ...], wanted: int) -> bool:
        """Let the kernel give what is new to some slots alone.

        Args:
            slots: those that serve: they get the new connections, each as often as it is named.
            wanted: how many there are to be: they get the datagrams, for a flow keeps its slot.

        Returns:
            False if the kernel cannot be told; it then spreads them over all slots, which serves them too.
        """
        if self.is_shared:
            return True
        if self.is_datagram:
            self._count_flows(slots, wanted)
        known = tuple(slot for slot in slots if slot < len(self.sockets))
        aim: Any = (self._steer, self._flows) if self.is_datagram else known
        if not known and not self.is_datagram:
            return True
        if aim != self._steered:
            program = spread_flows(self._steer, self._flows) if self.is_datagram else steering.spread(known)
            self._steered, self._is_steered = aim, steering.attach(self.sockets[0], program)
        return self._is_steered

    def _count_flows(self, slots: tuple[int, ...], wanted: int) -> None:
        """Give flows to a further slot when all before it, and itself, have had a worker that serves.

        A crash later takes none away: they wait for the replacement.
        """
        self._served = {slot for slot in (*self._served, *slots) if slot < wanted}
        in_a_row = next(slot for slot in count() if slot not in self._served)
        self._flows = max(1, min(wanted, len(self.sockets), max(self._flows, in_a_row)))

    def refuse_new(self) -> None:
        """Let nobody new in; who is on the way still ends up in the queue."""
        if self.is_shared:
            self._unlink()
        elif not self.is_datagram:
            for sock in self.sockets:
                steering.drop_handshakes(sock)

    def close(self) -> None:
        """Close the sockets; a unix path is removed."""
        if self.sockets:
            self._unlink()
        for sock in self.sockets:
            sock.close()
        self.sockets.clear()

    def _unlink(self) -> None:
        if not self._inode:
            return
        try:
            if os.lstat(self.address.path).st_ino == self._inode:  # and not a successor's
                os.unlink(self.address.path)
        except OSError:  # somebody has removed it already, or its directory
            pass


def count_queued(sock: socket.socket) -> int:
    """Return the length of an accept queue: of a listening socket it is tcpi_unacked, tcp_get_info() in tcp.c."""
    state = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_UNACKED + 4)
    return int.from_bytes(state[TCP_INFO_UNACKED:], sys.byteorder)
