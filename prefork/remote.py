"""The commands to a running server: what is asked, and how answers are shown.

They import neither YAML nor asyncio: a health probe runs every few seconds.

Knows: commands, their arguments, exit codes. Does not know: what a server does about them.
"""

from __future__ import annotations

import json
import os
import sys
import time

from prefork.client import RefusedError, UsageError, ask, locate, wait_gone

TYPE_CHECKING = False  # as `typing` has it, whose import would be a fifth of a probe's CPU
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import Any

EXIT_GOOD, EXIT_REFUSED = 0, 3
PROBE_SECONDS = 5.0
CONFIG_HELP = "the config file of the server that is meant"


def add_commands(commands: Any) -> None:
    """Add the commands to a parser's subparsers."""
    _add(commands, "reload", _reload, "load new code and config; wait for the verdict")
    stop = _add(commands, "stop", _stop, "finish what is open, then end; wait for it")
    stop.add_argument("--now", action="store_true", help="do not wait for open connections")
    status = _add(commands, "status", _status, "show workers, listeners and the last reload")
    status.add_argument("--json", action="store_true", help="for programs")
    scale = _add(commands, "scale", _scale, "change the number of workers until the next reload", "count")
    scale.add_argument("count", metavar="N|+N|-N", help="how many, or how many more or less")
    _add(commands, "health", _health, "exit 0 if every slot has a worker that serves, else 3")
    _add_views(commands)
    _add_changes(commands)


def _add_changes(commands: Any) -> None:
    """Add what changes who is served, and how much is told."""
    ban = _add(commands, "ban", _ban, "refuse a network, and end its connections", "network")
    ban.add_argument("network", metavar="CIDR", help="such as 192.0.2.0/24 or 2001:db8::/32")
    ban.add_argument("--for", dest="duration", metavar="TIME", help="such as 10m; default: 1h")
    unban = _add(commands, "unban", _unban, "end a ban", "network")
    unban.add_argument("network", metavar="CIDR", help="as it was banned")
    kick = _add(commands, "kick", _kick, "end a connection at once", "id")
    kick.add_argument("id", metavar="ID", help="as `prefork conns` and the log have it")
    for name, words in (
        ("drain", "let a slot or a listener accept nobody new; its clients stay"),
        ("resume", "let it accept again"),
    ):
        hold = _add(commands, name, _hold, words)
        hold.add_argument("--slot", type=int, metavar="N", help="the worker's")
        hold.add_argument("--listener", metavar="NAME", help="all workers'")
        hold.set_defaults(order=name)
    logs = _add(commands, "logs", _logs, "log more, or less, for a while", "level")
    logs.add_argument("level", metavar="level=LEVEL", help="debug, info, warning or error")
    logs.add_argument("--for", dest="duration", metavar="TIME", help="such as 5m; then it is as before")
    bans = _add(commands, "bans", _bans, "list what is banned")
    bans.add_argument("--json", action="store_true", help="for programs")


def _add_views(commands: Any) -> None:
    """Add what shows the server's life."""
    conns = _add(commands, "conns", _conns, "list connections, the oldest first")
    for name, words in (
        ("listener", "of this listener"),
        ("peer", "from this network, such as 192.0.2.0/24"),
        ("older", "older than this, such as 5m"),
        ("idle", "without a byte for this long, such as 30s"),
        ("slot", "of this slot"),
        ("limit", "so many at the most"),
    ):
        kind = int if name in ("slot", "limit") else _parse_seconds if name in ("older", "idle") else str
        conns.add_argument(f"--{name}", type=kind, help=words)
    conns.add_argument("--json", action="store_true", help="for programs")
    capture = _add(
        commands, "capture", _capture, "write what handlers of streams read and write to a file for Wireshark"
    )
    capture.add_argument("-o", dest="output", metavar="FILE", required=True, help="a new file, .pcapng")
    capture.add_argument("--listener", metavar="NAME", help="of this listener")
    capture.add_argument("--peer", metavar="CIDR", help="with peers of this network")
    capture.add_argument("--conn", metavar="ID", help="of this connection")
    capture.add_argument("--limit", metavar="SIZE", default="10MB", help="of the file; default: 10MB")
    capture.add_argument("--for", dest="duration", metavar="TIME", default="60s", help="default: 60s")
    capture.add_argument("--max-bytes", type=int, default=0, metavar="N", help="of each read and write")
    top = _add(commands, "top", _top, "watch a server on a terminal, and command it by keys")
    top.add_argument("--interval", metavar="TIME", default="1s", help="between two looks; default: 1s")
    top.add_argument("--once", action="store_true", help="print one frame, to a terminal or not")


def _add(
    commands: Any, name: str, command: Callable[[Any], int], words: str, argument: str = ""
) -> argparse.ArgumentParser:
    """Add a command; with an argument of its own the config file is an option."""
    sub: argparse.ArgumentParser = commands.add_parser(name, help=words, description=words)
    if argument:
        sub.add_argument("--config", metavar="CONF", help=CONFIG_HELP)
    else:
        sub.add_argument("config", metavar="CONF", nargs="?", help=CONFIG_HELP)
    sub.add_argument("--control", metavar="PATH", help="the control socket of the server that is meant")
    sub.set_defaults(command=command)
    return sub


def _ask(
    options: argparse.Namespace, command: str, timeout: float | None = PROBE_SECONDS, **arguments: Any
) -> Any:
    return ask(_locate(options), command, arguments, timeout)


def _locate(options: argparse.Namespace) -> str:
    return locate(options.config, options.control, os.environ)


def _reload(options: argparse.Namespace) -> int:
    verdict = _ask(options, "reload", timeout=None)
    if verdict["verdict"] != "committed":
        print(f"prefork: reload refused: {verdict['reason']}", file=sys.stderr)
        return EXIT_REFUSED
    print("reloaded: " + ("; ".join(verdict["changes"]) or "the config has not changed"))
    return EXIT_GOOD


def _stop(options: argparse.Namespace) -> int:
    path = _locate(options)
    ask(path, "stop", {"now": options.now}, PROBE_SECONDS)
    wait_gone(path, None)
    return EXIT_GOOD


def _scale(options: argparse.Namespace) -> int:
    if not options.count.lstrip("+-").isdigit():
        raise UsageError(f"cannot scale to {options.count!r}; write N, +N or -N")
    print(_ask(options, "scale", count=options.count)["change"])
    return EXIT_GOOD


def _health(options: argparse.Namespace) -> int:
    return report_health(options.config, options.control)


def report_health(config: str | None, control: str | None) -> int:
    """Ask whether every slot has a worker that serves; return the exit code."""
    health = ask(locate(config, control, os.environ), "health", {}, PROBE_SECONDS)
    if health["ready"]:
        print("ready")
        return EXIT_GOOD
    print("not ready: " + "; ".join(health["why"]), file=sys.stderr)
    return EXIT_REFUSED


def _ban(options: argparse.Namespace) -> int:
    _ask(options, "ban", network=options.network, duration=options.duration)
    return EXIT_GOOD


def _unban(options: argparse.Namespace) -> int:
    _ask(options, "unban", network=options.network)
    return EXIT_GOOD


def _bans(options: argparse.Namespace) -> int:
    found = _ask(options, "bans")
    if options.json:
        print(json.dumps(found, indent=2))
    for ban in () if options.json else found:
        print(f"{ban['network']:<43} {_show_time(ban['seconds'])}")
    return EXIT_GOOD


def _conns(options: argparse.Namespace) -> int:
    names = ("listener", "peer", "older", "idle", "slot", "limit")
    wanted = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    answer = _ask(options, "conns", is_whole=True, **wanted)
    found = answer["rows"]
    if answer["silent"]:
        print(f"prefork: slots {answer['silent']} have not answered", file=sys.stderr)
    code = EXIT_REFUSED if answer["silent"] else EXIT_GOOD
    if options.json:
        print(json.dumps(found, indent=2))
        return code
    print("slot  peer                           age       idle   received       sent  id")
    for row in found:
        print(
            f"{row['slot']:>4}  {row['peer']:<24} {_show_time(row['age']):>9}  {_show_time(row['idle']):>9} "
            f"{row['received']:>10} {row['sent']:>10}  {row['id']}"
        )
    return code


def _parse_seconds(text: str) -> float:
    """Return seconds, written as a number or as a time.

    Raises:
        argparse.ArgumentTypeError: they are neither.
    """
    import argparse

    from prefork.config.units import parse_duration

    try:
        return float(text) if text.replace(".", "", 1).isdecimal() else parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _kick(options: argparse.Namespace) -> int:
    found = _ask(options, "kick", id=options.id)
    if found["kicked"]:
        return EXIT_GOOD
    silent = f"; slots {found['silent']} have not answered" if found["silent"] else ""
    raise RefusedError(f"there is no connection {options.id}{silent}")


def _hold(options: argparse.Namespace) -> int:
    wanted = {name: getattr(options, name) for name in ("slot", "listener") if getattr(options, name) is not None}
    _ask(options, options.order, **wanted)
    return EXIT_GOOD


def _capture(options: argparse.Namespace) -> int:
    from prefork.capture import run_capture

    wanted = {name: getattr(options, name) for name in ("listener", "peer", "conn", "max_bytes")}
    return run_capture(_locate(options), options.output, options.limit, options.duration, wanted)


def _logs(options: argparse.Namespace) -> int:
    key, _, level = options.level.rpartition("=")
    if key not in ("", "level"):
        raise UsageError(f"cannot set {key!r}; write level=debug")
    _ask(options, "logs", level=level, duration=options.duration)
    return EXIT_GOOD


def _top(options: argparse.Namespace) -> int:
    from prefork.top import need_terminal, parse_interval, run_top, show_once

    interval = parse_interval(options.interval)
    if options.once:
        return show_once(_locate(options), interval)
    need_terminal()
    return run_top(_locate(options), interval)


def _status(options: argparse.Namespace) -> int:
    status = _ask(options, "status")
    if options.json:
        print(json.dumps(status, indent=2))
        return EXIT_GOOD
    print(f"pid {status['pid']}, generation {status['generation']}, {status['target']} workers wanted")
    for listener in status["listeners"]:
        print(f"  {listener['name']} on {listener['bind']}")
    held = [f"slot {slot}" for slot in status["held"]["slots"]]
    held += [f"listener {name}" for name in status["held"]["listeners"]]
    if held:
        print(f"drained, until `prefork resume`: {', '.join(held)}")
    print("slot      pid  gen  state     connections  accepted  uptime")
    for row in status["workers"]:
        print(
            f"{row['slot']:>4} {row['pid'] or '-':>8} {row['generation']:>4}  {row['state']:<8} "
            f"{row['connections']:>12} {row['accepted']:>9}  {_show_time(row['uptime'])}"
        )
    last = status["last_reload"]
    if last["verdict"]:
        what = last["reason"] or "; ".join(last["changes"]) or "the config had not changed"
        print(f"last reload {last['verdict']}: {what}")
    return EXIT_GOOD


def _show_time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    days, rest = divmod(int(seconds), 86_400)
    return (f"{days} d " if days else "") + time.strftime("%H:%M:%S", time.gmtime(rest))
