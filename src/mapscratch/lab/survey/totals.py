# SPDX-License-Identifier: Apache-2.0
"""What a survey comes to: sums over all of it, and in which order it is told."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mapscratch.elf import FixupsPerPage, LibrarySurvey, fixups_per_page
from mapscratch.lab.survey.census import Census, ProcessSurvey

LARGEST = 10
"""So many libraries are told apart from the others."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over a census; pages, as far as they are not of processes, are of all libraries."""

    libraries: int
    fixups: int
    dirtied_pages: int
    saved_pages: int
    plt_pages: int  # with slots of PLT entries, with others or alone
    text_pages: int  # what conversion takes: of text that entries dirty, and that may be dropped
    bind_now_or_no_plt_share: float  # of the libraries: 0 to 1
    fixups_per_page: FixupsPerPage
    pages_by_fixups: list[tuple[int, int]]  # a number of fixups, and how many pages have so many
    window_pages: int  # of each library from the first to the last that relocation dirties
    largest_share: float  # of the dirtied pages, those of the `LARGEST` libraries: 0 to 1
    library_median: float  # fixups a page in the median, of the library in the middle
    library_symbolic_share: float  # of its fixups, those that look up a symbol: 0 to 1
    processes: int
    relocated_pages: int
    relocated_pss_bytes: int
    saved_pages_in_processes: int


def totals(census: Census) -> Totals:
    """Sum up a census."""
    libraries, processes = census.libraries, census.processes

    def summed(name: str, of: tuple[Any, ...] = libraries) -> int:
        return sum(getattr(one, name) for one in of)

    pages = np.concatenate(
        [np.empty(0, dtype=np.int64), *(library.pages.fixups for library in libraries)]
    )
    counted = np.bincount(pages)
    fixups = np.flatnonzero(counted)
    numbers = [library.pages.numbers for library in libraries if library.dirtied_pages]
    bound = sum(library.bind_mode != "lazy" for library in libraries)
    dirtied = sorted((library.dirtied_pages for library in libraries), reverse=True)
    fixed_up = [library for library in libraries if library.fixups]
    medians = [library.fixups_per_page.median for library in fixed_up]
    symbolic = [
        (library.kinds["symbolic"] + library.kinds["JUMP_SLOT"]) / library.fixups
        for library in fixed_up
    ]
    return Totals(
        libraries=len(libraries),
        fixups=summed("fixups"),
        dirtied_pages=sum(dirtied),
        saved_pages=summed("saved_pages"),
        plt_pages=summed("plt_pages"),
        text_pages=summed("text_pages"),
        bind_now_or_no_plt_share=bound / max(1, len(libraries)),
        fixups_per_page=fixups_per_page(pages),
        pages_by_fixups=list(zip(fixups.tolist(), counted[fixups].tolist(), strict=True)),
        window_pages=sum(int(one[-1] - one[0]) + 1 for one in numbers),
        largest_share=sum(dirtied[:LARGEST]) / max(1, sum(dirtied)),
        library_median=statistics.median(medians or [0.0]),
        library_symbolic_share=statistics.median(symbolic or [0.0]),
        processes=len(processes),
        relocated_pages=summed("relocated_pages", processes),
        relocated_pss_bytes=summed("relocated_pss_bytes", processes),
        saved_pages_in_processes=summed("saved_pages", processes),
    )


_KEYS: dict[str, tuple[Callable[[LibrarySurvey], Any], Callable[[ProcessSurvey], Any]]] = {
    "dirtied": (lambda one: -one.dirtied_pages, lambda one: -one.relocated_pages),
    "saved": (lambda one: -one.saved_pages, lambda one: -one.saved_pages),
    # The fixups of processes are not counted: they go by pages.
    "fixups": (lambda one: -one.fixups, lambda one: -one.relocated_pages),
    "name": (lambda one: one.path.name, lambda one: one.command),
}
ORDERS = tuple(_KEYS)


def in_order(census: Census, order: str) -> Census:
    """Libraries and processes by one of `ORDERS`; what is equal by path or number."""
    of_library, of_process = _KEYS[order]
    return replace(
        census,
        libraries=tuple(sorted(census.libraries, key=lambda one: (of_library(one), one.path))),
        processes=tuple(sorted(census.processes, key=lambda one: (of_process(one), one.pid))),
    )
