# SPDX-License-Identifier: Apache-2.0
"""Options that `mapscratch compare` and `mapscratch code` have in common."""

from __future__ import annotations

import argparse
from typing import get_args

from mapscratch.lab.rig.results import SwapChoice
from mapscratch.terminal import file_path, time_in_seconds, whole_number

MOST = 10_000_000


def add_options(parser: argparse.ArgumentParser, *, processes: tuple[int, ...]) -> None:
    """Adds how many processes, rounds and seconds, the swap, and where to save all figures."""
    add = parser.add_argument
    counts = ",".join(map(str, processes))
    about = f"how many processes, one sweep over all of them (default: {counts})"
    add("-n", "--processes", type=_counts, default=processes, metavar="N[,N...]", help=about)
    about = "rounds for each number of processes, if there is time (default: %(default)s)"
    add("--rounds", type=whole_number(1, MOST), default=5, help=about)
    about = "time for everything (default: %(default)g)"
    add("--seconds", type=time_in_seconds(1), default=60.0, help=about)
    about = (
        "none: use what is there (default). file, zram, zswap: make a temporary one, removed at "
        "the end (root). auto: a temporary file, if there is no swap and this is root"
    )
    add("--swap", choices=get_args(SwapChoice), default="none", help=about)
    about = "save all figures, or print them (-); see docs/compare-schema.md"
    add("--json", type=file_path, metavar="FILE", help=about)


def _counts(text: str) -> tuple[int, ...]:
    number = whole_number(1, 1000, "numbers such as 1,2,4, each from")
    return tuple(sorted({number(part.strip()) for part in text.split(",")}))
