"""Echo on gevent: gevent_peer.py

Knows: gevent's StreamServer, a greenlet per connection.
Does not know: the load.
"""

from __future__ import annotations

import socket
from typing import Any

from gevent.server import StreamServer

BACKLOG = 4096
READ_BYTES = 65536


def echo(connection: Any, _peer: object) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        while data := connection.recv(READ_BYTES):
            connection.sendall(data)
    finally:
        connection.close()


if __name__ == "__main__":
    server = StreamServer(("127.0.0.1", 0), echo, backlog=BACKLOG)
    server.start()
    print("port", server.server_port, flush=True)
    server.serve_forever()
