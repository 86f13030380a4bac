"""The datagram sockets that a worker serves, or has served: one that is left to others can still answer.

Knows: listeners by name, slots by number. Does not know: who says what is watched.
"""

from __future__ import annotations

import os
import socket

from prefork.net.datagram_app import DatagramApp
from prefork.net.datagrams import DatagramSocket
from prefork.net.service import Service

Place = tuple[str, int]  # a listener's name and a slot


class DatagramSockets:
    """All datagram sockets of a worker.

    Attributes:
        apps: what serves them, by the listener's name.
    """

    def __init__(self) -> None:
        self.apps: dict[str, DatagramApp] = {}
        self._sockets: dict[Place, DatagramSocket] = {}

    def watch(self, place: Place, fd: int, service: Service) -> None:
        """Serve a socket; one that was served before goes on where it was."""
        known = self._sockets.get(place)
        if known is not None:
            os.close(fd)
            known.resume()
            return
        self._sockets[place] = sock = DatagramSocket(socket.socket(fileno=fd), service)
        self.apps[place[0]].open(sock)

    def unwatch(self, place: Place) -> None:
        """Leave a socket to others; answers to what was read are still sent."""
        if place in self._sockets:
            self._sockets[place].pause()

    def pause(self) -> None:
        for sock in self._sockets.values():
            sock.pause()

    def leave(self) -> None:
        """Read a last batch, and leave the rest to those who come after."""
        for sock in self._sockets.values():
            sock.leave()

    def finish(self) -> None:
        """Read what is there already: nobody comes after this worker."""
        for sock in self._sockets.values():
            sock.finish()

    def close(self) -> None:
        while self._sockets:
            (name, _), sock = self._sockets.popitem()
            self.apps[name].close(sock)
            sock.close()
