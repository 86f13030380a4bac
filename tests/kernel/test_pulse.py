"""The sweep over deadlines takes many turns of the loop: what ends in between, and what comes in its place."""

from __future__ import annotations

import asyncio
from typing import Any

from prefork.net.linger import LINGER_SECONDS, Linger
from prefork.net.loop import READABLE, Selector
from prefork.net.pulse import Pulse
from tests.unit.fake_transport import new_service

MANY = 4000  # more than a slice of the sweep looks at


class Socket:
    """One whose peer has said its last byte."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.closes = 0

    def fileno(self) -> int:
        return self._fd

    def recv(self, _: int) -> bytes:
        return b""

    def close(self) -> None:
        self.closes += 1


class Newcomer:
    """Who watches a descriptor whose number was another's."""

    def on_event(self, mask: int) -> None:
        raise AssertionError(f"nothing has happened, and {mask} is told")


def test_who_ends_between_two_slices_is_not_ended_again_and_nobody_in_its_place() -> None:
    async def scenario() -> None:
        service: Any = new_service()
        site, selector = service.site, Selector()
        site.selector = selector
        sockets: list[Any] = [Socket(100 + number) for number in range(MANY)]
        lingers = [Linger(sock, service, READABLE, service.ledger.count_opened()) for sock in sockets]
        for linger in lingers:
            linger.deadline -= 2 * LINGER_SECONDS
        beat = asyncio.Event()
        pulse = Pulse(site, 0.05, beat.set)
        left = [linger for linger, sock in zip(lingers, sockets, strict=True) if not sock.closes]
        assert left, "all were looked at in one slice"
        newcomers = {}
        for place, linger in enumerate(left[-100:]):
            fd = sockets[lingers.index(linger)].fileno()
            linger.on_event(READABLE)
            if place % 2:
                newcomers[fd] = Newcomer()
                selector.replace(fd, newcomers[fd])
        beats_after = 0
        while beats_after < 20:  # two more sweeps
            beat.clear()
            await beat.wait()
            beats_after += sum(sock.closes for sock in sockets) >= MANY
        assert {sock.closes for sock in sockets} == {1}
        assert service.ledger.open == 0
        assert dict(selector.watchers) == newcomers
        pulse.close()
        selector.close()

    asyncio.run(asyncio.wait_for(scenario(), 10))
