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

from mapscratch.cli import EXIT_WRONG
from mapscratch.demo.terminal import demo_document, ordinary_lines, our_lines, setting_lines
from mapscratch.demo.trial import Demo, prepare, run_demo

_CLEAR_LINE = "\r\x1b[K"


HELP = "more decoded data than memory, beside the ordinary way, which is killed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the command takes."""
    parser.add_argument(
        "--limit",
        type=_mebibytes,
        default=64,
        metavar="MIB",
        help="memory for each process; the array is four times that (default: 64)",
    )
    parser.add_argument("--json", action="store_true", help="print it for programs")


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; what is known is said at once."""
    say = _say_nothing if arguments.json else _say
    setting = prepare(arguments.limit << 20)
    say(setting_lines(setting))
    with closing(_Line()) as line, closing(run_demo(setting, line.show)) as endings:
        ordinary = next(endings)
        line.close()
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


class _Line:
    """Says on standard error how far it is, if that is a terminal."""

    def show(self, title: str, done: float) -> None:
        if sys.stderr.isatty():
            print(f"{_CLEAR_LINE}{title}: {done:.0%}", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        if sys.stderr.isatty():
            print(_CLEAR_LINE, end="", file=sys.stderr, flush=True)


def _mebibytes(text: str) -> int:
    try:
        size = int(text)
    except ValueError:
        size = 0
    if not 8 <= size <= 1 << 20:
        raise argparse.ArgumentTypeError(f"{text!r}: a number of MiB, at least 8")
    return size
