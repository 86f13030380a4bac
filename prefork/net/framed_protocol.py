"""A callback protocol whose input is cut into frames: `frame_received(frame)` in place of `data_received`.

Knows: a framing, the protocol of the app. Does not know: sockets, which framing it is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from prefork.errors import RemoteProtocolError
from prefork.framing import Complaint, Framing
from prefork.net.service import Service


class FramedProtocol(asyncio.Protocol):
    """Stands between a transport and the app's protocol; `transport.write_frame(frame)` answers.

    All frames of one read are given, though the protocol pauses its transport in between: a read's worth at most.
    """

    def __init__(self, protocol: Any, framing: Framing, service: Service) -> None:
        if not hasattr(protocol, "frame_received"):
            raise TypeError(f"a listener with a framing calls frame_received: {type(protocol).__name__} has none")
        self._protocol = protocol
        self._framing = framing
        self._decoder = framing.decoder()
        self._service = service
        self._transport: Any = None
        self.frame_begun: float | None = None  # when the frame that is not whole yet began to arrive
        self.frames = 0  # that have come, ever
        if hasattr(protocol, "drain_requested"):
            self.drain_requested = protocol.drain_requested

    @property
    def is_mid_frame(self) -> bool:
        return self._decoder.pending > 0

    @property
    def pending_bytes(self) -> int:
        """How many bytes of a frame that is not whole have come."""
        return self._decoder.pending

    def has_unread(self) -> bool:
        """Whether a frame has begun to come."""
        return self._decoder.pending > 0

    @property
    def app_protocol(self) -> Any:
        """The protocol that gets the frames."""
        return self._protocol

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._protocol.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        try:
            frames = self._decoder.feed(data)
        except RemoteProtocolError as error:
            self._refuse(error)
            return
        self.frame_begun = self._service.when_begun(self.frame_begun, self._decoder)
        if frames:
            arrived_at = time.monotonic()
            self.frames += len(frames)
            self._deliver(frames)
            self._service.ledger.note_frames(len(frames), time.monotonic() - arrived_at)
        if self._decoder.refusal is not None and not self._transport.is_closing():
            self._refuse(self._decoder.refusal)

    def _deliver(self, frames: Sequence[Any]) -> None:
        for frame in frames:
            if self._transport.is_closing():
                return
            if type(frame) is Complaint:
                self._service.answer_complaint(frame, self._transport)
            else:
                self._protocol.frame_received(frame)

    def _refuse(self, error: RemoteProtocolError) -> None:
        self._transport.reason = "broken"
        self._service.report_peer(error, self._transport.serial, self._transport.peer)
        self._transport.close()

    def on_upgraded(self, transport: Any) -> None:
        """TLS is spoken from now on, by another transport."""
        self._transport = transport

    def eof_received(self) -> bool | None:
        self._service.check_end(self._decoder, self._transport)
        kept: bool | None = self._protocol.eof_received()
        return kept

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        self._protocol.connection_lost(error)
