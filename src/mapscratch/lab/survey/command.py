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
from datetime import datetime

from mapscratch import terminal
from mapscratch.elf import default_libraries
from mapscratch.lab.survey.census import CensusError
from mapscratch.lab.survey.document import survey_csv, survey_document
from mapscratch.lab.survey.take import take_census
from mapscratch.lab.survey.terminal import print_survey
from mapscratch.lab.survey.totals import ORDERS, in_order

_PROCESSES = 100
_TOP = 20
_MOST = 10_000_000

HELP = "fixups by kind and page, of libraries and of running processes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the command takes."""
    add = parser.add_argument
    files = "shared libraries and programs; of a folder, all that are below it"
    add("names", nargs="*", type=terminal.file_name, metavar="FILE|FOLDER", help=files)
    installed = "what the loader finds (ldconfig -p) and what this Python can import"
    add("--installed", action="store_true", help=installed)
    pid = "a running process, or all; may be given several times"
    add("--pid", action="append", type=_pid, default=[], metavar="PID|all", help=pid)
    several = f"totals also for N processes that load all of the libraries (default: {_PROCESSES})"
    number = terminal.whole_number(1, _MOST)
    add("--processes", type=number, default=_PROCESSES, metavar="N", help=several)
    order = "order of the tables (default: dirtied)"
    add("--sort", choices=ORDERS, default="dirtied", help=order)
    top = f"lines of a table, 0 for all of them (default: {_TOP})"
    add("--top", type=terminal.whole_number(0, _MOST), default=_TOP, metavar="N", help=top)
    figures = "save all figures; - prints them instead of the tables"
    add("--json", type=terminal.file_path, metavar="FILE", help=figures)
    lines = "save a line a library, or with --pid a process; - prints them instead of the tables"
    add("--csv", type=terminal.file_path, metavar="FILE", help=lines)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    terminal.check_output_files((arguments.json, arguments.csv))
    printed = [path for path in (arguments.json, arguments.csv) if str(path) == "-"]
    if len(printed) > 1:
        raise CensusError("--json - and --csv - can't both be printed; save one to a file")
    names, pids = arguments.names, arguments.pid
    is_default = not names and not pids and not arguments.installed
    if is_default:
        names = default_libraries()
    wanted = None if "all" in pids else pids
    with terminal.progress_bar() as progress:
        census = take_census(names, arguments.installed, wanted, progress)
    census = in_order(census, arguments.sort)
    if arguments.json:
        document = survey_document(census, datetime.now().astimezone(), arguments.processes)
        terminal.write_json(arguments.json, document)
    if arguments.csv:
        found = census.processes if pids else census.libraries
        terminal.write_text(arguments.csv, survey_csv(found))
    if printed:
        return 0
    console = terminal.make_console()
    if is_default:
        shown = [*(path.name for path in names[:8]), *["..."] * (len(names) > 8)]
        console.print(
            f"Libraries of this machine that many programs load: {', '.join(shown)}. Others: "
            "mapscratch survey FILE or FOLDER, --installed, --pid all.\n"
        )
    processes = arguments.processes if names or arguments.installed else None
    print_survey(console, census, processes, arguments.top or None)
    return 0


def _pid(text: str) -> int | str:
    wanted = "all or the number of a process,"
    return text if text == "all" else terminal.process_number(text, wanted)
