"""Becomes another user, for good.

Knows: users, groups. Does not know: which process is to change, or when.
"""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass

from prefork.errors import BootError


@dataclass(frozen=True, slots=True)
class Identity:
    """A user and a group, by number; `name` is for initgroups(3)."""

    uid: int
    gid: int
    name: str


def resolve_identity(text: str) -> Identity:
    """Look up `user[:group]`, names or numbers; without a group the user's own is taken.

    Raises:
        BootError: there is none of that name.
    """
    user, _, group = text.partition(":")
    try:
        entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
    except KeyError as error:
        raise BootError(f"cannot become user {user!r}: there is no such user; set `user:`") from error
    gid = entry.pw_gid
    if group:
        try:
            gid = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
        except KeyError as error:
            raise BootError(f"cannot become group {group!r}: there is no such group; set `user:`") from error
    return Identity(entry.pw_uid, gid, entry.pw_name)


def check_may_become(identity: Identity) -> None:
    """Check that this process can become somebody.

    Raises:
        BootError: only root can become another user.
    """
    if os.geteuid() not in (0, identity.uid):
        raise BootError(f"cannot become user {identity.name!r}: only root can; start as root, or unset `user:`")


def become(identity: Identity) -> None:
    """Give up root for a user, in the order of setuid(2): groups, group, user.

    Raises:
        BootError: the kernel refuses.
    """
    if (os.geteuid(), os.getegid()) == (identity.uid, identity.gid):
        return
    try:
        os.initgroups(identity.name, identity.gid)
        os.setgid(identity.gid)
        os.setuid(identity.uid)
    except OSError as error:
        raise BootError(f"cannot become user {identity.name!r}: {error.strerror}") from error
