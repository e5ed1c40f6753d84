# SPDX-License-Identifier: Apache-2.0
"""A page's round trip by its number of fixups: rounds as `compare` makes them, on made files.

It takes the time of a page, more for each fixup on it, for each mapped page between that has none,
and for each mapping. The files differ in these, so that least squares tell them apart.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from mmap import PAGESIZE
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mapscratch.elf import FixupPlan
from mapscratch.lab.compare.rounds import run_round, swap_needed
from mapscratch.lab.cost.costs import Fit, Line, Point
from mapscratch.lab.cost.timers import WORDS_PER_PAGE, Figures, Heading, Timer, in_turn, real_words
from mapscratch.lab.oracle import ExpectedWord
from mapscratch.lab.rig.machine.swap import (
    SwapError,
    SwapKind,
    probe_temporary_swap,
    temporary_swap,
)
from mapscratch.lab.rig.results import Round, Settings, Spread, SwapDescription
from mapscratch.lab.rig.strategies import STRATEGIES
from mapscratch.lab.rig.surroundings import Announce, Surroundings, describe_swap
from mapscratch.lab.rig.workload import Workload, workload_of
from mapscratch.proc.cgroups import words

SWAP_NOTE = "Swap: "
"""How the note on the swaps begins."""
_PAGES = 512
"""With fixups, of a process."""
_ENGINES = tuple(name for name in STRATEGIES if name != "private")
_KINDS: tuple[SwapKind, ...] = ("file", "zram", "zswap")

_KNOWN = "Values that are known, 256 on a page: comparing, and storing."
_BY_THE_PAGER, _IN_MEMORY = "By the pager.", "In a page that is in memory and ours."
_FIXUPS = {
    "lazyfree": ("fixup.at_page_in", "fixup made at page-in", f"{_KNOWN} {_BY_THE_PAGER}"),
    "dontneed": ("fixup.word", "fixup healed word by word", f"{_KNOWN} {_IN_MEMORY}"),
}
"""Name, title and note, by the engine that makes them."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A file to measure with."""

    fixups: int  # on each page that has any
    pages: int = 64  # with fixups
    clean_run: int = 0  # after every so many of them so many without follow; 0: there are none

    def workload(self, folder: Path) -> Workload:
        """Writes the file, whose other words are of real libraries."""
        run = self.clean_run
        pages = np.array([page + (page // run * run if run else 0) for page in range(self.pages)])
        within = np.arange(self.fixups) * WORDS_PER_PAGE // self.fixups
        at = (pages[:, np.newaxis] * WORDS_PER_PAGE + within).ravel()
        content = real_words(int(pages[-1] + 1) * WORDS_PER_PAGE)
        content[at] = 0
        path = folder / f"round-trip-{self.fixups}-{self.pages}-{run}"
        path.write_bytes(content.tobytes())
        # Pointers to some place in it.
        constants = np.random.default_rng(0).integers(0, len(content), len(at)) * 8
        plan = FixupPlan(
            path=path,
            window_offset=0,
            window_length=content.nbytes,
            offsets=at.astype(np.uint64) * np.uint64(8),
            constants=constants.astype(np.uint64),
            definers=np.zeros(len(at), dtype=np.int32),
            pages=pages,
            page_size=PAGESIZE,
            library_count=1,
            kinds={"RELATIVE": len(at)},
            skipped={},
        )
        values = [ExpectedWord(value, 0) for value in constants.tolist()]
        expected = dict(zip(plan.offsets.tolist(), values, strict=True))
        return workload_of([plan], [expected], pages=_PAGES)


_DENSE = (Shape(1), Shape(64), Shape(256), Shape(512))
_SHAPES = (*_DENSE, Shape(256, clean_run=8), Shape(256, pages=8))
_OF_FIGURES = Shape(256)
"""What a fixup takes is told for this one."""

_Rounds = dict[Shape, Round]


class LineTimer(Timer):
    """Measures round trips, with temporary swaps or, without any, with the swap that is there."""

    def __init__(self, folder: Path, swaps: Sequence[SwapKind], announce: Announce) -> None:
        super().__init__(folder)
        self._swaps = list(dict.fromkeys(swaps))
        self._announce = announce
        self._workloads: dict[Shape, Workload] = {}
        self._there = ""  # The kind of the swap that is used as it is.
        self._compressors: dict[str, str] = {}
        # Read-ahead from swap as the logarithm of a number of pages; -1 if that can't be read.
        self._page_cluster = next(map(int, words(Path("/proc/sys/vm/page-cluster"))), -1)
        self._rounds: dict[str, list[_Rounds]] = {}

    def headings(self) -> list[Heading]:
        """Swapping out and in, and the fixups of round trips."""
        cluster = self._page_cluster
        ahead = f" (vm.page-cluster {cluster}: up to {1 << cluster} pages)" if cluster >= 0 else ""
        headings = [Heading(*one, "fixup") for one in _FIXUPS.values()]
        for kind in [*_KINDS, *({self._there} - {"", *_KINDS})]:
            how = self._compressors.get(kind)
            about = (
                "Pages in order, dense; the mean over libraries with 1 to 512 fixups a page, whose "
                f"other words are of real libraries.{f' Compressed by {how}.' if how else ''}"
            )
            came = f"The pages have left memory. With the kernel's read-ahead{ahead}. {about}"
            headings += [
                Heading(f"swap.{kind}.out", f"swap-out to {kind}", f"MADV_PAGEOUT. {about}"),
                Heading(f"swap.{kind}.in", f"swap-in from {kind}", came),
            ]
        return headings

    def notes(self) -> list[str]:
        """How the swaps compress, and what comes back with a page."""
        if not any(what.startswith("swap.") for what in self._rounds):
            return []
        parts = [f"{kind} by {how}" for kind, how in self._compressors.items()]
        told = [", ".join(parts).replace(" by ", " compresses by ", 1)] if parts else []
        if self._page_cluster >= 0:
            pages = 1 << self._page_cluster
            told.append(f"read-ahead of {f'{pages} pages' if pages > 1 else 'no other page'}")
        return [f"{SWAP_NOTE}{'; '.join(told)}."] if told else []

    def _measure(self, number: int) -> Figures:
        """One round for each file, strategy and swap."""
        found: dict[str, _Rounds] = {}
        engines = [name for name in _ENGINES if f"line.{name}" not in self.left_out]
        kinds: list[SwapKind | None] = [*in_turn(self._swaps, number)] or [None]
        for kind in kinds:
            with ExitStack() as stack:
                if kind:
                    try:
                        stack.enter_context(temporary_swap(kind, self._swap_size()))
                    except SwapError as error:
                        self._swaps.remove(kind)
                        self._leave_out(kind, str(error.strerror))
                        continue
                surroundings = Surroundings(describe_swap(temporary=bool(kind)), None)
                swap = kind or self._there
                self._find_compressor(swap, surroundings.swap)
                strategies = engines + ["private"] * bool(swap)
                turns = [(name, shape) for shape in _SHAPES for name in strategies]
                for name, shape in in_turn(turns, number * 7):
                    workload, strategy = self._workloads[shape], STRATEGIES[name]
                    line = f"swap.{swap}" if name == "private" else name
                    done = run_round(workload, strategy, 1, number, surroundings)
                    found.setdefault(line, {})[shape] = done
            # They don't swap: once is enough, in whatever swap comes first.
            engines = []
        for line, rounds in found.items():
            self._rounds.setdefault(line, []).append(rounds)
        return _figures(found)

    def lines(self) -> list[Line]:
        """What was found; asked in the end."""
        found = []
        for what, rounds in sorted(self._rounds.items()):
            trips = [
                {shape: one.round_trip_us for shape, one in shapes.items() if one.round_trip_us}
                for shapes in rounds
            ]
            complete = [one for one in trips if len(one) == len(_SHAPES)]
            if complete:
                fixups = "none" if what.startswith("swap.") else "known values"
                fits = tuple(self._fit(one) for one in complete)
                points = tuple(self._point(shape, complete) for shape in _SHAPES)
                cpu_us = Spread.of(_mean(one.cpu_us for one in each.values()) for each in rounds)
                layouts = tuple(regressors(self._workloads[shape])[1:] for shape in _SHAPES)
                found.append(Line(what, fixups, fits, points, layouts, cpu_us))
            else:
                self.left_out[f"line.{what}"] = "pages didn't leave memory"
        return found

    def _fit(self, trips: dict[Shape, float]) -> Fit:
        rows = np.array([[1.0, *regressors(self._workloads[shape])] for shape in trips])
        page, fixup, clean, mapping = _least_squares(rows, np.array(list(trips.values())))
        return Fit(page, fixup * 1e3, clean, mapping)

    def _point(self, shape: Shape, rounds: Sequence[dict[Shape, float]]) -> Point:
        spread = Spread.of(trips[shape] for trips in rounds)
        assert spread
        fixups, *_ = regressors(self._workloads[shape])
        return Point(fixups, spread.median, spread.minimum, spread.maximum)

    def _prepare(self) -> None:
        self._workloads = {shape: shape.workload(self.folder) for shape in _SHAPES}
        for name in _ENGINES:
            if reason := STRATEGIES[name].unavailable():
                self.left_out[f"line.{name}"] = reason
                if name in _FIXUPS:
                    self.left_out[_FIXUPS[name][0]] = reason
        there = describe_swap()
        if not self._swaps and there.kind != "none":
            self._there = "zswap" if there.zswap and there.kind != "zram" else there.kind
        for kind in _KINDS:
            if kind in self._swaps:
                self._announce_swap(kind)
            elif kind != self._there:
                self._leave_out(kind, "it is not there, and was not asked for")

    def _announce_swap(self, kind: SwapKind) -> None:
        size = self._swap_size()
        probe = probe_temporary_swap(kind, size)
        if probe:
            self._announce(
                f"Swap: for this run {probe.reason} of {size >> 20} MiB is made in each round, "
                "and removed."
            )
        else:
            self._swaps.remove(kind)
            self._leave_out(kind, probe.reason)

    def _find_compressor(self, kind: str, swap: SwapDescription) -> None:
        found: list[str] = []
        if kind == "zswap":
            found = words(Path("/sys/module/zswap/parameters/compressor"))
        elif kind == "zram":
            names = words(Path("/sys/block", Path(swap.path).name, "comp_algorithm"))
            # The one in brackets is taken.
            found = [name.strip("[]") for name in names if name.startswith("[")]
        if found:
            self._compressors[kind] = found[0]

    def _leave_out(self, kind: str, reason: str) -> None:
        names = (f"swap.{kind}.out", f"swap.{kind}.in", f"line.swap.{kind}")
        self.left_out |= dict.fromkeys(names, reason)

    def _swap_size(self) -> int:
        settings = Settings((1,), 1, 0.0, ("private",), "pageout", "none", _PAGES)
        return max(swap_needed(workload, settings) for workload in self._workloads.values())


def _mean(values: Iterable[float | None]) -> float | None:
    """Of those that are known."""
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None


def regressors(workload: Workload) -> tuple[float, float, float]:
    """What a `Line` predicts from: fixups, clean pages and mappings for a page with fixups."""
    clean = workload.mapped_pages - workload.pages
    mappings = workload.copies * len(workload.libraries)
    return workload.fixups / workload.pages, clean / workload.pages, mappings / workload.pages


def _least_squares(rows: NDArray[np.float64], values: NDArray[np.float64]) -> list[float]:
    """The coefficients of a page, a fixup, a clean page and a mapping.

    Errors count by their size, not relative to what was measured: that would have what was
    disturbed count less than what was not, and predict too little. More pages and mappings take no
    less time: where noise says so, they count for nothing.
    """
    columns = [0, 1, 2, 3]
    while True:
        found = np.linalg.lstsq(rows[:, columns], values, rcond=None)[0]
        coefficients = dict(zip(columns, found.tolist(), strict=True))
        negative = [at for at in (2, 3) if coefficients.get(at, 0.0) < 0]
        if not negative:
            return [coefficients.get(at, 0.0) for at in range(4)]
        columns.remove(min(negative, key=coefficients.__getitem__))


def _figures(found: dict[str, _Rounds]) -> Figures:
    figures: dict[str, float | None] = {}
    for what, rounds in found.items():
        if what.startswith("swap."):
            dense = [rounds[shape] for shape in _DENSE]
            for way, name in (("out", "reclaim_us"), ("in", "page_in_us")):
                us = _mean(getattr(one, name) for one in dense)
                figures[f"{what}.{way}"] = us and us * 1e3
        elif what in _FIXUPS:
            figures[_FIXUPS[what][0]] = rounds[_OF_FIGURES].fixup_ns
    return {name: value for name, value in figures.items() if value is not None}
