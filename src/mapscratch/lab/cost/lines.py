# SPDX-License-Identifier: Apache-2.0
"""A page's round trip by its number of fixups: rounds as `compare` makes them, on made libraries.

It takes the time of a page, more for each fixup on it, for each mapped page between that has none,
and for each mapping. The libraries differ in these, so that least squares tell them apart.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mapscratch.elf import link, relocations
from mapscratch.lab.compare.rounds import run_round, swap_needed
from mapscratch.lab.cost.costs import Fit, Line, Point
from mapscratch.lab.cost.generated import (
    WORDS_PER_PAGE,
    Contents,
    relative_words,
    spread_words,
    write_library,
)
from mapscratch.lab.cost.timers import Figures, Heading, Timer, real_words
from mapscratch.lab.oracle import ExpectedWord
from mapscratch.lab.rig.machine import SwapError, SwapKind, probe_temporary_swap, temporary_swap
from mapscratch.lab.rig.results import Round, Settings, Spread, SwapDescription
from mapscratch.lab.rig.strategies import STRATEGIES
from mapscratch.lab.rig.surroundings import Announce, Surroundings, describe_swap
from mapscratch.lab.rig.workload import Workload, workload_of

SWAP_NOTE = "Swap: "
"""How the note on the swaps begins."""
_PAGES = 512
"""With fixups, of a process."""
_ENGINES = tuple(name for name in STRATEGIES if name != "private")
_KINDS: tuple[SwapKind, ...] = ("file", "zram", "zswap")


@dataclass(frozen=True, slots=True)
class Shape:
    """A library that is made to be measured with.

    Attributes:
        fixups: on each page that has any.
        pages: with fixups.
        clean_run: pages without, after every so many pages with; 0: there are none.
    """

    fixups: int
    pages: int = 64
    clean_run: int = 0

    @property
    def name(self) -> str:
        """Of its file."""
        return f"round-trip-{self.fixups}-{self.pages}-{self.clean_run}.so"


_SHAPES = (
    Shape(1),
    Shape(64),
    Shape(256),
    Shape(512),
    Shape(256, clean_run=8),
    Shape(256, pages=8),
)
_OF_FIGURES = Shape(256)
"""What a fixup takes is told for this one."""


class LineTimer(Timer):
    """Measures round trips.

    Args:
        folder: where the libraries go.
        swaps: temporary ones to make; none: what is there is used.
        announce: is told what is about to be changed on the machine.
    """

    def __init__(self, folder: Path, swaps: Sequence[SwapKind], announce: Announce) -> None:
        super().__init__()
        self._folder = folder
        self._swaps = tuple(dict.fromkeys(swaps))
        self._announce = announce
        self._workloads: dict[Shape, Workload] = {}
        self._there = ""
        self._compressors: dict[str, str] = {}
        self._read_ahead = _page_cluster()
        self._rounds: dict[str, list[dict[Shape, Round]]] = {}

    def headings(self) -> list[Heading]:
        """Swapping out and in, and the fixups of round trips."""
        known = "Values that are known, 256 on a page: comparing, and storing."
        headings = [
            Heading("fixup.at_page_in", "fixup made at page-in", "fixup", known + " By the pager."),
            Heading(
                "fixup.word",
                "fixup healed word by word",
                "fixup",
                known + " In a page that is in memory and ours.",
            ),
        ]
        cluster = self._read_ahead
        ahead = f" (vm.page-cluster {cluster}: up to {1 << cluster} pages)" if cluster >= 0 else ""
        for kind in self._kinds():
            about = (
                "Pages in order, dense; the mean over libraries with 1 to 512 fixups a page, whose "
                "other words are of real libraries."
            )
            if kind in self._compressors:
                about += f" Compressed by {self._compressors[kind]}."
            headings += [
                Heading(
                    f"swap.{kind}.out", f"swap-out to {kind}", "page", f"MADV_PAGEOUT. {about}"
                ),
                Heading(
                    f"swap.{kind}.in",
                    f"swap-in from {kind}",
                    "page",
                    f"The pages have left memory. With the kernel's read-ahead{ahead}. {about}",
                ),
            ]
        return headings

    def notes(self) -> list[str]:
        """How the swaps compress, and what comes back with a page."""
        parts = [f"{kind} by {how}" for kind, how in self._compressors.items()]
        swapped = any(what.startswith("swap.") for what in self._rounds)
        if not swapped:
            return []
        cluster = self._read_ahead
        pages = f"{1 << cluster} pages" if cluster else "no other page"
        ahead = [f"read-ahead of {pages}"] if cluster >= 0 else []
        first = ", ".join(parts).replace(" by ", " compresses by ", 1)
        told = "; ".join([first] * bool(parts) + ahead)
        return [f"{SWAP_NOTE}{told}."] if told else []

    def once(self, number: int) -> Figures:
        """One round for each library, strategy and swap."""
        if not self._workloads:
            self._prepare()
        found: dict[str, dict[Shape, Round]] = {}
        first = number % max(len(self._swaps), 1)
        engines = [name for name in _ENGINES if f"line.{name}" not in self.left_out]
        for kind in (*self._swaps[first:], *self._swaps[:first]) or (None,):
            with ExitStack() as stack:
                try:
                    surroundings = stack.enter_context(self._swap(kind))
                except SwapError as error:
                    assert kind
                    self._swaps = tuple(other for other in self._swaps if other != kind)
                    self._leave_out(kind, str(error.strerror))
                    continue
                swap = kind or self._there
                self._find_compressor(swap, surroundings.swap)
                strategies = engines + ["private"] * bool(swap)
                turns = [(name, shape) for shape in _SHAPES for name in strategies]
                start = number * 7 % max(len(turns), 1)
                for name, shape in turns[start:] + turns[:start]:
                    line = f"swap.{swap}" if name == "private" else name
                    found.setdefault(line, {})[shape] = run_round(
                        self._workloads[shape],
                        STRATEGIES[name],
                        1,
                        number,
                        surroundings,
                        squeezed=False,
                    )
            # They don't swap: once is enough, in whatever swap comes first.
            engines = []
        for line, rounds in found.items():
            self._rounds.setdefault(line, []).append(rounds)
        return _figures(found)

    def lines(self) -> list[Line]:
        """What was found; asked in the end."""
        lines = []
        for what, rounds in sorted(self._rounds.items()):
            complete = [trips for trips in map(_trips, rounds) if len(trips) == len(_SHAPES)]
            if not complete:
                self.left_out[f"line.{what}"] = "pages didn't leave memory"
                continue
            lines.append(
                Line(
                    what=what,
                    fixups="none" if what.startswith("swap.") else "known values",
                    fits=tuple(self._fit(trips) for trips in complete),
                    points=tuple(self._point(shape, complete) for shape in _SHAPES),
                    cpu_us=Spread.of(map(_cpu_us, rounds)),
                )
            )
        return lines

    def _fit(self, trips: dict[Shape, float]) -> Fit:
        rows = np.array([[1.0, *regressors(self._workloads[shape])] for shape in trips])
        values = np.array(list(trips.values()))
        page, fixup, clean, mapping = _least_squares(rows, values)
        return Fit(page, fixup * 1e3, clean, mapping)

    def _point(self, shape: Shape, rounds: Sequence[dict[Shape, float]]) -> Point:
        spread = Spread.of([trips[shape] for trips in rounds])
        assert spread
        return Point(*regressors(self._workloads[shape]), spread)

    def _prepare(self) -> None:
        filler = real_words(2 * _PAGES * WORDS_PER_PAGE)
        for shape in _SHAPES:
            self._workloads[shape] = shape_workload(self._folder, shape, filler, _PAGES)
        for name in _ENGINES:
            if reason := STRATEGIES[name].unavailable():
                self.left_out[f"line.{name}"] = reason
        if "line.lazyfree" in self.left_out:
            self.left_out["fixup.at_page_in"] = self.left_out["line.lazyfree"]
        if not self._swaps:
            self._there = _kind_of(describe_swap())
        usable = []
        for kind in self._swaps:
            probe = probe_temporary_swap(kind, self._swap_size())
            if probe:
                usable.append(kind)
                self._announce(
                    f"Swap: for this run {probe.reason} of {self._swap_size() >> 20} MiB is made "
                    "in each round, and removed."
                )
            else:
                self._leave_out(kind, probe.reason)
        for kind in _KINDS:
            if kind not in self._swaps and kind != self._there:
                self._leave_out(kind, "it is not there, and was not asked for")
        self._swaps = tuple(usable)

    def _find_compressor(self, kind: str, swap: SwapDescription) -> None:
        if kind == "zswap":
            found = _text("/sys/module/zswap/parameters/compressor")
        elif kind == "zram":
            # The one in brackets is taken.
            names = _text(f"/sys/block/{Path(swap.path).name}/comp_algorithm")
            found = names.partition("[")[2].partition("]")[0]
        else:
            found = ""
        if found:
            self._compressors[kind] = found

    def _leave_out(self, kind: str, reason: str) -> None:
        names = (f"swap.{kind}.out", f"swap.{kind}.in", f"line.swap.{kind}")
        self.left_out |= dict.fromkeys(names, reason)

    def _kinds(self) -> list[str]:
        return [*_KINDS, *({self._there} - {"", *_KINDS})]

    def _swap_size(self) -> int:
        settings = Settings((1,), 1, 0.0, ("private",), "pageout", "none", _PAGES)
        return max(swap_needed(workload, settings) for workload in self._workloads.values())

    @contextmanager
    def _swap(self, kind: SwapKind | None) -> Iterator[Surroundings]:
        if kind is None:
            yield Surroundings(describe_swap(), None)
            return
        with temporary_swap(kind, self._swap_size()):
            yield Surroundings(describe_swap(temporary=True), None)


def _page_cluster() -> int:
    """Read-ahead from swap as the logarithm of a number of pages; -1 if that can't be read."""
    found = _text("/proc/sys/vm/page-cluster")
    return int(found) if found.isdecimal() else -1


def _text(path: str) -> str:
    """What the kernel says there; empty if it says nothing."""
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _trips(of_round: dict[Shape, Round]) -> dict[Shape, float]:
    return {shape: one.round_trip_us for shape, one in of_round.items() if one.round_trip_us}


def _cpu_us(of_round: dict[Shape, Round]) -> float | None:
    known = [one.cpu_us for one in of_round.values() if one.cpu_us is not None]
    return statistics.mean(known) if known else None


def regressors(workload: Workload) -> tuple[float, float, float]:
    """What a `Line` predicts a workload's round trip from.

    Returns:
        fixups, mapped pages without fixups, and mappings, each for a page with fixups.
    """
    mappings = workload.copies * len(workload.libraries)
    return (
        workload.fixups / workload.pages,
        (workload.mapped_pages - workload.pages) / workload.pages,
        mappings / workload.pages,
    )


def shape_workload(folder: Path, shape: Shape, filler: NDArray[np.uint64], pages: int) -> Workload:
    """Writes a library and takes it for a workload.

    Args:
        folder: where it goes.
        shape: what it is like.
        filler: its other words.
        pages: with fixups of a process, at least, by mapping it repeatedly.

    Raises:
        OSError: it can't be written.
    """
    run = shape.clean_run
    with_fixups = [page + (page // run * run if run else 0) for page in range(shape.pages)]
    contents = Contents(
        shape.name,
        pages=with_fixups[-1] + 1,
        relative=spread_words(with_fixups, shape.fixups),
        filler=filler,
    )
    path = write_library(folder, contents)
    words = {at: ExpectedWord(value, 0) for at, value in relative_words(contents).items()}
    return workload_of(link([relocations(path)]), [words], pages=pages)


def _least_squares(rows: NDArray[np.float64], values: NDArray[np.float64]) -> list[float]:
    """The coefficients of a page, a fixup, a clean page and a mapping.

    Errors count by their size, not relative to what was measured: that would have what was
    disturbed count less than what was not, and predict too little. More pages and mappings take no
    less time: where noise says so, they count for nothing.
    """
    columns = [0, 1, 2, 3]
    while True:
        found = np.linalg.lstsq(rows[:, columns], values, rcond=None)[0]
        negative = [at for at in (2, 3) if at in columns and found[columns.index(at)] < 0]
        if not negative:
            break
        columns.remove(min(negative, key=lambda at: float(found[columns.index(at)])))
    coefficients = np.zeros(rows.shape[1])
    coefficients[columns] = found
    return [float(one) for one in coefficients]


def _kind_of(swap: SwapDescription) -> str:
    """The swap that is there, by the name of its line; empty if there is none."""
    if swap.kind == "none":
        return ""
    return "zswap" if swap.zswap and swap.kind != "zram" else swap.kind


def _figures(found: dict[str, dict[Shape, Round]]) -> Figures:
    figures: Figures = {}
    for what, rounds in found.items():
        if what.startswith("swap."):
            dense = [
                rounds[shape] for shape in _SHAPES if shape.pages == 64 and not shape.clean_run
            ]
            for name, values in (
                (f"{what}.out", [one.reclaim_us for one in dense]),
                (f"{what}.in", [one.page_in_us for one in dense]),
            ):
                known = [value for value in values if value is not None]
                if known:
                    figures[name] = statistics.mean(known) * 1e3
    for what, name in (("lazyfree", "fixup.at_page_in"), ("dontneed", "fixup.word")):
        if what in found:
            value = found[what][_OF_FIGURES].fixup_ns
            if value is not None:
                figures[name] = value
    return figures
