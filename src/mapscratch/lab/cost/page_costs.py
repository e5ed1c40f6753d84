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
from collections.abc import Callable
from functools import partial
from mmap import PAGESIZE
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

import mapscratch
from mapscratch import ScratchMap
from mapscratch.lab.cost.timers import (
    WORDS_PER_PAGE,
    CannotMeasure,
    Figures,
    Heading,
    Timer,
    in_a_process,
    in_turn,
    real_words,
)
from mapscratch.lab.rig.strategies import STRATEGIES
from mapscratch.proc import count_pages

_PAGES, _CHUNK = 1024, 64
_COLD_PAGES, _RANDOM_TOUCHES = 4096, 256
_FORKED_PAGES, _FORKS = 4096, 8
_APART = 16
"""Pages between two in memory: farther than any other that a page fault maps along with it."""
_FILLS = {65536: 2048, 2 << 20: 4096}
"""Bytes of a fill: pages that are filled."""
_FILE, _SPARSE = "pages", "sparse"

_Words: TypeAlias = NDArray[np.uint64]
_Measure: TypeAlias = Callable[[Path], Figures | str]

_STEPS: dict[_Measure, list[Heading]] = {}
"""What a process does with the files in a folder. It returns the figures that its headings name, or
why there are none here."""


def _figure(name: str, title: str, note: str) -> Callable[[_Measure], _Measure]:
    """Says what a figure of the function is."""

    def add(measure: _Measure) -> _Measure:
        _STEPS.setdefault(measure, []).insert(0, Heading(name, title, note))
        return measure

    return add


class PageTimer(Timer):
    """Times what happens to single pages."""

    def headings(self) -> list[Heading]:
        """Faults, fills, drops and fork."""
        return [heading for headings in _STEPS.values() for heading in headings]

    def _prepare(self) -> None:
        with (self.folder / _FILE).open("wb") as file:
            file.write(real_words(_COLD_PAGES * WORDS_PER_PAGE).tobytes())
            file.flush()
            # Dirty pages can't be dropped from the page cache.
            os.fsync(file.fileno())
        with (self.folder / _SPARSE).open("wb") as file:
            file.truncate(_PAGES * _APART * PAGESIZE)

    def _measure(self, number: int) -> Figures:
        """Starts a process for each kind of figure, in another order each time."""
        figures: Figures = {}
        for step, headings in in_turn(list(_STEPS.items()), number):
            names = [heading.name for heading in headings]
            if names[0] in self.left_out:
                continue
            try:
                figures |= in_a_process(partial(step, self.folder))
            except CannotMeasure as reason:
                self.left_out |= dict.fromkeys(names, str(reason))
        return figures


@_figure(
    "fault.copy_on_write",
    "first store to a page of a private file mapping",
    "The page is in memory and mapped: the fault copies it.",
)
def _copy_on_write(folder: Path) -> Figures | str:
    first_words = _mapped(folder / _FILE, _PAGES)[::WORDS_PER_PAGE]
    first_words.sum()
    return {"fault.copy_on_write": first_store_ns(first_words)}


@_figure(
    "fault.page_cache",
    "page-in from the page cache",
    "A minor fault. The pages lie apart, so that a fault maps one only.",
)
@_figure(
    "fault.page_cache.around",
    "page-in from the page cache, in order",
    "A fault maps the pages around it as well (fault-around, 16 by default).",
)
def _page_cache(folder: Path) -> Figures | str:
    path = folder / _SPARSE
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for page in range(_PAGES):
            os.pread(file.fileno(), 1, page * _APART * PAGESIZE)
    apart = _mapped(path, _PAGES * _APART)[:: _APART * WORDS_PER_PAGE]
    (folder / _FILE).read_bytes()
    in_order = _mapped(folder / _FILE, _PAGES)[::WORDS_PER_PAGE]
    return {
        "fault.page_cache": _first_touch_ns(apart),
        "fault.page_cache.around": _first_touch_ns(in_order),
    }


@_figure(
    "fault.disk",
    "page-in from the disk, in random order",
    "The file is dropped from the page cache before; what the device itself keeps in memory is not "
    "known. Without read-ahead (MADV_RANDOM).",
)
@_figure(
    "fault.disk.sequential",
    "page-in from the disk, in order",
    "As fault.disk, with the kernel's read-ahead (MADV_SEQUENTIAL).",
)
def _disk(folder: Path) -> Figures | str:
    pages = np.random.default_rng().permutation(_COLD_PAGES)[:_RANDOM_TOUCHES]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
    random = _cold_ns(folder / _FILE, mmap.MADV_RANDOM, pages)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt - before
    if faults < _RANDOM_TOUCHES // 2:
        return (
            f"what is written to {folder.parent} stays in memory: the file system has no disk, or "
            "doesn't drop pages when it is told to"
        )
    in_order = _cold_ns(folder / _FILE, mmap.MADV_SEQUENTIAL, np.arange(_COLD_PAGES))
    return {"fault.disk": random, "fault.disk.sequential": in_order}


def _cold_ns(path: Path, advice: int, pages: NDArray[np.int64]) -> float:
    """The ns for a page of reading a word of each, while none is in memory."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    words = _mapped(path, _COLD_PAGES, advice)
    at = pages * WORDS_PER_PAGE
    return _seconds(lambda: int(words[at].sum())) * 1e9 / len(pages)


@_figure(
    "fill.4096",
    "page made by userfaultfd, 4 KiB at a time",
    "A ScratchMap with engine lazyfree, without fixups, touched in order: one page a fault.",
)
@_figure(
    "fill.65536",
    "page made by userfaultfd, 64 KiB at a time",
    "mapscratch.array with such blocks, nothing to decode: a page's share of a fault for 16.",
)
@_figure(
    "fill.2097152",
    "page made by userfaultfd, 2 MiB at a time",
    "mapscratch.array with such blocks, nothing to decode: a page's share of a fault for 512.",
)
def _fill(folder: Path) -> Figures | str:
    if reason := STRATEGIES["lazyfree"].unavailable():
        return reason
    path = folder / _FILE
    with ScratchMap(path, _PAGES * PAGESIZE, engine="lazyfree") as memory:
        words = np.frombuffer(memory, dtype=np.uint64)
        figures = {"fill.4096": _first_touch_ns(words[::WORDS_PER_PAGE])}
        del words
    for block, pages in _FILLS.items():
        array = mapscratch.array(path, "<u8", shape=pages * WORDS_PER_PAGE, block=block)
        words = np.asarray(array)[::WORDS_PER_PAGE]
        figures[f"fill.{block}"] = _first_touch_ns(words, max(_CHUNK, block // PAGESIZE))
        del words, array
    return figures


@_figure(
    "drop.lazyfree",
    "reclaim of a lazily freed page",
    "MADV_PAGEOUT on pages of engine lazyfree: the kernel drops them.",
)
def _drop_lazyfree(folder: Path) -> Figures | str:
    if reason := STRATEGIES["lazyfree"].unavailable():
        return reason
    with ScratchMap(folder / _FILE, _PAGES * PAGESIZE, engine="lazyfree") as memory:
        words = np.frombuffer(memory, dtype=np.uint64)
        words[::WORDS_PER_PAGE].sum()
        address = words.ctypes.data
        del words
        before = count_pages(address, _PAGES * PAGESIZE).present
        nanoseconds = page_ns(_PAGES, lambda part: memory.reclaim(*_bytes_of(part)))
        dropped = before - count_pages(address, _PAGES * PAGESIZE).present
    return {"drop.lazyfree": nanoseconds * _PAGES / dropped} if dropped else {}


@_figure(
    "drop.dontneed",
    "drop of a page by an engine, with madvise",
    "ScratchMap.drop with engine dontneed, pages stored to.",
)
def _drop_dontneed(folder: Path) -> Figures | str:
    with ScratchMap(folder / _FILE, _PAGES * PAGESIZE, engine="dontneed") as memory:
        np.frombuffer(memory, dtype=np.uint64)[::WORDS_PER_PAGE] = 1
        return {"drop.dontneed": page_ns(_PAGES, lambda part: memory.drop(*_bytes_of(part)))}


def _bytes_of(pages: slice) -> tuple[int, int]:
    """Offset and length."""
    return pages.start * PAGESIZE, (pages.stop - pages.start) * PAGESIZE


@_figure(
    "fork.page",
    "fork, for each page that was stored to",
    "Copying page tables: the difference to the same process with the mapping left out of the "
    "child. The copy-on-write faults that follow are not in it.",
)
def _fork(folder: Path) -> Figures | str:
    size = _FORKED_PAGES * PAGESIZE
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        np.frombuffer(memory, dtype=np.uint64)[::WORDS_PER_PAGE] = 1
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


def _mapped(path: Path, pages: int, advice: int = mmap.MADV_NORMAL) -> _Words:
    """The words of a private mapping of a file's first pages; unmapped with the last view."""
    with path.open("rb") as file:
        memory = mmap.mmap(file.fileno(), pages * PAGESIZE, access=mmap.ACCESS_COPY)
    memory.madvise(advice)
    return np.frombuffer(memory, dtype=np.uint64)


def _first_touch_ns(words: _Words, chunk: int = _CHUNK) -> float:
    """The ns of page faults of reading a word of each page, without what reading takes."""
    first = page_ns(len(words), lambda part: words[part].sum(), chunk)
    return first - page_ns(len(words), lambda part: words[part].sum(), chunk)


def first_store_ns(words: _Words) -> float:
    """The ns of page faults of storing to a word of each page, without what storing takes."""
    first = page_ns(len(words), lambda part: words[part].fill(1))
    return first - page_ns(len(words), lambda part: words[part].fill(2))


def page_ns(pages: int, step: Callable[[slice], object], chunk: int = _CHUNK) -> float:
    """The ns for a page of what the step does with some of them: the median over chunks.

    A chunk is shorter than the time that a busy machine gives a process at a stretch.
    """
    parts = [slice(at, min(at + chunk, pages)) for at in range(0, pages, chunk)]
    return statistics.median(
        _seconds(partial(step, part)) * 1e9 / (part.stop - part.start) for part in parts
    )


def _seconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start
