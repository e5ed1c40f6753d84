# SPDX-License-Identifier: Apache-2.0
"""Compare MAP_PRIVATE with each scratch engine, on real libraries and real reclaim.

Worker processes map the pages of shared libraries that hold relocations, and apply the relocations
as stores, each with load addresses of its own. Then the kernel reclaims the pages; the processes
touch them again, make the fixups that are missing, and check every word of every page against what
readelf says. With MAP_PRIVATE each process's pages go to swap; a scratch mapping drops them.

With --code the workers are ordinary processes, as they are and with PLT entries that bind
themselves again (`mapscratch run`): what each dirties, without memory pressure, where converted
entries take more memory, and under it, where they are dropped.

Without --swap or --pressure nothing on the machine is changed. The exit status is 1 if a word was
wrong, and 2 if the comparison could not be made.

Examples:
  mapscratch compare                           libraries of this machine, the swap that is there
  mapscratch compare --swap file --verbose     with a temporary swapfile (root), all figures
  mapscratch compare --swap zram -n 4          4 processes, against compressed memory
  mapscratch compare --pressure cgroup         a squeezed control group: the kernel chooses (root)
  mapscratch compare --chart compare.svg --json compare.json
  mapscratch compare /usr/lib/x86_64-linux-gnu/libcrypto.so.3
  mapscratch compare --code --swap file        code fixups: 1, 10 and 100 workers (root)
"""

from __future__ import annotations

import argparse
import json
import os
import time
from datetime import datetime
from typing import TYPE_CHECKING, get_args

from mapscratch.documents import document_head
from mapscratch.lab.compare.charts import chart_of, check_chart_file, save_chart
from mapscratch.lab.compare.document import comparison_document
from mapscratch.lab.compare.rounds import ExperimentError, compare
from mapscratch.lab.compare.terminal import print_comparison, print_plan
from mapscratch.lab.rig.results import Comparison, Pressure, Settings, SwapChoice
from mapscratch.lab.rig.strategies import STRATEGIES
from mapscratch.lab.rig.surroundings import check_pressure, check_swap
from mapscratch.lab.rig.workload import DEFAULT_PAGES, read_workload
from mapscratch.terminal import (
    check_output_files,
    file_name,
    file_path,
    make_console,
    printable,
    progress_bar,
    time_in_seconds,
    whole_number,
)

if TYPE_CHECKING:
    from rich.console import Console

DEFAULT_PROCESSES = (1, 2, 4, 8)
DEFAULT_ROUNDS = 5
DEFAULT_SECONDS = 60.0
_MOST_PROCESSES = 1000
_MOST = 10_000_000


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "compare",
        help="MAP_PRIVATE against each scratch engine, on real libraries",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "libraries",
        nargs="*",
        type=file_name,
        metavar="LIB",
        help="shared libraries; else some of this machine's",
    )
    parser.add_argument(
        "--code",
        action="store_true",
        help="compare workers as they are with converted PLT entries; of the other options -n "
        "(default: 1,10,100), --rounds, --seconds, --swap and --json count",
    )
    parser.add_argument(
        "-n",
        "--processes",
        type=_process_counts,
        metavar="N[,N...]",
        help="how many processes, one sweep over all of them (default: 1,2,4,8)",
    )
    parser.add_argument(
        "--rounds",
        type=whole_number(1, _MOST),
        default=DEFAULT_ROUNDS,
        help=f"rounds for each number of processes, if there is time (default: {DEFAULT_ROUNDS})",
    )
    parser.add_argument(
        "--seconds",
        type=time_in_seconds(1),
        default=DEFAULT_SECONDS,
        help=f"time for everything (default: {DEFAULT_SECONDS:g})",
    )
    parser.add_argument(
        "--strategy",
        action="append",
        choices=tuple(STRATEGIES),
        help="compare only this one; may be given several times (default: all that run here)",
    )
    parser.add_argument(
        "--swap",
        choices=get_args(SwapChoice),
        default="none",
        help="none: use what is there (default). file, zram, zswap: make a temporary one, removed "
        "at the end (root). auto: a temporary file, if there is no swap and this is root",
    )
    parser.add_argument(
        "--pressure",
        choices=get_args(Pressure),
        default="pageout",
        help="pageout: ask the kernel to reclaim the mappings (default). cgroup: squeeze a "
        "temporary memory control group, in which the kernel chooses (root)",
    )
    parser.add_argument(
        "--pages",
        type=whole_number(1, _MOST),
        default=DEFAULT_PAGES,
        help="at least so many pages with fixups a process, by mapping the libraries repeatedly "
        f"(default: {DEFAULT_PAGES})",
    )
    parser.add_argument(
        "--chart",
        type=file_path,
        metavar="FILE",
        help="save the picture as .svg or .png (matplotlib)",
    )
    parser.add_argument(
        "--json",
        type=file_path,
        metavar="FILE",
        help="save all figures; see docs/compare-schema.md",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="print all figures")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns 1 if a word was wrong."""
    started = time.monotonic()
    if arguments.chart:
        check_chart_file(arguments.chart)
    check_output_files((arguments.chart, arguments.json))
    check_swap(arguments.swap)
    check_pressure(arguments.pressure)
    console = make_console()
    if arguments.code:
        return _run_code(arguments, console)
    settings = Settings(
        processes=arguments.processes or DEFAULT_PROCESSES,
        rounds=arguments.rounds,
        seconds=arguments.seconds,
        strategies=_strategies(arguments.strategy),
        pressure=arguments.pressure,
        swap=arguments.swap,
        pages=arguments.pages,
    )
    workload = read_workload(arguments.libraries, pages=settings.pages)
    print_plan(console, workload, settings)
    with progress_bar() as progress:
        comparison = compare(
            workload, settings, announce=console.print, progress=progress, started=started
        )
    print_comparison(console, comparison, verbose=arguments.verbose)
    _save(comparison, arguments)
    return 1 if comparison.wrong_words else 0


def _run_code(arguments: argparse.Namespace, console: Console) -> int:
    """Compares code fixups; returns 1 if workers computed different things."""
    from mapscratch.lab.code.measure import DEFAULT_WORKERS, compare_code
    from mapscratch.lab.code.terminal import print_code

    if arguments.libraries or arguments.chart or arguments.strategy:
        raise ExperimentError("--code takes no libraries, no --chart and no --strategy")
    workers = arguments.processes or DEFAULT_WORKERS
    settings = Settings(
        processes=workers,
        rounds=arguments.rounds,
        seconds=arguments.seconds,
        strategies=(),
        pressure="cgroup",
        swap=arguments.swap,
        pages=0,
    )
    with progress_bar() as progress:
        comparison = compare_code(workers, settings, announce=console.print, progress=progress)
    print_code(console, comparison)
    if arguments.json:
        document = {
            **document_head("mapscratch.compare.code", 1, datetime.now().astimezone()),
            **comparison.as_dict(),
        }
        arguments.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 1 if comparison.is_wrong else 0


def _strategies(named: list[str] | None) -> tuple[str, ...]:
    return tuple(name for name in STRATEGIES if not named or name in named)


def _save(comparison: Comparison, arguments: argparse.Namespace) -> None:
    if arguments.json:
        document = comparison_document(comparison, datetime.now().astimezone())
        arguments.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if arguments.chart:
        chart = chart_of(comparison)
        save_chart(chart, _subtitle(comparison), arguments.chart)


def _subtitle(comparison: Comparison) -> str:
    libraries = comparison.libraries
    pages = comparison.copies * sum(library.pages for library in libraries)
    names = ", ".join(library.path.name.split(".so")[0] for library in libraries[:4])
    more = ", ..." if len(libraries) > 4 else ""
    where = f"Linux {os.uname().release}"
    return printable(f"{pages:,} relocated pages a process ({names}{more}); {where}")


def _process_counts(text: str) -> tuple[int, ...]:
    try:
        counts = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers such as 1,2,4, not {text!r}") from None
    if counts[0] < 1 or counts[-1] > _MOST_PROCESSES:
        raise argparse.ArgumentTypeError(f"each number is 1 to {_MOST_PROCESSES}, unlike {text!r}")
    return tuple(counts)
