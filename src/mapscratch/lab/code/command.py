# SPDX-License-Identifier: Apache-2.0
"""Compare workers as they are with workers whose PLT entries bind themselves (`mapscratch run`).

The workers are ordinary processes. Counted is what each dirties: without memory pressure, where
converted entries take more memory, and under it, where they are dropped. Pressure takes a memory
control group (root) and swap. The exit status is 1 if workers computed different things.

Examples:
  mapscratch code                       1, 10 and 100 workers, without pressure unless this is root
  mapscratch code --swap file           with a temporary swapfile (root)
  mapscratch code -n 10 --json code.json
"""

from __future__ import annotations

import argparse
from datetime import datetime

import msgspec

from mapscratch.documents import document_head
from mapscratch.lab.code.measure import compare_code
from mapscratch.lab.code.terminal import print_code
from mapscratch.lab.rig.options import add_options
from mapscratch.lab.rig.results import Settings
from mapscratch.lab.rig.surroundings import check_swap
from mapscratch.terminal import check_output_files, make_console, progress_bar, write_json

HELP = "what PLT entries that bind themselves cost and save: workers with them and without"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the command takes."""
    add_options(parser, processes=(1, 10, 100))


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns 1 if workers computed different things."""
    check_output_files([arguments.json])
    check_swap(arguments.swap)
    console = make_console(stderr=str(arguments.json) == "-")
    given = {name: getattr(arguments, name) for name in ("processes", "rounds", "seconds", "swap")}
    settings = Settings(strategies=(), pressure="cgroup", pages=0, **given)
    with progress_bar() as progress:
        comparison = compare_code(settings, announce=console.print, progress=progress)
    print_code(console, comparison)
    if arguments.json:
        head = document_head("mapscratch.compare.code", 1, datetime.now().astimezone())
        write_json(arguments.json, head | msgspec.to_builtins(comparison, enc_hook=str))
    return 1 if comparison.is_wrong else 0
