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
from collections.abc import Iterable
from contextlib import closing

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from mapscratch.cli import EXIT_WRONG
from mapscratch.demo.terminal import demo_document, ordinary_lines, our_lines, setting_lines
from mapscratch.demo.trial import Demo, prepare, run_demo


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
    """Runs the command; what is known is said at once."""
    say = _say_nothing if arguments.json else _say
    setting = prepare(arguments.limit << 20)
    say(setting_lines(setting))
    with closing(_Bar()) as bar, closing(run_demo(setting, bar.show)) as endings:
        ordinary = next(endings)
        bar.close()
        say(ordinary_lines(setting, ordinary))
        ours = next(endings)
    say(our_lines(ours))
    demo = Demo(setting, ordinary, ours)
    if arguments.json:
        print(json.dumps(demo_document(demo), indent=2))
    return 0 if demo.is_right else EXIT_WRONG


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        print(line, flush=True)


def _say_nothing(lines: Iterable[str]) -> None:
    pass


class _Bar:
    """A progress bar at a time on standard error, if that is a terminal."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stderr)
        self._bars: dict[str, Progress] = {}

    def show(self, title: str, done: float) -> None:
        if title not in self._bars:
            self.close()
            columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
            bar = Progress(*columns, console=self._console, transient=True)
            bar.disable = not self._console.is_terminal
            bar.add_task(title, total=1.0)
            bar.start()
            self._bars[title] = bar
        (task,) = self._bars[title].task_ids
        self._bars[title].update(task, completed=done)

    def close(self) -> None:
        for bar in self._bars.values():
            bar.stop()


def _mebibytes(text: str) -> int:
    try:
        size = int(text)
    except ValueError:
        size = 0
    if not 8 <= size <= 1 << 20:
        raise argparse.ArgumentTypeError(f"{text!r}: a number of MiB, at least 8")
    return size
