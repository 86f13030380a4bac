"""Opens the sockets of listeners: bound, with their options, in the ways that the kernel wants for each kind.

Knows: socket(7), tcp(7), udp(7), unix(7). Does not know: slots, who watches what.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from prefork.address import Address
from prefork.config.model import ListenerConfig
from prefork.config.model import Socket as SocketOptions
from prefork.errors import BootError, ListenError
from prefork.process.privileges import resolve_identity

KEEPALIVE_INTERVAL_SECONDS = 15
UNSENT_BYTES = (
    131_072  # of a slow reader in the kernel, beside those in flight; its buffers would grow to megabytes
)
KEEPALIVE_PROBES = 4
SOL_UDP, UDP_GRO = 17, 104  # linux/udp.h
IP_MULTICAST_ALL, IPV6_MULTICAST_ALL = 49, 29  # linux/in.h, linux/in6.h


def describe(error: OSError) -> str:
    """Return an error of bind(2) or listen(2) in words, with the cure."""
    cures = {
        errno.EADDRINUSE: "the address is in use; stop its server, or choose another port",
        errno.EACCES: "permission denied; ports below 1024 need root or CAP_NET_BIND_SERVICE",
        errno.EADDRNOTAVAIL: "no interface of this machine has that address",
        errno.EMFILE: "no file descriptor is left; raise `ulimit -n`",
    }
    return cures.get(error.errno or 0, error.strerror or str(error))


# --- inet ---


def resolve(address: Address) -> tuple[socket.AddressFamily, Any]:
    """Return family and socket address of an inet address.

    Raises:
        ListenError: its host has none.
    """
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:  # UnicodeError: it cannot be a host's name, RFC 1035, 2.3.4
        raise ListenError(f"cannot listen on {address}: the host has no address: {error}") from error
    return socket.AddressFamily(found[0][0]), found[0][4]


def probe(family: int, kind: int, where: Any) -> None:
    """Bind once without SO_REUSEPORT: with it, a second server of the same user would join the group.

    Raises:
        OSError: the address cannot be bound.
    """
    with socket.socket(family, kind) as sock:
        _set_family_options(sock, family, kind)
        sock.bind(where)


def _set_family_options(sock: socket.socket, family: int, kind: int) -> None:
    if kind == socket.SOCK_STREAM:  # for datagrams it means that others may bind the same address, socket(7)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)


def open_inet(family: int, kind: int, where: Any, config: ListenerConfig) -> socket.socket:
    """Return a socket that has joined the group of its address.

    Raises:
        OSError: it cannot be opened.
    """
    sock = socket.socket(family, kind)
    try:
        _set_family_options(sock, family, kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setblocking(False)
        set_options(sock, config.socket)
        if kind == socket.SOCK_DGRAM:
            set_datagram_options(sock, config.steer.is_by_source)
        sock.bind(where)
        if kind == socket.SOCK_STREAM:
            sock.listen(config.socket.backlog)
    except OSError:
        sock.close()
        raise
    return sock


def set_options(sock: socket.socket, options: SocketOptions) -> None:
    """Set the options of the config; connections inherit them from their listener, tcp(7)."""
    if options.receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, options.receive_buffer)
    if sock.family == socket.AF_UNIX:
        return
    if sock.type == socket.SOCK_DGRAM:
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, int(options.nodelay))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(options.keepalive > 0))
    if options.keepalive > 0:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, round(options.keepalive)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(options.user_timeout * 1000))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)


def set_datagram_options(sock: socket.socket, is_joining: bool = True) -> None:
    """Give a new socket no datagrams of groups that others have joined.

    Args:
        is_joining: let the kernel join datagrams of one sender: those of several devices behind one address would
            go to the worker of the first.
    """
    try:
        sock.setsockopt(SOL_UDP, UDP_GRO, int(is_joining))
    except OSError:  # kernels before 5.0
        pass
    _set_multicast_all(sock, 0)


def _set_multicast_all(sock: socket.socket, value: int) -> None:
    """Whether it gets the datagrams of groups that other sockets have joined, ip(7)."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MULTICAST_ALL, value)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_MULTICAST_ALL, value)


def join(sock: socket.socket, groups: Iterable[str], name: str) -> None:
    """Join multicast groups, `239.1.2.3`, or `239.1.2.3%eth0` on one interface; ip(7), ipv6(7).

    Raises:
        ListenError: the kernel refuses one.
    """
    for text in groups:
        try:
            _set_membership(sock, text, socket.IPV6_JOIN_GROUP, socket.IP_ADD_MEMBERSHIP)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:  # it is in it already
                raise ListenError(f"cannot join multicast group {text} ({name}): {error}") from error


def leave(sock: socket.socket, groups: Iterable[str]) -> None:
    """Leave multicast groups.

    Raises:
        OSError: the kernel refuses.
    """
    for text in groups:
        _set_membership(sock, text, socket.IPV6_LEAVE_GROUP, socket.IP_DROP_MEMBERSHIP)


def _set_membership(sock: socket.socket, text: str, six: int, four: int) -> None:
    group, _, interface = text.partition("%")
    index = socket.if_nametoindex(interface) if interface else 0
    packed = socket.inet_pton(sock.family, group)
    if sock.family == socket.AF_INET6:  # struct ipv6_mreq
        sock.setsockopt(socket.IPPROTO_IPV6, six, packed + struct.pack("@I", index))
    else:  # struct ip_mreqn
        sock.setsockopt(socket.IPPROTO_IP, four, packed + bytes(4) + struct.pack("@i", index))


# --- unix ---


def open_unix(address: Address, options: SocketOptions, name: str) -> socket.socket:
    """Bind a path, in place of what a server that is gone has left there, or an abstract name.

    Raises:
        ListenError: a server answers there already, or it cannot be bound.
    """
    kind = socket.SOCK_DGRAM if address.is_datagram else socket.SOCK_STREAM
    check_owner(options, name)
    if not address.is_abstract:
        refuse_live(address, kind)
    sock = socket.socket(socket.AF_UNIX, kind)
    try:
        sock.setblocking(False)
        set_options(sock, options)
        if address.is_abstract:
            sock.bind("\0" + address.path[1:])
        else:
            _bind_path(sock, address.path, options)
        if kind == socket.SOCK_STREAM:
            sock.listen(options.backlog)
    except OSError as error:
        sock.close()
        raise ListenError(f"cannot listen on {address}: {describe_unix(error)}") from error
    return sock


def _bind_path(sock: socket.socket, path: str, options: SocketOptions) -> None:
    """Bind a path to which nobody else may send before it has its owner and its mode."""
    if os.path.lexists(path):
        os.unlink(path)
    umask = os.umask(0o177)
    try:
        sock.bind(path)
    finally:
        os.umask(umask)
    try:
        set_owner(
            path,
            os.lstat(path).st_ino,
            replace(options, mode=0o777 & ~umask if options.mode is None else options.mode),
        )
    except OSError:
        os.unlink(path)
        raise


def describe_unix(error: OSError) -> str:
    return (
        "a server answers there; stop it first"
        if error.errno == errno.EADDRINUSE
        else error.strerror or str(error)
    )


def check_owner(options: SocketOptions, name: str) -> None:
    """Check that there is the user that a unix socket is to belong to.

    Raises:
        ListenError: there is not.
    """
    if options.owner is not None:
        try:
            resolve_identity(options.owner)
        except BootError as error:
            reason = f"there is no user or group {options.owner!r}; set socket.owner"
            raise ListenError(f"cannot give a socket away ({name}): {reason}") from error


def set_owner(path: str, inode: int, options: SocketOptions) -> None:
    """Give a unix socket the owner and the mode of the config.

    Raises:
        OSError: it is not ours to give, or no longer there.
    """
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)  # whoever may write to its folder may exchange it
    try:
        if os.fstat(fd).st_ino != inode:
            raise FileNotFoundError(errno.ENOENT, "somebody has put another file in its place")
        this = f"/proc/self/fd/{fd}"
        if options.owner is not None:
            identity = resolve_identity(options.owner)
            os.chown(this, identity.uid, identity.gid)
        if options.mode is not None:
            os.chmod(this, options.mode)
    finally:
        os.close(fd)


def refuse_live(address: Address, kind: int) -> None:
    """Check that a unix path is free, or the left-over of a server that is gone.

    Raises:
        ListenError: a server answers there, or it is no socket.
    """
    try:
        mode = os.lstat(address.path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise ListenError(f"cannot listen on {address}: {error.strerror}") from error
    if not stat.S_ISSOCK(mode):
        raise ListenError(f"cannot listen on {address}: a file is there that is no socket; remove it")
    with socket.socket(socket.AF_UNIX, kind) as sock:
        sock.setblocking(False)
        try:
            sock.connect(address.path)
        except (ConnectionRefusedError, FileNotFoundError):  # connect(2): nobody listens any more
            return
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EPROTOTYPE):  # full, or of the other kind: it lives
                raise ListenError(f"cannot listen on {address}: {error.strerror}") from error
    raise ListenError(f"cannot listen on {address}: a server answers there; stop it first")
