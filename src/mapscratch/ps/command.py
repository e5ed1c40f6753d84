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
from contextlib import suppress
from datetime import datetime

from mapscratch.cli import EXIT_INTERRUPTED
from mapscratch.terminal import printable, process_number, time_in_seconds

_WATCH_SECONDS = 2.0
_SHORTEST_WATCH = 0.1
_CLEAR_SCREEN = "\x1b[H\x1b[2J"

HELP = "all processes that use scratch memory: droppable, dropped, rebuilt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the command takes."""
    only = "only this process, mapping by mapping; may be given several times"
    parser.add_argument("--pid", type=process_number, action="append", metavar="PID", help=only)
    each = "a line for each mapping (as with --pid)"
    parser.add_argument("--each", action="store_true", help=each)
    again = f"again and again, until Ctrl-C (default: every {_WATCH_SECONDS:g} seconds)"
    period = time_in_seconds(_SHORTEST_WATCH)
    parser.add_argument(
        "--watch", type=period, nargs="?", const=_WATCH_SECONDS, metavar="SECONDS", help=again
    )
    form = parser.add_mutually_exclusive_group()
    programs = "print it for programs; with --watch a line each time"
    form.add_argument("--json", action="store_true", help=programs)
    prometheus = "print Prometheus's text exposition format"
    form.add_argument("--prometheus", action="store_true", help=prometheus)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    if arguments.watch is None:
        print(_text(arguments))
        return 0
    is_screen = sys.stdout.isatty() and not arguments.json and not arguments.prometheus
    before = _CLEAR_SCREEN if is_screen else ""
    end = "\n" if is_screen or arguments.json else "\n\n"
    with suppress(KeyboardInterrupt):  # how a watch ends: nothing to say about it
        while True:
            print(before + _text(arguments), end=end, flush=True)
            time.sleep(arguments.watch)
    return EXIT_INTERRUPTED


def _text(arguments: argparse.Namespace) -> str:
    """What is for programs is left as it is, unless a terminal gets it."""
    text = "\n".join(_lines(arguments))
    is_for_programs = arguments.json or arguments.prometheus
    return text if is_for_programs and not sys.stdout.isatty() else printable(text)


def _lines(arguments: argparse.Namespace) -> Iterator[str]:
    # Imported here because `mapscratch --help` wants none of it.
    from mapscratch.ps.census import take_census
    from mapscratch.ps.document import ps_document
    from mapscratch.ps.prometheus import prometheus_lines
    from mapscratch.ps.terminal import ps_lines

    start = time.monotonic()
    census = take_census(arguments.pid)
    seconds = time.monotonic() - start
    if arguments.prometheus:
        yield from prometheus_lines(census, seconds)
    elif arguments.json:
        document = ps_document(census, datetime.now().astimezone(), seconds)
        yield json.dumps(document, indent=None if arguments.watch else 2)
    else:
        each = arguments.each or arguments.pid is not None
        yield from ps_lines(census, each=each, named=arguments.pid or ())
