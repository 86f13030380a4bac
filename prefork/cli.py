"""The command line: `prefork run`, `check`, `schema`, and the commands to a running server.

Commands to a running server import neither YAML nor asyncio: a health probe runs every few seconds.

Knows: arguments, exit codes, how answers are shown. Does not know: how anything is done.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence

from prefork.client import NoServerError, RefusedError, UsageError, ask, locate, wait_gone
from prefork.errors import ConfigError, PreforkError

TYPE_CHECKING = False  # as `typing` has it, whose import would be a fifth of a probe's CPU
if TYPE_CHECKING:
    import argparse
    from typing import Any

EXIT_GOOD, EXIT_BUG, EXIT_USAGE, EXIT_REFUSED, EXIT_NO_SERVER = 0, 1, 2, 3, 4
PROBE_SECONDS = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code.

    0 good, 1 a bug, 2 wrong usage or config, 3 it could not boot or was refused, 4 no server answers.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if given == ["health"] or (len(given) == 3 and given[:2] == ["health", "--control"]):
            return _report_health(None, given[2] if given[2:] else None)  # argparse would be a third of a probe
        options = _parser().parse_args(given)
        code: int = options.command(options)
    except (ConfigError, UsageError) as error:
        return _complain(error, EXIT_USAGE)
    except NoServerError as error:
        return _complain(error, EXIT_NO_SERVER)
    except PreforkError as error:
        return _complain(error, EXIT_REFUSED)
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT, as shells have it
    except BrokenPipeError:  # the reader of our output has gone: nothing more to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_BUG
    return code


def _complain(error: Exception, code: int) -> int:
    for problem in error.problems if isinstance(error, ConfigError) else [str(error)]:
        print(f"prefork: {problem}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    import argparse

    parser = argparse.ArgumentParser(prog="prefork", description="A preforking socket server.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, command, words in (
        ("run", _run, "serve what a config file says, in the foreground"),
        ("check", _check, "check a config file and import its apps; binds nothing"),
    ):
        sub = commands.add_parser(name, help=words, description=words)
        sub.add_argument("config", metavar="CONF", help="the YAML file")
        sub.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="override a key, such as workers=8",
        )
        sub.set_defaults(command=command)
    schema = commands.add_parser("schema", help="print the JSON Schema of the config file")
    schema.set_defaults(command=_schema)
    _add_remote(commands, "reload", _reload, "load new code and config; wait for the verdict")
    stop = _add_remote(commands, "stop", _stop, "finish what is open, then end; wait for it")
    stop.add_argument("--now", action="store_true", help="do not wait for open connections")
    status = _add_remote(commands, "status", _status, "show workers, listeners and the last reload")
    status.add_argument("--json", action="store_true", help="for programs")
    scale = _add_remote(commands, "scale", _scale, "change the number of workers until the next reload")
    scale.add_argument("count", metavar="N|+N|-N", help="how many, or how many more or less")
    _add_remote(commands, "health", _health, "exit 0 if every slot has a worker that serves, else 3")
    return parser


def _add_remote(commands: Any, name: str, command: Any, words: str) -> argparse.ArgumentParser:
    sub: argparse.ArgumentParser = commands.add_parser(name, help=words, description=words)
    if name != "scale":
        sub.add_argument("config", metavar="CONF", nargs="?", help="the config file of the server that is meant")
    else:
        sub.add_argument("--config", metavar="CONF", help="the config file of the server that is meant")
    sub.add_argument("--control", metavar="PATH", help="the control socket of the server that is meant")
    sub.set_defaults(command=command)
    return sub


# --- a server of our own ---


def _run(options: argparse.Namespace) -> int:
    import logging
    import signal

    # Until there are handlers: an import can swallow a KeyboardInterrupt, in a callback of the garbage collector.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from prefork.process.inherited import take_inheritance
    from prefork.process.kernel import Kernel
    from prefork.process.master import Master
    from prefork.process.reload import Source

    source = Source(options.config, tuple(options.set), os.environ, take_inheritance(os.environ))
    loaded = source.read()
    try:
        return Master(source, loaded, Kernel()).run()
    except PreforkError:
        raise
    except OSError as error:
        raise RefusedError(f"cannot start: {error}") from error
    except Exception:
        logging.getLogger("prefork").critical("a bug in prefork ended the master", exc_info=True)
        return EXIT_BUG


def _check(options: argparse.Namespace) -> int:
    from prefork.config import read_config
    from prefork.process.inspection import inspect_config

    loaded = read_config(options.config, os.environ, options.set)
    found = inspect_config(loaded)
    for warning in (*loaded.warnings, *found.warnings):
        print(f"prefork: warning: {warning}", file=sys.stderr)
    if found.problems:
        raise ConfigError(found.problems)
    print("\n".join([f"{loaded.path}: good", *found.lines]))
    return EXIT_GOOD


def _schema(options: argparse.Namespace) -> int:  # noqa: ARG001  # all commands are called alike
    from prefork.config import json_schema

    print(json.dumps(json_schema(), indent=2))
    return EXIT_GOOD


# --- a server that runs ---


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
    return _report_health(options.config, options.control)


def _report_health(config: str | None, control: str | None) -> int:
    health = ask(locate(config, control, os.environ), "health", {}, PROBE_SECONDS)
    if health["ready"]:
        print("ready")
        return EXIT_GOOD
    print("not ready: " + "; ".join(health["why"]), file=sys.stderr)
    return EXIT_REFUSED


def _status(options: argparse.Namespace) -> int:
    status = _ask(options, "status")
    if options.json:
        print(json.dumps(status, indent=2))
        return EXIT_GOOD
    print(f"pid {status['pid']}, generation {status['generation']}, {status['target']} workers wanted")
    for listener in status["listeners"]:
        print(f"  {listener['name']} on {listener['bind']}")
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
