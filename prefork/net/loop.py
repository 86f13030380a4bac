"""The worker's event loop: asyncio's own, given a selector that calls prefork's sockets inside `select()`.

Only descriptors that others registered (asyncio, libraries) are returned to asyncio; ours never become a
Handle in its queue, which is what makes the difference in cost. Nothing private of asyncio is touched.

Knows: epoll(7), who watches which descriptor. Does not know: what a watcher does with an event.
"""

from __future__ import annotations

import asyncio
import math
import select
import selectors
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, TypeAlias

FileDescriptorLike: TypeAlias = Any  # an int, or an object with fileno(), as selectors documents it

READABLE = select.EPOLLIN
WRITABLE = select.EPOLLOUT
EDGE = select.EPOLLET
ENDS = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR  # nothing more comes, epoll_ctl(2)
EXCLUSIVE = select.EPOLLEXCLUSIVE  # wakes one of the processes that wait, epoll_ctl(2)
# Seconds of a turn, for its histogram.
TURN_BOUNDS = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
MAX_EVENTS = 256  # per turn; the rest is reported by the next, epoll_wait(2) goes round


class Watcher(Protocol):
    """What is called when its descriptor has an event; it must not raise."""

    def on_event(self, mask: int) -> None: ...


class Selector(selectors.BaseSelector):
    """epoll with two kinds of customers: watchers, called at once, and asyncio's keys, returned."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._poll = self._epoll.poll
        self._watchers: dict[int, Watcher] = {}
        self._keys: dict[int, selectors.SelectorKey] = {}

        self._woke_at = time.monotonic()
        self._slept_at = 0.0
        self._longest_turn = self._busy = 0.0
        self._turns = [0] * (len(TURN_BOUNDS) + 1)
        self.is_attached = False  # to a Loop, which tells when asyncio has something to do
        self.is_due = True

    @property
    def watchers(self) -> Mapping[int, Watcher]:
        """The watchers by descriptor, those that are not interested in any event now included."""
        return self._watchers

    def watch(self, fd: int, watcher: Watcher, mask: int) -> None:
        """Call `watcher.on_event` for the events of `mask`; errors and hang-ups are always reported."""
        self._epoll.register(fd, mask)
        self._watchers[fd] = watcher

    def rewatch(self, fd: int, before: int, mask: int) -> None:
        """Change the events of a watched descriptor.

        A mask of 0 takes it out of epoll, since epoll reports hang-ups even to those who asked for nothing.
        """
        if not before:
            self._epoll.register(fd, mask)
        elif mask:
            self._epoll.modify(fd, mask)
        else:
            self._epoll.unregister(fd)

    def replace(self, fd: int, watcher: Watcher) -> None:
        """Give a watched descriptor to another watcher."""
        self._watchers[fd] = watcher

    def unwatch(self, fd: int) -> None:
        """Take out a descriptor that other processes hold too: close() would leave it in the epoll set."""
        del self._watchers[fd]
        self._epoll.unregister(fd)

    def forget(self, fd: int) -> None:
        """Take out a descriptor that is closed next and that nobody else holds: it leaves epoll by itself."""
        del self._watchers[fd]

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Call the watchers until asyncio has something to do: that is the end of its turn, not each event."""
        deadline = time.monotonic() + timeout if timeout else math.inf
        self.is_due = timeout == 0 or not self.is_attached
        ready: list[tuple[selectors.SelectorKey, int]] = []
        while True:
            self._dispatch(timeout, ready)
            if ready or self.is_due:
                return ready
            if timeout is not None:
                timeout = deadline - time.monotonic()
                if timeout <= 0:
                    return ready

    @property
    def turns(self) -> list[int]:
        """How many turns there were within each of TURN_BOUNDS, and beyond the last."""
        return self._turns

    @property
    def busy(self) -> float:
        """How long the loop was at work, ever, in seconds."""
        return self._busy

    @property
    def turn_since(self) -> float | None:
        """When the turn under way began, CLOCK_MONOTONIC; None: the loop waits for events."""
        return None if self._slept_at > self._woke_at else self._woke_at

    def take_longest_turn(self) -> float:
        """Return the longest time between two looks at the descriptors since the last call, in seconds."""
        longest, self._longest_turn = self._longest_turn, 0.0
        return longest

    def _dispatch(self, timeout: float | None, ready: list[tuple[selectors.SelectorKey, int]]) -> None:
        if timeout is None:
            timeout = -1
        elif timeout <= 0:
            timeout = 0
        else:  # epoll counts in ms: rounding up avoids a spin through the last one
            timeout = math.ceil(timeout * 1e3) * 1e-3
        watchers = self._watchers
        # A callback may close a descriptor of this batch, and accept() may give its number to a new
        # connection: that one then gets an event that is not its own. All watchers try a non-blocking call
        # and take EAGAIN for an answer, so this costs a system call and nothing else.
        self._slept_at = now = time.monotonic()
        turn = now - self._woke_at
        self._busy += turn
        self._turns[bisect_left(TURN_BOUNDS, turn)] += 1
        if turn > self._longest_turn:
            self._longest_turn = turn
        batch = self._poll(timeout, MAX_EVENTS)
        self._woke_at = time.monotonic()
        for fd, mask in batch:
            watcher = watchers.get(fd)
            if watcher is not None:
                watcher.on_event(mask)
            elif (key := self._keys.get(fd)) is not None:
                events = (selectors.EVENT_WRITE if mask & ~READABLE else 0) | (
                    selectors.EVENT_READ if mask & ~WRITABLE else 0
                )
                ready.append((key, events & key.events))

    def register(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> selectors.SelectorKey:
        if not events or events & ~(selectors.EVENT_READ | selectors.EVENT_WRITE):
            raise ValueError(f"Invalid events: {events!r}")
        fd = _number(fileobj)
        if fd in self._keys or fd in self._watchers:
            raise KeyError(f"{fileobj!r} (FD {fd}) is already registered")
        self._epoll.register(fd, _mask(events))
        key = self._keys[fd] = selectors.SelectorKey(fileobj, fd, events, data)
        return key

    def unregister(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        key = self._keys.pop(self._find(fileobj))
        try:
            self._epoll.unregister(key.fd)
        except OSError:  # closed before it was unregistered: it has left epoll
            pass
        return key

    def modify(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> selectors.SelectorKey:
        key = self._keys[self._find(fileobj)]
        if events != key.events:
            try:
                self._epoll.modify(key.fd, _mask(events))
            except OSError:
                del self._keys[key.fd]
                raise
        key = self._keys[key.fd] = key._replace(events=events, data=data)
        return key

    def close(self) -> None:
        self._epoll.close()
        self._keys.clear()
        self._watchers.clear()

    def get_key(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        return self._keys[self._find(fileobj)]

    def get_map(self) -> Mapping[FileDescriptorLike, selectors.SelectorKey]:
        return _KeyMap(self._keys, self._find)

    def _find(self, fileobj: FileDescriptorLike) -> int:
        """Return the descriptor of a registered object, of one that was closed meanwhile too."""
        try:
            fd = _number(fileobj)
        except ValueError:
            for key in self._keys.values():
                if key.fileobj is fileobj:
                    return key.fd
            raise
        if fd not in self._keys:
            raise KeyError(f"{fileobj!r} is not registered")
        return fd


class _KeyMap(Mapping[FileDescriptorLike, selectors.SelectorKey]):
    """The mapping that `selectors.BaseSelector.get_map` promises: from file objects to keys."""

    def __init__(self, keys: dict[int, selectors.SelectorKey], find: Any) -> None:
        self._keys = keys
        self._find = find

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        try:
            return self._keys[self._find(fileobj)]
        except ValueError as error:
            raise KeyError(fileobj) from error

    def __iter__(self) -> Iterator[FileDescriptorLike]:
        return iter(self._keys)


def _number(fileobj: FileDescriptorLike) -> int:
    try:
        fd = int(fileobj if isinstance(fileobj, int) else fileobj.fileno())
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"Invalid file object: {fileobj!r}") from error
    if fd < 0:
        raise ValueError(f"Invalid file descriptor: {fd}")
    return fd


def _mask(events: int) -> int:
    return (READABLE if events & selectors.EVENT_READ else 0) | (WRITABLE if events & selectors.EVENT_WRITE else 0)


class Loop(asyncio.SelectorEventLoop):
    """asyncio's loop; what is scheduled on it makes the selector come back.

    Threads and signals wake it through its self-pipe, which is a descriptor of asyncio's, and need no word here.
    """

    def __init__(self, selector: Selector) -> None:
        super().__init__(selector)
        self._prefork_selector = selector
        selector.is_attached = True

    def call_soon(  # type: ignore[override]  # variadic generics
        self, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.Handle:
        self._prefork_selector.is_due = True
        return super().call_soon(callback, *args, context=context)

    def call_at(  # type: ignore[override]  # variadic generics
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        self._prefork_selector.is_due = True
        return super().call_at(when, callback, *args, context=context)

    async def start_tls(
        self, transport: Any, protocol: Any, sslcontext: Any, *, server_side: bool = False, **options: Any
    ) -> Any:
        upgrade = getattr(transport, "upgrade", None)
        if upgrade is None or not server_side:
            return await super().start_tls(transport, protocol, sslcontext, server_side=server_side, **options)
        current = transport.get_protocol()
        if getattr(current, "app_protocol", current) is not protocol:
            transport.set_protocol(protocol)
        return await upgrade(sslcontext, timeout=options.get("ssl_handshake_timeout"))

    async def sendfile(
        self, transport: Any, file: Any, offset: int = 0, count: int | None = None, *, fallback: bool = True
    ) -> int:
        send_file = getattr(transport, "send_file", None)
        if send_file is None:
            return await super().sendfile(transport, file, offset, count, fallback=fallback)
        sent: int = await send_file(file, offset, count)
        return sent

    def stop(self) -> None:
        self._prefork_selector.is_due = True
        super().stop()


def new_loop() -> tuple[asyncio.SelectorEventLoop, Selector]:
    """Return an event loop and the selector that it runs on, for `asyncio.Runner(loop_factory=…)`."""
    selector = Selector()
    return Loop(selector), selector
