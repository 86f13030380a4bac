"""Steps down for good, before anything of the user is run: another root folder, another user, no capabilities.

The order is that of what each step needs: names are looked up in the old root folder; chroot(2), an empty
bounding set and setgroups(2) need root; setuid(2) ends that; what it leaves of capabilities goes last.

Knows: users, groups, the folder. Does not know: which process is to change, or when.
"""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Sequence
from dataclasses import dataclass

from prefork.errors import BootError
from prefork.process.capabilities import drop_all, empty_bounding_set, forbid_new_privileges

NEEDED_INSIDE = {  # by each worker: its own size, a descriptor to spare
    "proc/self/statm": "/proc is not in there; mount -t proc proc {0}/proc",
    "dev/null": "/dev/null is not in there; mknod -m 666 {0}/dev/null c 1 3",
}


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


def check_may_confine(folder: str) -> None:
    """Check that a process can be confined to a folder, and that what a worker needs is inside.

    Raises:
        BootError: it cannot.
    """
    cause = ""
    if os.geteuid() != 0:
        cause = "only root can; start as root, or unset `chroot:`"
    elif not os.path.isdir(folder):
        cause = "there is no such folder; make it, or set `chroot:`"
    else:
        missing = [cure for name, cure in NEEDED_INSIDE.items() if not os.path.exists(f"{folder}/{name}")]
        cause = "".join(cure.format(folder) for cure in missing[:1])
    if cause:
        raise BootError(f"cannot confine workers to {folder}: {cause}")


def step_down(user: str | None, folder: str | None) -> list[str]:
    """Give up whatever this process can give up.

    Args:
        user: `user[:group]` to become; None: stay. Who stays root keeps root's capabilities.
        folder: that is to be the root folder; None: stay.

    Returns:
        What the kernel refuses though this process may ask for it, one warning each: gVisor and seccomp(2) do.

    Raises:
        BootError: the user cannot be become, or the folder not be entered.
    """
    identity = resolve_identity(user) if user else None
    groups = os.getgrouplist(identity.name, identity.gid) if identity else []
    if folder:
        _enter(folder)
    was_root = os.geteuid() == 0
    is_root = (identity.uid if identity else os.geteuid()) == 0
    warnings = []
    if not is_root and not empty_bounding_set() and was_root:
        warnings.append("the kernel refuses to empty the capability bounding set")
    if identity:
        _become(identity, groups)
    if not is_root and not drop_all():
        warnings.append("the kernel refuses to drop capabilities")
    if not forbid_new_privileges():
        warnings.append("the kernel refuses no_new_privs: programs with a set-user-ID bit can gain privileges")
    return warnings


def _enter(folder: str) -> None:
    try:
        os.chroot(folder)
        os.chdir("/")  # else `..` would lead out, chroot(2)
    except OSError as error:
        raise BootError(f"cannot confine workers to {folder}: {error.strerror}") from error


def _become(identity: Identity, groups: Sequence[int]) -> None:
    """Give up root for a user, in the order of setuid(2): groups, group, user; real, effective and saved."""
    uids, gids = (identity.uid,) * 3, (identity.gid,) * 3
    if (os.getresuid(), os.getresgid()) == (uids, gids):
        return
    try:
        if os.geteuid() == 0:
            os.setgroups(groups)
        os.setresgid(*gids)
        os.setresuid(*uids)
    except OSError as error:
        raise BootError(f"cannot become user {identity.name!r}: {error.strerror}") from error
