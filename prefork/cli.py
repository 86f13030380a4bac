"""The command line: `prefork run`, `check`, `doctor`, `schema`, `replay`, and the commands to a running server.

Commands to a running server import neither YAML nor asyncio: a health probe runs every few seconds.

Knows: arguments, exit codes, how answers are shown. Does not know: how anything is done.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

from prefork.client import NoServerError, RefusedError, UsageError
from prefork.errors import ConfigError, PreforkError
from prefork.remote import add_commands, report_health

TYPE_CHECKING = False  # as `typing` has it, whose import would be a fifth of a probe's CPU
if TYPE_CHECKING:
    import argparse
    from typing import Any

EXIT_GOOD, EXIT_BUG, EXIT_USAGE, EXIT_REFUSED, EXIT_NO_SERVER = 0, 1, 2, 3, 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code.

    0 good, 1 a bug, 2 wrong usage or config, 3 it could not boot or was refused, 4 no server answers.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if given == ["health"] or (len(given) == 3 and given[:2] == ["health", "--control"]):
            return report_health(None, given[2] if given[2:] else None)  # argparse would be a third of a probe
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
    words = "say what is wrong with this machine, for a config file if one is named; binds nothing"
    doctor = commands.add_parser("doctor", help=words, description=words)
    doctor.add_argument("config", metavar="CONF", nargs="?", help="the YAML file")
    doctor.add_argument("--json", action="store_true", help="for programs")
    doctor.set_defaults(command=_doctor)
    schema = commands.add_parser("schema", help="print the JSON Schema of the config file")
    schema.set_defaults(command=_schema)
    _add_replay(commands)
    add_commands(commands)
    return parser


def _add_replay(commands: Any) -> None:
    words = "say again what the clients of a capture said, and compare the answers"
    sub = commands.add_parser("replay", help=words, description=words)
    sub.add_argument("file", metavar="FILE", help="a capture, as `prefork capture` writes it")
    sub.add_argument(
        "--to", required=True, metavar="HOST:PORT", help="whom to say it to; nobody else is contacted"
    )
    sub.add_argument("--tls", action="store_true", help="over TLS; SSL_CERT_FILE names authorities of your own")
    sub.add_argument("--conn", type=int, metavar="N", help="only the Nth connection of the file")
    pace = sub.add_mutually_exclusive_group()
    pace.add_argument("--speed", type=_speed, default=1.0, metavar="X", help="shorten pauses X times; default: 1")
    pace.add_argument("--at-once", action="store_true", help="leave out all pauses")
    sub.set_defaults(command=_replay)


def _speed(text: str) -> float:
    import argparse

    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return speed


# --- a server of our own ---


def _run(options: argparse.Namespace) -> int:
    import logging
    import signal

    # Until there are handlers: an import can swallow a KeyboardInterrupt, in a callback of the garbage collector.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from prefork.process.inherited import take_inheritance
    from prefork.process.kernel import Kernel
    from prefork.process.master import Master
    from prefork.process.notify import take_notifier
    from prefork.process.reload import Source

    source = Source(options.config, tuple(options.set), os.environ, take_inheritance(os.environ))
    notifier = take_notifier(os.environ)
    loaded = source.read()
    try:
        return Master(source, loaded, Kernel(), notifier).run()
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


def _doctor(options: argparse.Namespace) -> int:
    from prefork.config import read_config
    from prefork.process.case import Case, Level
    from prefork.process.doctor import examine
    from prefork.process.machine import Machine
    from prefork.process.plan import app_directories

    case = Case(Machine())
    if options.config is not None:
        path = os.path.abspath(options.config)
        case = Case(Machine(), read_config(options.config, os.environ).config, path, app_directories(path))
    found = examine(case)
    if options.json:
        rows = [{"level": one.level.value, "what": one.what, "cure": one.cure} for one in found]
        print(json.dumps(rows, indent=2))
    else:
        print("\n".join(map(str, found)))
    return EXIT_USAGE if any(one.level is Level.BAD for one in found) else EXIT_GOOD


def _replay(options: argparse.Namespace) -> int:
    from prefork.replay import run_replay

    speed = None if options.at_once else options.speed
    is_good = run_replay(options.file, options.to, options.tls, options.conn, speed)
    return EXIT_GOOD if is_good else EXIT_REFUSED


def _schema(options: argparse.Namespace) -> int:  # noqa: ARG001  # all commands are called alike
    from prefork.config import json_schema

    print(json.dumps(json_schema(), indent=2))
    return EXIT_GOOD
