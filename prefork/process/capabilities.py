"""Gives up what is apart from a user's number: capabilities, and the ways to get any again.

Knows: capabilities(7), prctl(2). Does not know: users, which process is to give them up, or when.
"""

from __future__ import annotations

import ctypes

from prefork.process.kernel import prctl

PR_CAPBSET_READ, PR_CAPBSET_DROP = 23, 24  # linux/prctl.h
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
LINUX_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h, as all below
LINUX_CAPABILITY_U32S_3 = 2  # structs, of 32 capabilities each
MAX_CAPABILITIES = 32 * LINUX_CAPABILITY_U32S_3


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def forbid_new_privileges() -> bool:
    """Let no program that is executed from here on have more privileges, PR_SET_NO_NEW_PRIVS of prctl(2).

    Returns:
        False if the kernel refuses.
    """
    return prctl(PR_SET_NO_NEW_PRIVS, 1) == 0


def empty_bounding_set() -> bool:
    """Take every capability from what files can give, PR_CAPBSET_DROP of prctl(2); it needs CAP_SETPCAP.

    Returns:
        False if the kernel refuses.
    """
    held = [number for number in range(MAX_CAPABILITIES) if prctl(PR_CAPBSET_READ, number) == 1]
    dropped = [prctl(PR_CAPBSET_DROP, number) == 0 for number in held]
    return all(dropped)


def drop_all() -> bool:
    """Empty the sets of this process: ambient, effective, permitted, inheritable.

    setuid(2) leaves the inheritable one. Fewer needs no privilege, capset(2). A kernel that has no ambient
    set, before 4.3, has nothing in it.

    Returns:
        False if the kernel refuses.
    """
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header = _Header(LINUX_CAPABILITY_VERSION_3, 0)
    nothing = (_Sets * LINUX_CAPABILITY_U32S_3)()
    return bool(ctypes.CDLL(None, use_errno=True).capset(ctypes.byref(header), nothing) == 0)
