# SPDX-License-Identifier: Apache-2.0
"""Small experiments with other ways, with one library: loaded as ever, forked, at fixed addresses.

Nothing on the machine is changed.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from mmap import PAGESIZE
from pathlib import Path
from statistics import median_high
from typing import Any

from mapscratch.lab.cost.timers import CannotMeasure, run_program
from mapscratch.terminal import Progress

CHILDREN = 8


@dataclass(frozen=True, slots=True)
class Alternatives:
    """What small experiments showed with a library that an ordinary process loads."""

    library: str
    pages: int  # of it that relocation stores to
    children: int  # forked from a process that has loaded it
    alone_bytes: int  # Pss of its dirty pages in a process of its own
    child_bytes: int  # Pss of the same in one of the forked children
    fork_us: float  # for one fork of that process, an interpreter
    equal_random: float  # of the pages, the share that is equal in two processes as they are
    equal_fixed: float | None  # where addresses aren't drawn at random; None if that is forbidden
    compressed: float  # what ``zlib -1`` makes of these pages, each alone: a share of their size

    @property
    def name(self) -> str:
        """The library's, without its folder."""
        return Path(self.library).name


def try_alternatives(library: str | os.PathLike[str], progress: Progress) -> Alternatives:
    """Loads a library in a few processes; CannotMeasure if one fails, or doesn't end in time."""
    path = str(Path(library).resolve())
    progress("pre-fork: a process that has loaded everything, and its children", 0.0)
    forked = _load(path, CHILDREN, "random")
    progress("the same library at other addresses", 0.3)
    again = _load(path, 0, "random")
    progress("two processes at fixed addresses", 0.6)
    try:
        fixed = [_load(path, 0, "fixed") for _ in range(2)]
    except CannotMeasure:
        fixed = []
    pages = len(forked["digests"])
    return Alternatives(
        library=path,
        pages=pages,
        children=CHILDREN,
        alone_bytes=forked["alone"],
        child_bytes=median_high(forked["shares"]),
        fork_us=forked["seconds"] * 1e6,
        equal_random=_equal(forked, again),
        equal_fixed=_equal(*fixed) if fixed else None,
        compressed=forked["compressed"] / (PAGESIZE * max(1, pages)),
    )


def _load(path: str, children: int, addresses: str) -> dict[str, Any]:
    """What a process of `mapscratch.lab.cost.baseline_worker` says."""
    command = [sys.executable, "-m", "mapscratch.lab.cost.baseline_worker"]
    # Where things are mapped depends on the order in which that happens, and so on hashes.
    environment = os.environ | {"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"}
    what = f"a process that loads {path}"
    done = run_program([*command, path, str(children), addresses], what, env=environment)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _equal(one: dict[str, Any], other: dict[str, Any]) -> float:
    same = [first == second for first, second in zip(one["digests"], other["digests"], strict=True)]
    return same.count(True) / max(1, len(same))
