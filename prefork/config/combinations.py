"""Keys of one listener that need each other, or have no meaning together.

Knows: a listener that was read, and where its keys stand. Does not know: kinds of values, other listeners.
"""

from __future__ import annotations

from prefork.address import Address, parse_address
from prefork.config.document import Mapping, Node, Place
from prefork.config.model import ListenerConfig, Socket, Steer
from prefork.config.trail import Trail

OF_UNIX = ("mode", "owner")
OF_UDP = ("multicast",)
OF_CONNECTIONS = ("per_ip", "per_ip_rate", "rate", "life")


def check_combinations(listener: ListenerConfig, node: Mapping, trail: Trail) -> None:
    """Note what does not go together.

    Args:
        listener: as it was read; its bind may be without meaning.
        node: what stands in the file.
        trail: of the listener.
    """
    try:
        address = parse_address(listener.bind or "")
    except ValueError:  # it was noted where it was read
        return
    _check_tls(listener, address, node, trail)
    if address.is_datagram and listener.framing is not None and listener.framing.name != "raw":
        trail.refuse(
            _place(node, "framing"), f"a {address.scheme}:// listener has no framing: a datagram is one; remove it"
        )
    if listener.steer != Steer() and address.scheme != "udp":
        trail.refuse(_place(node, "steer"), "only udp:// listeners are steered by their peers; remove steer")
    _check_guards(listener, address, node, trail)
    if listener.socket is not None:
        _check_socket(listener.socket, address, node, trail)


def _check_guards(listener: ListenerConfig, address: Address, node: Mapping, trail: Trail) -> None:
    """A unix socket's peers have no address, and a datagram has no connection."""
    if address.is_unix:
        for name, networks in (("allow", listener.allow), ("deny", listener.deny)):
            if networks:
                trail.refuse(
                    _place(node, name), f"a {address.scheme}:// listener's peers have no address; remove it"
                )
    is_tcp = not address.is_unix and not address.is_datagram
    if listener.proxy_protocol is not None and listener.proxy_protocol.from_ and not is_tcp:
        here = trail.below("proxy_protocol")
        here.refuse(_place(node, "proxy_protocol"), "PROXY headers are for tcp:// and tls:// listeners; remove it")
    for name in OF_CONNECTIONS if listener.limits is not None and not is_tcp else ():
        if getattr(listener.limits, name) and not (name == "life" and not address.is_datagram):
            what = (
                "a source's connections, and a datagram is none"
                if address.is_datagram
                else "sources with addresses"
            )
            trail.below("limits").refuse(_place(node, "limits", name), f"{name} is for {what}; remove it")


def _check_tls(listener: ListenerConfig, address: Address, node: Mapping, trail: Trail) -> None:
    tls = listener.tls
    if tls is None:
        if address.scheme == "tls" and node.find("tls") is None:
            trail.refuse(node.place, "a tls:// listener needs a certificate; write tls: {cert: FILE, key: FILE}")
        return
    here, place = trail.below("tls"), _place(node, "tls")
    if address.is_datagram:
        here.refuse(place, f"TLS is not spoken on {address.scheme}://; remove it")
    elif tls.cert is None:
        here.refuse(place, "cert is missing; write tls: {cert: FILE, key: FILE}")
    if tls.starttls and address.scheme == "tls":
        here.refuse(_place(node, "tls", "starttls"), "a tls:// listener speaks TLS at once; write tcp://")
    if tls.client_auth == "optional" and tls.client_ca is None:
        here.refuse(_place(node, "tls", "client_auth"), "client_auth needs client_ca; write both or none")


def _check_socket(options: Socket, address: Address, node: Mapping, trail: Trail) -> None:
    for name in (*OF_UNIX, *OF_UDP):
        is_fit = address.is_unix and not address.is_abstract if name in OF_UNIX else address.scheme == "udp"
        if getattr(options, name) not in (None, ()) and not is_fit:
            home = "unix:// and unixgram:// listeners with a path" if name in OF_UNIX else "udp:// listeners"
            trail.below("socket").refuse(_place(node, "socket", name), f"{name} is for {home}; remove it")


def _place(node: Mapping, *keys: str) -> Place:
    found: Node = node
    for key in keys:
        below = found.find(key) if isinstance(found, Mapping) else None
        if below is None:
            break
        found = below
    return found.place
