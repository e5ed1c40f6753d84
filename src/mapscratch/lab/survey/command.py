# SPDX-License-Identifier: Apache-2.0
"""Count fixups by kind and by page: of libraries, of all that is installed, of running processes.

For each library: what relocation stores to it, on how many pages, how many fixups a page; and of
the pages that relocation dirties, how many `mapscratch run` saves. With --pid: the private copies
of such pages that a process has in memory and in swap, and what else it has. Nothing of a file is
run, and nothing is changed. docs/survey.md says what the columns mean and how exact they are.

Without arguments some libraries of this machine that many programs load are looked at.

Examples:
  mapscratch survey                             some libraries that many programs load
  mapscratch survey --installed                 all that the loader and this Python find
  mapscratch survey /usr/lib/x86_64-linux-gnu   all ELF files below a folder
  mapscratch survey --pid all                   what running processes hold (as root, all users')
  mapscratch survey --pid $$ --json - | jq .totals
  mapscratch survey --installed --sort saved --top 50 --csv libraries.csv
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable
from datetime import datetime

from mapscratch.elf import default_libraries
from mapscratch.lab.survey.document import survey_csv, survey_document
from mapscratch.lab.survey.take import CensusError, Wanted, take_census
from mapscratch.lab.survey.terminal import names_of, print_survey
from mapscratch.lab.survey.totals import ORDERS
from mapscratch.terminal import (
    check_output_files,
    file_name,
    file_path,
    make_console,
    process_number,
    progress_bar,
    whole_number,
    write_text,
)

DEFAULT_PROCESSES = 100
DEFAULT_TOP = 20
_MOST = 10_000_000


HELP = "fixups by kind and page, of libraries and of running processes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the command takes."""
    parser.add_argument(
        "names",
        nargs="*",
        type=file_name,
        metavar="FILE|FOLDER",
        help="shared libraries and programs; of a folder, all that are below it",
    )
    parser.add_argument(
        "--installed",
        action="store_true",
        help="what the loader finds (ldconfig -p) and what this Python can import",
    )
    parser.add_argument(
        "--pid",
        action="append",
        type=_pid,
        default=[],
        metavar="PID|all",
        help="a running process, or all; may be given several times",
    )
    parser.add_argument(
        "--processes",
        type=whole_number(1, _MOST),
        default=DEFAULT_PROCESSES,
        metavar="N",
        help="totals also for N processes that load all of the libraries "
        f"(default: {DEFAULT_PROCESSES})",
    )
    parser.add_argument(
        "--sort", choices=ORDERS, default="dirtied", help="order of the tables (default: dirtied)"
    )
    parser.add_argument(
        "--top",
        type=whole_number(0, _MOST),
        default=DEFAULT_TOP,
        metavar="N",
        help=f"lines of a table, 0 for all of them (default: {DEFAULT_TOP})",
    )
    parser.add_argument(
        "--json",
        type=file_path,
        metavar="FILE",
        help="save all figures; - prints them instead of the tables",
    )
    parser.add_argument(
        "--csv",
        type=file_path,
        metavar="FILE",
        help="save a line a library, or with --pid a line a process; - prints them instead of the "
        "tables",
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    check_output_files((arguments.json, arguments.csv))
    printed = [path for path in (arguments.json, arguments.csv) if str(path) == "-"]
    if len(printed) > 1:
        raise CensusError("--json - and --csv - can't both be printed; save one to a file")
    wanted = Wanted(
        names=tuple(arguments.names),
        installed=arguments.installed,
        all_processes="all" in arguments.pid,
        pids=tuple(pid for pid in arguments.pid if pid != "all"),
    )
    is_default = not wanted.has_files and not wanted.has_processes
    if is_default:
        wanted = Wanted(names=tuple(default_libraries()))
    with progress_bar() as progress:
        census = take_census(wanted, progress=progress)
    if arguments.json:
        document = survey_document(
            census, datetime.now().astimezone(), processes=arguments.processes, order=arguments.sort
        )
        write_text(arguments.json, json.dumps(document, indent=2) + "\n")
    if arguments.csv:
        write_text(arguments.csv, survey_csv(census, arguments.sort))
    if printed:
        return 0
    console = make_console()
    if is_default:
        console.print(_default_line(wanted.names))
        console.print()
    print_survey(
        console,
        census,
        processes=arguments.processes,
        order=arguments.sort,
        top=arguments.top or None,
    )
    return 0


def _default_line(paths: Iterable[str | os.PathLike[str]]) -> str:
    return (
        f"Libraries of this machine that many programs load: {names_of(list(paths))}. Others: "
        "mapscratch survey FILE or FOLDER, --installed, --pid all."
    )


def _pid(text: str) -> int | str:
    if text == "all":
        return text
    return process_number(text, "all or the number of a process,")
