"""The control socket, served by the master's own loop: requests in, answers out, nothing ever waited for.

Knows: clients of the socket, the language. Does not know: what commands do.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import struct
from collections.abc import Callable
from functools import partial
from typing import Any

from prefork.address import Address
from prefork.errors import BootError, CommandError, ListenError, PreforkError, RemoteProtocolError
from prefork.process.binding import refuse_live
from prefork.wire import REQUEST_BYTES, pack, unpack

BACKLOG = 64
MAX_CLIENTS = 64
MAX_FDS = 1  # of a request; it is closed when the request is answered
PENDING_BYTES = 4 * 1024 * 1024  # of answers that a client does not read
CREDENTIALS = struct.Struct("iII")  # pid, uid, gid: SO_PEERCRED of unix(7)

Reply = Callable[[Any], None]
Answer = Callable[[str, dict[str, Any], Reply], None]

log = logging.getLogger("prefork.control")


class ControlServer:
    """Listens at a path; gives each request to `answer`, which replies now or later."""

    def __init__(self, path: str, selector: selectors.BaseSelector, answer: Answer) -> None:
        """Take the path; a socket that a dead server has left is replaced.

        Args:
            answer: called with a command, its arguments and where the reply goes; what it raises is the reply.

        Raises:
            BootError: a server answers there, or the path cannot be bound.
        """
        self.path = path
        self._selector = selector
        self._answer = answer
        self._clients: set[ControlClient] = set()
        temporary = f"{path}.{os.getpid()}"
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            refuse_live(Address("unix", path=path), socket.SOCK_STREAM)
            mask = os.umask(0o177)
            try:
                sock.bind(temporary)
            finally:
                os.umask(mask)
            sock.listen(BACKLOG)
            os.rename(temporary, path)
        except (OSError, ListenError) as error:
            sock.close()
            raise BootError(
                f"cannot open the control socket {path}: {error}; is the server running? Else set `control:`"
            ) from error
        sock.setblocking(False)
        self._inode = os.lstat(path).st_ino
        self._socket = sock
        selector.register(sock, selectors.EVENT_READ, self._accept)

    def _accept(self) -> None:
        try:
            sock, _ = self._socket.accept()
        except OSError:  # gone again, or no descriptor is left: the client is told by its own deadline
            return
        uid = CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))[1]
        if uid not in (0, os.geteuid()):
            self._refuse(sock, f"uid {uid} may not command this server")
            return
        if len(self._clients) >= MAX_CLIENTS:
            self._refuse(sock, f"{MAX_CLIENTS} clients command this server already")
            return
        self._clients.add(ControlClient(sock, self._selector, self._answer, self._clients.discard))

    def _refuse(self, sock: socket.socket, reason: str) -> None:
        log.warning("refused a control client: %s", reason)
        try:
            sock.send(pack({"id": None, "ok": False, "error": reason}), socket.MSG_DONTWAIT)
        except OSError:  # it has gone by itself
            pass
        sock.close()

    def close(self) -> None:
        for client in list(self._clients):
            client.flush()
            client.close()
        self._selector.unregister(self._socket)
        self._socket.close()
        try:
            if os.lstat(self.path).st_ino == self._inode:  # and not a successor's
                os.unlink(self.path)
        except OSError:  # removed by somebody else
            pass


class ControlClient:
    """One who asks."""

    def __init__(
        self,
        sock: socket.socket,
        selector: selectors.BaseSelector,
        answer: Answer,
        on_close: Callable[[ControlClient], None],
    ) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._selector = selector
        self._answer = answer
        self._on_close = on_close
        self._input = bytearray()
        self._fds: list[int] = []  # that have come with requests
        self._output = bytearray()
        self._is_closed = False
        selector.register(sock, selectors.EVENT_READ, self._on_event)

    def _on_event(self) -> None:
        self.flush()
        try:
            data, fds, _, _ = socket.recv_fds(self._socket, REQUEST_BYTES, MAX_FDS)
            self._fds += fds
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._input += data
        try:
            for request in unpack(self._input, REQUEST_BYTES):
                self._ask(request)
        except RemoteProtocolError as error:
            log.warning("dropped a control client: %s", error)
            self._send({"id": None, "ok": False, "error": str(error)})
            self.close()

    def _ask(self, request: dict[str, Any]) -> None:
        number, arguments = request.get("id"), request.get("arguments") or {}
        try:
            if not isinstance(arguments, dict):
                raise RemoteProtocolError("arguments are a JSON object")
            arguments.pop("fd", None)
            if self._fds:
                arguments["fd"] = self._fds[0]
            self._answer(str(request.get("command")), arguments, partial(self._reply, number))
        except PreforkError as error:
            is_usage = isinstance(error, CommandError)
            self._send({"id": number, "ok": False, "error": str(error), "is_usage": is_usage})
        finally:
            self._close_fds()

    def _close_fds(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()

    def _reply(self, number: object, result: Any) -> None:
        self._send({"id": number, "ok": True, "result": result})

    def _send(self, message: dict[str, Any]) -> None:
        if self._is_closed:  # it asked and went: nobody else gets its answer
            return
        self._output += pack(message)
        if len(self._output) > PENDING_BYTES:
            self.close()
        else:
            self.flush()

    def flush(self) -> None:
        """Send what waits, as far as the client takes it."""
        if self._is_closed:
            return
        try:
            if self._output:
                del self._output[: self._socket.send(self._output)]
        except BlockingIOError:  # it does not read at the moment; an event will tell when it does
            pass
        except OSError:
            self.close()
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._output else 0)
        self._selector.modify(self._socket, events, self._on_event)

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._close_fds()
            self._selector.unregister(self._socket)
            self._socket.close()
            self._on_close(self)
