# SPDX-License-Identifier: Apache-2.0
"""Memory that the kernel may throw away, and that is filled again when it is touched.

In Python it is an array that is decoded from its file as it is read, and a cache without a size.
Beneath them is a scratch mapping: a file plus fixups that are made again when a page comes back,
whose dirty pages are dropped when memory is wanted, and not written to swap once for every process.

Examples:
  mapscratch demo                 what it is for, in some seconds
  mapscratch doctor               do arrays and caches work here, and what to do if not
  mapscratch compare --swap auto  as root without swap it makes a temporary swapfile
  mapscratch survey --installed   of all libraries of this machine
  mapscratch convert LIB -o OUT
  mapscratch run -- COMMAND
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module

from mapscratch import __version__
from mapscratch.errors import UserError
from mapscratch.extras import missing_extra, require
from mapscratch.terminal import printable

EXIT_WRONG = 1  # it ran, and what it found is wrong
EXIT_ERROR = 2  # it could not run, or was used wrongly; one line on standard error says why
EXIT_INTERRUPTED = 128 + signal.SIGINT  # Ctrl-C; everything is cleaned up

# Modules of this package with a `HELP`, `add_arguments` and `run`, by command. They are imported
# when they are asked for, because some take long.
COMMANDS = {
    "demo": "demo.command",
    "doctor": "doctor.command",
    "compare": "lab.compare.command",
    "code": "lab.code.command",
    "survey": "lab.survey.command",
    "cost": "lab.cost.command",
    "report": "lab.report.command",
    "ps": "ps.command",
    "convert": "run.convert",
    "run": "run.command",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command, its name and arguments (None: this process's); returns the exit status."""
    _open_streams()
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except BrokenPipeError:
        return _silent_end()
    except KeyboardInterrupt:
        _say("interrupted; everything that was made is removed")
        return EXIT_INTERRUPTED
    except (UserError, OSError) as error:
        _say(_message(error))
        return error.exit_status if isinstance(error, UserError) else EXIT_ERROR


def _run(words: Sequence[str]) -> int:
    try:
        arguments = _parser(words).parse_args(words)
        if COMMANDS[arguments.command_name].startswith("lab."):
            require("lab")
        status: int = arguments.run(arguments)
    except ModuleNotFoundError as error:
        raise missing_extra(error) from None
    sys.stdout.flush()
    return status


def _open_streams() -> None:
    """Makes standard output and standard error fit to be written to, whatever the caller gave us.

    What was closed (``>&-``) is wanted by nobody. Left closed, the next file that is opened would
    take its number, and what a child process prints would go there.
    """
    for number in range(3):
        with contextlib.suppress(OSError):
            os.fstat(number)
            continue
        os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
        os.set_inheritable(number, True)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        # "µ" must not end the program where the terminal knows only ASCII.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "mapscratch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"mapscratch {__version__}")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command_name", required=True
    )
    # One that is named is added alone, and what it lacks is an error; otherwise the list says so.
    if words and words[0] in COMMANDS:
        _add(commands, words[0])
        return parser
    for name in COMMANDS:
        try:
            _add(commands, name)
        except ModuleNotFoundError as error:
            commands.add_parser(name, help=missing_extra(error).remedy, add_help=False)
    return parser


def _add(commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str) -> None:
    command = import_module(f"mapscratch.{COMMANDS[name]}")
    parser = commands.add_parser(
        name,
        help=command.HELP,
        description=command.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    parser.set_defaults(run=command.run)


def _message(error: BaseException) -> str:
    """One line: what is wrong and what to do."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(text.split()) or type(error).__name__


def _say(message: str) -> None:
    with contextlib.suppress(OSError):
        print(f"mapscratch: {printable(message)}", file=sys.stderr)


def _silent_end() -> int:
    """Nobody reads the output any more, as with ``| head``: that is no error to report."""
    # The interpreter flushes standard output once more when it ends.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE
