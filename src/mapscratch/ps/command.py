# SPDX-License-Identifier: Apache-2.0
"""Show every process that uses scratch memory: what the kernel may drop of it, and what came back.

Maps, arrays, caches, and the text of programs with converted libraries (`mapscratch run`). For
each: how much is in memory, how much of that the kernel may drop now, how many pages have gone and
were made again, and the processor time that fixups have taken. Looking takes nothing from a
process, and works while it is stopped or hangs. A "-" means: this engine can't know.

Without root it shows your own processes, and says how many of other users it couldn't read.

Examples:
  mapscratch ps
  mapscratch ps --watch                again every two seconds, until Ctrl-C
  mapscratch ps --pid 1234             each mapping of one process
  mapscratch ps --json | jq '.processes[].mappings[].droppable_bytes'
  mapscratch ps --prometheus           for a textfile collector or an exporter
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from mapscratch.cli import EXIT_INTERRUPTED
from mapscratch.terminal import printable, process_number, time_in_seconds

if TYPE_CHECKING:
    from mapscratch.ps.census import ScratchCensus

_WATCH_SECONDS = 2.0
_SHORTEST_WATCH = 0.1
_CLEAR_SCREEN = "\x1b[H\x1b[2J"


HELP = "all processes that use scratch memory: droppable, dropped, rebuilt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the command takes."""
    parser.add_argument(
        "--pid",
        type=process_number,
        action="append",
        metavar="PID",
        help="only this process, mapping by mapping; may be given several times",
    )
    parser.add_argument(
        "--each", action="store_true", help="a line for each mapping (as with --pid)"
    )
    parser.add_argument(
        "--watch",
        type=time_in_seconds(_SHORTEST_WATCH),
        nargs="?",
        const=_WATCH_SECONDS,
        metavar="SECONDS",
        help=f"again and again, until Ctrl-C (default: every {_WATCH_SECONDS:g} seconds)",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--json", action="store_true", help="print it for programs; with --watch a line each time"
    )
    form.add_argument(
        "--prometheus", action="store_true", help="print Prometheus's text exposition format"
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    if arguments.watch is None:
        for line in _once(arguments):
            print(_safe(line, arguments))
        return 0
    try:
        while True:
            _show(list(_once(arguments)), arguments)
            time.sleep(arguments.watch)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED  # how a watch ends: nothing to say about it


def _show(lines: list[str], arguments: argparse.Namespace) -> None:
    is_screen = sys.stdout.isatty() and not arguments.json and not arguments.prometheus
    if is_screen:
        print(_CLEAR_SCREEN, end="")
    print("\n".join(_safe(line, arguments) for line in lines), flush=True)
    if not is_screen and not arguments.json:
        print(flush=True)


def _safe(line: str, arguments: argparse.Namespace) -> str:
    """What is for programs is left as it is, unless a terminal gets it."""
    is_for_programs = arguments.json or arguments.prometheus
    return line if is_for_programs and not sys.stdout.isatty() else printable(line)


def _once(arguments: argparse.Namespace) -> Iterator[str]:
    # Imported here because `mapscratch --help` wants none of it.
    from mapscratch.ps.census import take_census
    from mapscratch.ps.document import ps_document
    from mapscratch.ps.prometheus import prometheus_lines
    from mapscratch.ps.terminal import ps_lines

    start = time.monotonic()
    census: ScratchCensus = take_census(arguments.pid)
    seconds = time.monotonic() - start
    if arguments.prometheus:
        yield from prometheus_lines(census, seconds)
    elif arguments.json:
        document = ps_document(census, datetime.now().astimezone(), seconds)
        yield json.dumps(document, indent=None if arguments.watch else 2)
    else:
        yield from ps_lines(
            census,
            each=arguments.each or arguments.pid is not None,
            named=arguments.pid or (),
        )
