# SPDX-License-Identifier: Apache-2.0
"""Small experiments with other ways, with one library: loaded as ever, forked, at fixed addresses.

Nothing on the machine is changed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from mmap import PAGESIZE
from pathlib import Path

from mapscratch.errors import UserError, last_words
from mapscratch.terminal import Progress

CHILDREN = 8
_SECONDS = 30.0


class BaselineError(UserError, RuntimeError):
    """A small experiment failed; the message says at what."""


@dataclass(frozen=True, slots=True)
class Alternatives:
    """What small experiments with one library showed.

    Attributes:
        library: that an ordinary process loads.
        pages: of it that relocation stores to.
        children: forked from a process that has loaded it.
        alone_bytes: Pss of its dirty pages in a process of its own.
        child_bytes: Pss of the same in one of the forked children.
        fork_us: µs for one fork of that process, an interpreter.
        equal_random: of the pages, the share that is equal in two processes as they are.
        equal_fixed: the same where addresses aren't drawn at random; None if that is forbidden
            here.
        compressed: what ``zlib -1`` makes of these pages, each alone: a share of their size.
    """

    library: str
    pages: int
    children: int
    alone_bytes: int
    child_bytes: int
    fork_us: float
    equal_random: float
    equal_fixed: float | None
    compressed: float

    @property
    def name(self) -> str:
        """The library's, without its folder."""
        return Path(self.library).name


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What one process of `mapscratch.lab.cost.baseline_worker` says."""

    digests: list[int]
    compressed: int
    alone: int
    shares: list[int]
    seconds: float


def try_alternatives(library: str | os.PathLike[str], progress: Progress) -> Alternatives:
    """Loads a library in a few processes, as ever: forked, at random and at fixed addresses.

    Args:
        library: with relocations.
        progress: is told what is done.

    Raises:
        BaselineError: a process failed, or did not end in time.
    """
    path = str(Path(library).resolve())
    progress("pre-fork: a process that has loaded everything, and its children", 0.0)
    forked = _load(path, CHILDREN, "random")
    progress("the same library at other addresses", 0.3)
    again = _load(path, 0, "random")
    progress("two processes at fixed addresses", 0.6)
    try:
        fixed = [_load(path, 0, "fixed") for _ in range(2)]
    except BaselineError:
        fixed = []
    pages = len(forked.digests)
    return Alternatives(
        library=path,
        pages=pages,
        children=CHILDREN,
        alone_bytes=forked.alone,
        child_bytes=sorted(forked.shares)[len(forked.shares) // 2],
        fork_us=forked.seconds * 1e6,
        equal_random=_equal(forked, again),
        equal_fixed=_equal(*fixed) if fixed else None,
        compressed=forked.compressed / (PAGESIZE * max(1, pages)),
    )


def _load(path: str, children: int, addresses: str) -> _Loaded:
    command = [sys.executable, "-m", "mapscratch.lab.cost.baseline_worker"]
    # Where things are mapped depends on the order in which that happens, and so on hashes.
    environment = os.environ | {"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [*command, path, str(children), addresses],
            env=environment,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BaselineError(f"a process that loads {path} did not end in {_SECONDS:g} s") from None
    if done.returncode:
        raise BaselineError(f"a process that loads {path} failed: {last_words(done.stderr)}")
    return _Loaded(**json.loads(done.stdout))


def _equal(one: _Loaded, other: _Loaded) -> float:
    same = sum(a == b for a, b in zip(one.digests, other.digests, strict=True))
    return same / len(one.digests) if one.digests else 0.0
