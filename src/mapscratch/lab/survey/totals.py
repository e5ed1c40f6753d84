# SPDX-License-Identifier: Apache-2.0
"""What a survey comes to: sums over all of it, and in which order it is told."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from mapscratch.elf import FixupsPerPage, LibrarySurvey, fixups_per_page
from mapscratch.lab.survey.processes import ProcessSurvey
from mapscratch.lab.survey.take import Census

Order = Literal["dirtied", "saved", "fixups", "name"]
ORDERS: tuple[Order, ...] = get_args(Order)

LARGEST = 10
"""So many libraries are told apart from the others."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over a census.

    Attributes:
        libraries: how many.
        fixups: of all of them.
        dirtied_pages: pages that relocation dirties in a process that loads all of them.
        saved_pages: of these, what `mapscratch run` saves.
        plt_pages: of the dirtied ones, what holds slots of PLT entries, with others or alone.
        text_pages: what conversion takes: pages of text that its entries dirty, and that the kernel
            may drop.
        bind_now_or_no_plt_share: the share of libraries that are bound at load or have no PLT.
        fixups_per_page: over all pages of all libraries.
        largest_share: of the dirtied pages, how many are of the `LARGEST` libraries: 0 to 1.
        library_median: fixups a page in the median, of the library in the middle.
        library_symbolic_share: of its fixups, how many look up a symbol, of the library in the
            middle: 0 to 1.
        processes: how many.
        relocated_pages: private copies of relocated pages in all of them.
        relocated_pss_bytes: the same, what forked processes share counted once.
        saved_pages_in_processes: of the relocated pages, what `mapscratch run` would save.
    """

    libraries: int
    fixups: int
    dirtied_pages: int
    saved_pages: int
    plt_pages: int
    text_pages: int
    bind_now_or_no_plt_share: float
    fixups_per_page: FixupsPerPage
    largest_share: float
    library_median: float
    library_symbolic_share: float
    processes: int
    relocated_pages: int
    relocated_pss_bytes: int
    saved_pages_in_processes: int


def totals(census: Census) -> Totals:
    """Sum up a census."""
    libraries, processes = census.libraries, census.processes
    pages = [library.pages.fixups for library in libraries]
    bound = sum(library.bind_mode != "lazy" for library in libraries)
    dirtied = sorted((library.dirtied_pages for library in libraries), reverse=True)
    fixed_up = [library for library in libraries if library.fixups]
    symbolic = [
        (library.kinds["symbolic"] + library.kinds["JUMP_SLOT"]) / library.fixups
        for library in fixed_up
    ]
    return Totals(
        libraries=len(libraries),
        fixups=sum(library.fixups for library in libraries),
        dirtied_pages=sum(library.dirtied_pages for library in libraries),
        saved_pages=sum(library.saved_pages for library in libraries),
        plt_pages=sum(library.plt_pages for library in libraries),
        text_pages=sum(library.text_pages for library in libraries),
        bind_now_or_no_plt_share=bound / len(libraries) if libraries else 0.0,
        fixups_per_page=fixups_per_page(np.concatenate(pages or [np.empty(0, dtype=np.int64)])),
        largest_share=sum(dirtied[:LARGEST]) / max(1, sum(dirtied)),
        library_median=statistics.median(
            [library.fixups_per_page.median for library in fixed_up] or [0.0]
        ),
        library_symbolic_share=statistics.median(symbolic or [0.0]),
        processes=len(processes),
        relocated_pages=sum(process.relocated_pages for process in processes),
        relocated_pss_bytes=sum(process.relocated_pss_bytes for process in processes),
        saved_pages_in_processes=sum(process.saved_pages for process in processes),
    )


def sorted_libraries(census: Census, order: Order) -> list[LibrarySurvey]:
    """The largest first, or by name; what is equal by path."""
    keys: dict[Order, Callable[[LibrarySurvey], Any]] = {
        "dirtied": lambda one: -one.dirtied_pages,
        "saved": lambda one: -one.saved_pages,
        "fixups": lambda one: -one.fixups,
        "name": lambda one: one.path.name,
    }
    return sorted(census.libraries, key=lambda one: (keys[order](one), one.path))


def sorted_processes(census: Census, order: Order) -> list[ProcessSurvey]:
    """The same for processes, whose fixups are not counted: they go by pages."""
    keys: dict[Order, Callable[[ProcessSurvey], Any]] = {
        "dirtied": lambda one: -one.relocated_pages,
        "saved": lambda one: -one.saved_pages,
        "fixups": lambda one: -one.relocated_pages,
        "name": lambda one: one.command,
    }
    return sorted(census.processes, key=lambda one: (keys[order](one), one.pid))
