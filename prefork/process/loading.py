"""Imports what the config names, in the mold or, without preload, in each worker.

Knows: a plan, apps. Does not know: who asks, what is served.
"""

from __future__ import annotations

# Python imports some of these when they are first needed: by then a user may not be allowed to read its files, or
# a folder that is the root may have none. Root must not import them late: the user's folder may be on the path.
import concurrent.futures.thread  # noqa: F401
import encodings.ascii
import encodings.idna
import encodings.latin_1  # noqa: F401
import importlib
import linecache  # noqa: F401
import os
import sys
import traceback
from dataclasses import dataclass, field, replace
from typing import Any

from prefork.app import check_framing, import_app, recognise
from prefork.config import ListenerConfig
from prefork.errors import ConfigError, PreforkError
from prefork.framing.checks import build_check
from prefork.process.messages import Failed
from prefork.process.plan import Plan


@dataclass(slots=True)
class Apps:
    """The imported apps of a generation, by the name that the config has for them."""

    found: dict[str, Any] = field(default_factory=dict)


def import_apps(plan: Plan) -> Apps:
    """Import every app that the config names, and the lifespan.

    Raises:
        ConfigError: one cannot be imported, or is of no kind that can be served.
    """
    apps = Apps()
    for listener in plan.config.listeners:
        apps.found |= import_listener(listener, plan.directories, listener.name in plan.datagrams)
    if plan.config.lifespan:
        apps.found[plan.config.lifespan] = import_app(plan.config.lifespan, plan.directories)
    return apps


def import_listener(listener: ListenerConfig, directories: tuple[str, ...], is_datagram: bool) -> dict[str, Any]:
    """Import what a listener names, by its names in the config: the app first.

    Raises:
        ConfigError: it cannot be imported, or is of no kind that can be served.
    """
    app = import_app(listener.app, directories)
    kind = recognise(app, listener.app, is_datagram)
    check_framing(app, kind, listener.app, listener.framing.name != "raw")
    found = {listener.app: app}
    check = getattr(listener.framing.options, "check", None)
    if check:
        found[check] = import_app(check, directories)
        build_check(found[check], check)
    return found


def settle_in(folder: str, plan: Plan) -> Plan:
    """Prepare the imports of a process that is about to be confined to a folder.

    Paths into the folder become those that they are in there; others stay, and are found there if the folder
    has them too. Apps are looked for in the folder itself, too.

    Returns:
        The plan as it is inside.
    """
    sys.path[:] = [path_inside(folder, path) for path in sys.path]
    importlib.invalidate_caches()
    directories = [path_inside(folder, path) for path in plan.directories]
    return replace(plan, directories=(*directories, "/"))


def path_inside(folder: str, path: str) -> str:
    """Return what a path is for who is confined to a folder; as it is, if it does not lead in there."""
    root, real = os.path.realpath(folder), os.path.realpath(path)
    is_inside = bool(path) and os.path.commonpath((root, real)) == root
    return os.path.join("/", os.path.relpath(real, root)).removesuffix("/.") or "/" if is_inside else path


def describe_failure(error: BaseException) -> Failed:
    """Return the fact of a boot that failed, with the traceback of what caused it."""
    cause = error.__cause__ or error
    detail = "" if isinstance(cause, ConfigError) else "".join(traceback.format_exception(cause))
    reason = str(error) if isinstance(error, PreforkError) else f"{type(error).__name__}: {error}"
    return Failed(reason[:2000], detail[-8_000:])  # the whole fits into one packet
