"""Whom a server trusts without knowing it: who it is, and who else can read or write its files.

Knows: a config's users and files, modes. Does not know: how modes are read, what the files hold.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator

from prefork.config import Tls
from prefork.errors import BootError
from prefork.process.case import Case, Finding, bad, good, warn
from prefork.process.machine import absolute
from prefork.process.privileges import NEEDED_INSIDE, resolve_identity

WRITABLE_BY_OTHERS = stat.S_IWOTH
WRITABLE_BY_MANY = stat.S_IWGRP | stat.S_IWOTH


def check_user(case: Case) -> Iterator[Finding]:
    me, user = case.machine.user(), case.config.user
    if not case.path or me is None:
        return
    if user is None and me == 0:
        yield warn("the app runs as root, with all capabilities", "write user: and a user who owns nothing")
        return
    if user is None:
        yield good("the app does not run as root")
        return
    try:
        identity = resolve_identity(user)
    except BootError as error:
        what, _, cure = str(error).partition("; ")
        yield bad(what, cure)
        return
    if me not in (0, identity.uid):
        yield bad(f"user: {user} cannot be become: only root can", "start as root, or unset user:")
    elif identity.uid == 0:
        yield warn(f"user: {user} is root, with all capabilities", "write a user who owns nothing")
    else:
        yield good(f"the app runs as {user}")


def check_root_folder(case: Case) -> Iterator[Finding]:
    folder, me = case.config.chroot, case.machine.user()
    if folder is None:
        return
    mode = case.machine.mode(folder)
    found = [
        (me not in (0, None), bad("chroot: needs root", "start as root, or unset chroot:")),
        (mode is None, bad(f"chroot: there is no folder {folder}", f"mkdir {folder}")),
        (
            mode is not None and bool(mode & WRITABLE_BY_MANY),
            warn(f"chroot: {folder} can be written by others than its owner", f"chmod go-w {folder}"),
        ),
        (case.config.user is None, warn("chroot: root can leave it, chroot(2)", "write user:")),
    ]
    for name, text in NEEDED_INSIDE.items():
        what, _, cure = text.format(folder).partition("; ")
        is_missing = mode is not None and case.machine.mode(f"{folder}/{name}") is None
        found.append((is_missing, bad(f"chroot: {what}", cure)))
    yield from [finding for is_so, finding in found if is_so] or [good(f"the app is confined to {folder}")]


def check_config_file(case: Case) -> Iterator[Finding]:
    mode = case.machine.mode(case.path) if case.path else None
    if mode is None:
        return
    if mode & WRITABLE_BY_MANY:
        yield warn(f"{case.path} can be written by others than its owner", f"chmod go-w {case.path}")
    else:
        yield good(f"{case.path} can be written by its owner alone")


def check_app_folders(case: Case) -> Iterator[Finding]:
    for folder in dict.fromkeys(case.directories):
        mode = case.machine.mode(folder)
        if mode is None:
            continue
        if mode & WRITABLE_BY_OTHERS:  # a sticky bit keeps nobody from a new file, which may be found first
            yield warn(f"everybody can write modules into {folder}, which are imported", f"chmod o-w {folder}")
        else:
            yield good(f"not everybody can write modules into {folder}")


def check_control(case: Case) -> Iterator[Finding]:
    """Look at the folder of a chosen control socket; those that are not chosen are 0700, or not used."""
    if case.config.control is None or not case.directories:
        return
    folder = os.path.dirname(absolute(case.config.control, case.directories[0]))
    mode = case.machine.mode(folder)
    if mode is None:
        yield bad(f"control: there is no folder {folder}", f"mkdir -m 700 {folder}, or set control:")
    elif mode & WRITABLE_BY_OTHERS and not mode & stat.S_ISVTX:
        yield bad(f"everybody can replace the control socket in {folder}", f"chmod o-w {folder}, or set control:")
    elif mode & WRITABLE_BY_MANY:
        yield warn(
            f"others can take the name of the control socket in {folder}", f"chmod go-w {folder}, or set control:"
        )
    else:
        yield good(f"control: {folder} can be written by its owner alone")


def check_keys(case: Case) -> Iterator[Finding]:
    keys = [key for listener in case.config.listeners if listener.tls for key in _keys_of(listener.tls)]
    for key in dict.fromkeys(keys):
        places = [absolute(key, folder) for folder in case.directories]
        found = [(place, mode) for place in places if (mode := case.machine.mode(place)) is not None]
        if not found:
            yield bad(f"there is no TLS key {key}", "write its path, or make one with tools/make-cert")
            continue
        place, mode = found[0]
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            yield bad(f"everybody can read or write the TLS key {place}", f"chmod 600 {place}")
        elif mode & (stat.S_IRGRP | stat.S_IWGRP):
            yield warn(f"a group can read or write the TLS key {place}", f"chmod 600 {place}")
        else:
            yield good(f"the TLS key {place} is its owner's alone")


def _keys_of(tls: Tls) -> list[str]:
    """Return the files that hold private keys: that of the certificate, where no other is named."""
    pairs = [(tls.cert, tls.key), *((named.cert, named.key) for named in tls.sni)]
    return [str(key or cert) for cert, key in pairs if key or cert]


def check_keylog(case: Case) -> Iterator[Finding]:
    for listener in case.config.listeners:
        if listener.tls and listener.tls.keylog:
            yield warn(
                f"{listener.name} writes the keys of each connection to {listener.tls.keylog}", "remove tls.keylog"
            )


FILE_CHECKS: tuple[Callable[[Case], Iterator[Finding]], ...] = (
    check_user,
    check_root_folder,
    check_config_file,
    check_app_folders,
    check_control,
    check_keys,
    check_keylog,
)
