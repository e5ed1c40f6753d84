# SPDX-License-Identifier: Apache-2.0
"""What a page costs: page faults, fills by userfaultfd, drops, and what fork copies of it.

Everything happens in a process of its own, which is gone when its round is over.
"""

from __future__ import annotations

import mmap
import os
import resource
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from mmap import PAGESIZE
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import mapscratch
from mapscratch import ScratchMap, SystemCallWarning
from mapscratch.lab.cost.timers import Figures, Heading, Timer, real_words
from mapscratch.lab.rig.strategies import STRATEGIES
from mapscratch.lab.rig.workers import Workers
from mapscratch.proc import count_pages

_PAGES = 1024
_CHUNK = 64
_COLD_PAGES = 4096
_RANDOM_TOUCHES = 256
_FORKED_PAGES = 4096
_FORKS = 8
_APART = 16
"""Pages between two in memory: farther than any other that a page fault maps along with it."""
_FILLS = {4096: 1024, 65536: 2048, 2 << 20: 4096}
"""Bytes of a fill: pages that are filled."""
_WORDS_PER_PAGE = PAGESIZE // 8

_FILE, _SPARSE = "pages", "sparse"

_HEADINGS = (
    Heading(
        "fault.copy_on_write",
        "first store to a page of a private file mapping",
        "page",
        "The page is in memory and mapped: the fault copies it.",
    ),
    Heading(
        "fault.page_cache",
        "page-in from the page cache",
        "page",
        "A minor fault. The pages lie apart, so that a fault maps one only.",
    ),
    Heading(
        "fault.page_cache.around",
        "page-in from the page cache, in order",
        "page",
        "A fault maps the pages around it as well (fault-around, 16 by default).",
    ),
    Heading(
        "fault.disk",
        "page-in from the disk, in random order",
        "page",
        "The file is dropped from the page cache before; what the device itself keeps in memory "
        "is not known. Without read-ahead (MADV_RANDOM).",
    ),
    Heading(
        "fault.disk.sequential",
        "page-in from the disk, in order",
        "page",
        "As fault.disk, with the kernel's read-ahead (MADV_SEQUENTIAL).",
    ),
    Heading(
        "fill.4096",
        "page made by userfaultfd, 4 KiB at a time",
        "page",
        "A ScratchMap with engine lazyfree, without fixups, touched in order: one page a fault.",
    ),
    Heading(
        "fill.65536",
        "page made by userfaultfd, 64 KiB at a time",
        "page",
        "mapscratch.array with such blocks, nothing to decode: a page's share of a fault for 16.",
    ),
    Heading(
        "fill.2097152",
        "page made by userfaultfd, 2 MiB at a time",
        "page",
        "mapscratch.array with such blocks, nothing to decode: a page's share of a fault for 512.",
    ),
    Heading(
        "drop.lazyfree",
        "reclaim of a lazily freed page",
        "page",
        "MADV_PAGEOUT on pages of engine lazyfree: the kernel drops them.",
    ),
    Heading(
        "drop.dontneed",
        "drop of a page by an engine, with madvise",
        "page",
        "ScratchMap.drop with engine dontneed, pages stored to.",
    ),
    Heading(
        "fork.page",
        "fork, for each page that was stored to",
        "page",
        "Copying page tables: the difference to the same process with the mapping left out of "
        "the child. The copy-on-write faults that follow are not in it.",
    ),
)


class PageTimer(Timer):
    """Times what happens to single pages.

    Args:
        folder: where the files go.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._is_prepared = False

    def headings(self) -> list[Heading]:
        """Faults, fills, drops and fork."""
        return list(_HEADINGS)

    def once(self, number: int) -> Figures:
        """Starts a process for each kind of figure, in another order each time."""
        if not self._is_prepared:
            self._prepare()
        figures: Figures = {}
        steps = [step for step in _STEPS if not step.names <= self.left_out.keys()]
        first = number % max(len(steps), 1)
        for step in steps[first:] + steps[:first]:
            with Workers([_PageSession(self._folder, step)]) as workers:
                (answer,) = workers.all("measure")
            if isinstance(answer, str):
                self.left_out |= dict.fromkeys(step.names, answer)
            else:
                figures |= answer
        return figures

    def _prepare(self) -> None:
        content = real_words(_COLD_PAGES * _WORDS_PER_PAGE)
        with (self._folder / _FILE).open("wb") as file:
            file.write(content.tobytes())
            file.flush()
            # Dirty pages can't be dropped from the page cache.
            os.fsync(file.fileno())
        with (self._folder / _SPARSE).open("wb") as file:
            file.truncate(_PAGES * _APART * PAGESIZE)
        for step in _STEPS:
            reason = STRATEGIES[step.engine].unavailable() if step.engine else ""
            if reason:
                self.left_out |= dict.fromkeys(step.names, reason)
        self._is_prepared = True


@dataclass(frozen=True, slots=True)
class _PageSession:
    """The process's side."""

    folder: Path
    step: _Step

    def ready(self) -> None:
        """Nothing to prepare."""

    def measure(self) -> Figures | str:
        """The figures, or why there are none here."""
        warnings.simplefilter("ignore", SystemCallWarning)
        return self.step.measure(self.folder)


def _copy_on_write(folder: Path) -> Figures | str:
    first_words = _mapped(folder / _FILE, _PAGES)[::_WORDS_PER_PAGE]
    first_words.sum()
    first = page_ns(_PAGES, lambda part: first_words[part].fill(1))
    again = page_ns(_PAGES, lambda part: first_words[part].fill(2))
    return {"fault.copy_on_write": first - again}


def _page_cache(folder: Path) -> Figures | str:
    path = folder / _SPARSE
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for page in range(_PAGES):
            os.pread(file.fileno(), 1, page * _APART * PAGESIZE)
    apart = _mapped(path, _PAGES * _APART)[:: _APART * _WORDS_PER_PAGE]
    (folder / _FILE).read_bytes()
    in_order = _mapped(folder / _FILE, _PAGES)[::_WORDS_PER_PAGE]
    return {
        "fault.page_cache": _first_touch(apart),
        "fault.page_cache.around": _first_touch(in_order),
    }


def _disk(folder: Path) -> Figures | str:
    path = folder / _FILE
    faults = _major_faults()
    random = _random_from_disk(path)
    if _major_faults() - faults < _RANDOM_TOUCHES // 2:
        return (
            f"what is written to {folder.parent} stays in memory: the file system has no disk, or "
            "doesn't drop pages when it is told to"
        )
    return {
        "fault.disk": random * 1e9 / _RANDOM_TOUCHES,
        "fault.disk.sequential": _in_order_from_disk(path) * 1e9 / _COLD_PAGES,
    }


def _random_from_disk(path: Path) -> float:
    order = np.random.default_rng().permutation(_COLD_PAGES)[:_RANDOM_TOUCHES] * _WORDS_PER_PAGE
    _leave_page_cache(path)
    words = _mapped(path, _COLD_PAGES, mmap.MADV_RANDOM)
    return _seconds(lambda: int(words[order].sum()))


def _in_order_from_disk(path: Path) -> float:
    _leave_page_cache(path)
    words = _mapped(path, _COLD_PAGES, mmap.MADV_SEQUENTIAL)
    return _seconds(lambda: int(words[::_WORDS_PER_PAGE].sum()))


def _fill(folder: Path) -> Figures | str:
    figures = {}
    path = folder / _FILE
    pages = _FILLS[PAGESIZE]
    with ScratchMap(path, pages * PAGESIZE, engine="lazyfree") as memory:
        words = np.frombuffer(memory, dtype=np.uint64)
        figures[f"fill.{PAGESIZE}"] = _first_touch(words[::_WORDS_PER_PAGE])
        del words
    for block, pages in _FILLS.items():
        if block > PAGESIZE:
            numbers = np.asarray(
                mapscratch.array(path, "<u8", shape=pages * _WORDS_PER_PAGE, block=block)
            )
            a_fill = max(_CHUNK, block // PAGESIZE)
            figures[f"fill.{block}"] = _first_touch(numbers[::_WORDS_PER_PAGE], a_fill)
            del numbers
    return figures


def _drop_lazyfree(folder: Path) -> Figures | str:
    with ScratchMap(folder / _FILE, _PAGES * PAGESIZE, engine="lazyfree") as memory:
        words = np.frombuffer(memory, dtype=np.uint64)
        words[::_WORDS_PER_PAGE].sum()
        address = words.ctypes.data
        del words
        before = count_pages(address, _PAGES * PAGESIZE).present
        nanoseconds = page_ns(_PAGES, lambda part: memory.reclaim(*_bytes_of(part)))
        dropped = before - count_pages(address, _PAGES * PAGESIZE).present
    return {"drop.lazyfree": nanoseconds * _PAGES / dropped} if dropped else {}


def _drop_dontneed(folder: Path) -> Figures | str:
    with ScratchMap(folder / _FILE, _PAGES * PAGESIZE, engine="dontneed") as memory:
        words = np.frombuffer(memory, dtype=np.uint64)
        words[::_WORDS_PER_PAGE] = 1
        del words
        return {
            "drop.dontneed": page_ns(_PAGES, lambda part: memory.drop(*_bytes_of(part))),
        }


def _bytes_of(pages: slice) -> tuple[int, int]:
    """Offset and length."""
    return pages.start * PAGESIZE, (pages.stop - pages.start) * PAGESIZE


def _fork(folder: Path) -> Figures | str:
    size = _FORKED_PAGES * PAGESIZE
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        words = np.frombuffer(memory, dtype=np.uint64)
        words[::_WORDS_PER_PAGE] = 1
        del words
        with_it, without = [], []
        for _ in range(_FORKS):
            memory.madvise(mmap.MADV_DOFORK)
            with_it.append(_fork_seconds())
            memory.madvise(mmap.MADV_DONTFORK)
            without.append(_fork_seconds())
    return {"fork.page": (min(with_it) - min(without)) * 1e9 / _FORKED_PAGES}


def _fork_seconds() -> float:
    start = time.perf_counter()
    child = os.fork()
    if not child:
        os._exit(0)
    seconds = time.perf_counter() - start
    os.waitpid(child, 0)
    return seconds


def _mapped(path: Path, pages: int, advice: int | None = None) -> NDArray[np.uint64]:
    """The words of a private mapping of a file's first pages; unmapped with the last view."""
    with path.open("rb") as file:
        memory = mmap.mmap(file.fileno(), pages * PAGESIZE, access=mmap.ACCESS_COPY)
    if advice is not None:
        memory.madvise(advice)
    return np.frombuffer(memory, dtype=np.uint64)


def _first_touch(words: NDArray[np.uint64], chunk: int = _CHUNK) -> float:
    """The ns of page faults of reading a word of each page, without what reading takes."""
    first = page_ns(len(words), lambda part: words[part].sum(), chunk)
    return first - page_ns(len(words), lambda part: words[part].sum(), chunk)


def page_ns(pages: int, step: Callable[[slice], object], chunk: int = _CHUNK) -> float:
    """The ns for a page, as for most of them: the median over chunks.

    A chunk is shorter than the time that a busy machine gives a process at a stretch.

    Args:
        pages: how many there are.
        step: does with some of them what is to be timed.
        chunk: pages at a time.
    """
    parts = [slice(at, min(at + chunk, pages)) for at in range(0, pages, chunk)]
    return statistics.median(
        _seconds(partial(step, part)) * 1e9 / (part.stop - part.start) for part in parts
    )


def _leave_page_cache(path: Path) -> None:
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _major_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


def _seconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


@dataclass(frozen=True, slots=True)
class _Step:
    """What one process measures.

    Attributes:
        measure: is given the folder.
        names: of the figures.
        engine: that it takes; empty for none.
    """

    measure: Callable[[Path], Figures | str]
    names: frozenset[str]
    engine: str = ""


_STEPS = (
    _Step(_copy_on_write, frozenset({"fault.copy_on_write"})),
    _Step(_page_cache, frozenset({"fault.page_cache", "fault.page_cache.around"})),
    _Step(_disk, frozenset({"fault.disk", "fault.disk.sequential"})),
    _Step(_fill, frozenset({"fill.4096", "fill.65536", "fill.2097152"}), "lazyfree"),
    _Step(_drop_lazyfree, frozenset({"drop.lazyfree"}), "lazyfree"),
    _Step(_drop_dontneed, frozenset({"drop.dontneed"}), "dontneed"),
    _Step(_fork, frozenset({"fork.page"})),
)
