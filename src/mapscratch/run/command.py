# SPDX-License-Identifier: Apache-2.0
"""Run a program with PLT entries that bind themselves again after their page was dropped.

Without memory pressure this costs memory (`mapscratch code` measures it here). What it gives: the
kernel can drop those pages and never writes them to swap; what was in them is bound again by the
next call. Breakpoints of gdb and uprobes in dropped text are lost. More is in docs/code-fixups.md.

Nothing changes on disk. Conversions are made once and kept in $XDG_CACHE_HOME/mapscratch/code, of
libraries that are loaded later (dlopen) after the program ended, for the next time. What can't be
converted runs as it is; -v lists it. Where the kernel has no MAP_SCRATCH, each process gets a
thread that drops pages when memory is short (--no-reclaimer: none, and they are swapped as ever).

The exit status is the program's, or 128 + n if signal n ended it; 127 if there is no such command,
126 if it can't be executed, and 2 if it can't be run with converted libraries.

Examples:
  mapscratch run -- python3 -c 'import numpy'
  mapscratch run -v -- bash -c 'ls | sort'
  mapscratch run --drop-every 5 -- python3 -m test test_zlib     a trial: drop all text every 5 ms
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mapscratch.run.cache import ConversionCache
from mapscratch.run.launch import (
    CannotRun,
    ResolverCounts,
    environment,
    find_program,
    libraries_at_start,
    reports,
    run_program,
)
from mapscratch.run.static_tls import needed_bytes
from mapscratch.terminal import printable, whole_number

# Converting says nothing about itself unless it takes longer.
_SILENT_SECONDS = 1.0

HELP = "a program with PLT entries that bind themselves again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the command takes."""
    parser.usage = "%(prog)s [options] -- COMMAND [ARGUMENT ...]"
    parser.add_argument("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.add_argument(
        "--drop-every",
        type=whole_number(1, 86_400_000, "milliseconds, from"),
        metavar="MS",
        help="for trials: drop all converted text every MS milliseconds",
    )
    parser.add_argument(
        "--no-reclaimer",
        action="store_true",
        help="no thread that drops text under memory pressure, in no process",
    )
    parser.add_argument("--clear-cache", action="store_true", help="forget all conversions before")
    parser.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="say on standard error what was converted, what not and why, and what was fixed",
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""

    def say(line: str, *, always: bool = False) -> None:
        if arguments.verbose or always:
            print(f"mapscratch: {printable(line)}", file=sys.stderr)

    # argparse leaves the "--" in front of what it doesn't look at.
    words = arguments.command[arguments.command[:1] == ["--"] :]
    if not words:
        raise CannotRun("no command to run; see mapscratch run --help")
    if arguments.clear_cache:
        ConversionCache().clear()
    cache = ConversionCache()
    program = find_program(words[0], is_known=cache.knows)
    at_start = libraries_at_start(program)
    if not cache.knows(program.executable):
        _convert(cache, at_start, say)
    with reports() as made:
        variables = environment(
            cache,
            made,
            reclaimer="off" if arguments.no_reclaimer else None,
            drop_every=arguments.drop_every,
            static_tls=needed_bytes(at_start[1:]),
        )
        status = run_program(program, words[1:], variables)
        missed = made.misses()
        _convert(cache, missed, say)
        say(_summary(made.counts(), len(missed)))
    return status


def _convert(cache: ConversionCache, paths: Sequence[Path], say: Callable[..., None]) -> None:
    """Converts libraries, and says so where it was asked to or takes long."""
    start = time.monotonic()
    has_spoken = False
    for left, path in zip(reversed(range(len(paths))), paths, strict=True):
        try:
            kept = cache.keep(path)
        except OSError as problem:
            say(f"{path}: {problem.strerror}")
            continue
        converted = f"{kept.converted} entries converted"
        say(f"{kept.path}: {f'runs as it is: {kept.reason}' if kept.reason else converted}")
        if left and not has_spoken and time.monotonic() - start > _SILENT_SECONDS:
            has_spoken = True
            say(f"converting libraries, once: {left} more", always=True)


def _summary(counts: ResolverCounts, missed: int) -> str:
    scratch = f"; {counts.scratch} texts mapped MAP_SCRATCH" if counts.scratch else ""
    return (
        f"{counts.overlaid} libraries ran converted, {missed} did not (now converted if they can "
        f"be), {counts.refused} refused; {counts.resolved} entries bound by ld.so, "
        f"{counts.remembered} from memory, {counts.patched + counts.batched} words stored, "
        f"{counts.busy + counts.unwritable} left unfixed; {counts.dropped} pages dropped by "
        f"{counts.reclaimers} threads{scratch}"
    )
