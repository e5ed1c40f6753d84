# SPDX-License-Identifier: Apache-2.0
"""Show more decoded data than memory, beside the ordinary way, which is killed.

A temporary file of big-endian integers is read as scaled float32, four times as much as the limit
on memory: first by numpy.memmap and astype, then by mapscratch.array, whose pages are decoded when
they are touched and dropped when memory is wanted. Every value is checked. It takes some seconds,
and nothing is left behind.

As root (or with a memory cgroup of one's own) the limit is a cgroup's. Otherwise each process
limits itself.

Examples:
  mapscratch demo
  mapscratch demo --limit 512     with 512 MiB of memory and 2 GiB of array
  mapscratch demo --json | jq .ours.facts
"""

from __future__ import annotations

import argparse
import json
import sys

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from mapscratch.cli import EXIT_WRONG
from mapscratch.demo.terminal import demo_document, demo_lines
from mapscratch.demo.trial import Demo, run_demo


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "demo",
        help="more decoded data than memory, beside the ordinary way, which is killed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--limit",
        type=_mebibytes,
        default=64,
        metavar="MIB",
        help="memory for each process; the array is four times that (default: 64)",
    )
    parser.add_argument("--json", action="store_true", help="print it for programs")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    demo = _show(arguments.limit << 20)
    if arguments.json:
        print(json.dumps(demo_document(demo), indent=2))
    else:
        print("\n".join(demo_lines(demo)))
    return 0 if demo.is_right else EXIT_WRONG


def _show(limit: int) -> Demo:
    """Runs it with a progress bar on standard error, if that is a terminal."""
    console = Console(file=sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        tasks = {}

        def progress(title: str, done: float) -> None:
            if title not in tasks:
                tasks[title] = bar.add_task(title, total=1.0)
            bar.update(tasks[title], completed=done)

        return run_demo(limit, progress)


def _mebibytes(text: str) -> int:
    try:
        size = int(text)
    except ValueError:
        size = 0
    if not 8 <= size <= 1 << 20:
        raise argparse.ArgumentTypeError(f"{text!r}: a number of MiB, at least 8")
    return size
