# SPDX-License-Identifier: Apache-2.0
"""Compare MAP_PRIVATE with each scratch engine, on real libraries and real reclaim.

Worker processes map the pages of shared libraries that hold relocations, and apply the relocations
as stores, each with load addresses of its own. Then the kernel reclaims the pages; the processes
touch them again, make the fixups that are missing, and check every word of every page against what
readelf says. With MAP_PRIVATE each process's pages go to swap; a scratch mapping drops them.

Without --swap or --pressure nothing on the machine is changed. The exit status is 1 if a word was
wrong, and 2 if the comparison could not be made.

Examples:
  mapscratch compare                           libraries of this machine, the swap that is there
  mapscratch compare --swap file --verbose     with a temporary swapfile (root), all figures
  mapscratch compare --swap zram -n 4          4 processes, against compressed memory
  mapscratch compare --pressure cgroup         a squeezed control group: the kernel chooses (root)
  mapscratch compare --chart compare.svg --json compare.json
  mapscratch compare /usr/lib/x86_64-linux-gnu/libcrypto.so.3
"""

from __future__ import annotations

import argparse
import os
import time
from datetime import datetime
from typing import get_args

from mapscratch import terminal
from mapscratch.lab.compare.charts import chart_of, check_chart_file, save_chart
from mapscratch.lab.compare.document import comparison_document
from mapscratch.lab.compare.rounds import compare
from mapscratch.lab.compare.terminal import print_comparison, print_plan
from mapscratch.lab.rig.options import MOST, add_options
from mapscratch.lab.rig.results import Pressure, Settings
from mapscratch.lab.rig.strategies import STRATEGIES
from mapscratch.lab.rig.surroundings import check_pressure, check_swap
from mapscratch.lab.rig.workload import DEFAULT_PAGES, read_workload

HELP = "MAP_PRIVATE against each scratch engine, on real libraries"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the command takes."""
    add = parser.add_argument
    about = "shared libraries; else some of this machine's"
    add("libraries", nargs="*", type=terminal.file_name, metavar="LIB", help=about)
    add_options(parser, processes=(1, 2, 4, 8))
    about = "compare only this one; may be given several times (default: all that run here)"
    add("--strategy", action="append", choices=tuple(STRATEGIES), help=about)
    about = (
        "pageout: ask the kernel to reclaim the mappings (default). cgroup: squeeze a temporary "
        "memory control group, in which the kernel chooses (root)"
    )
    add("--pressure", choices=get_args(Pressure), default="pageout", help=about)
    about = (
        "at least so many pages with fixups a process, by mapping the libraries repeatedly "
        "(default: %(default)s)"
    )
    add("--pages", type=terminal.whole_number(1, MOST), default=DEFAULT_PAGES, help=about)
    about = "save the picture as .svg or .png (matplotlib)"
    add("--chart", type=terminal.file_path, metavar="FILE", help=about)
    add("-v", "--verbose", action="store_true", help="print all figures")


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns 1 if a word was wrong."""
    started = time.monotonic()
    if arguments.chart:
        check_chart_file(arguments.chart)
    terminal.check_output_files((arguments.chart, arguments.json))
    check_swap(arguments.swap)
    check_pressure(arguments.pressure)
    console = terminal.make_console(stderr=str(arguments.json) == "-")
    options = ("processes", "rounds", "seconds", "pressure", "swap", "pages")
    given = {name: getattr(arguments, name) for name in options}
    strategies = tuple(name for name in STRATEGIES if name in (arguments.strategy or STRATEGIES))
    settings = Settings(strategies=strategies, **given)
    workload = read_workload(arguments.libraries, pages=settings.pages)
    print_plan(console, workload, settings)
    with terminal.progress_bar() as progress:
        comparison = compare(
            workload, settings, announce=console.print, progress=progress, started=started
        )
    print_comparison(console, comparison, verbose=arguments.verbose)
    if arguments.json:
        terminal.write_json(
            arguments.json, comparison_document(comparison, datetime.now().astimezone())
        )
    if arguments.chart:
        names = [library.plan.path.name.split(".so")[0] for library in workload.libraries]
        more = ", ..." if len(names) > 4 else ""
        subtitle = (
            f"{workload.pages:,} relocated pages a process ({', '.join(names[:4])}{more}); "
            f"Linux {os.uname().release}"
        )
        save_chart(chart_of(comparison), terminal.printable(subtitle), arguments.chart)
    return 1 if comparison.wrong_words else 0
