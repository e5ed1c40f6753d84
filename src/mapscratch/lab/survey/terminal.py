# SPDX-License-Identifier: Apache-2.0
"""A survey as a document for programs, as a table of values, and in the terminal.

Wherever it is told what relocation dirties, it is told beside it what `mapscratch run` saves of it.
"""

from __future__ import annotations

import csv
import io
import os
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from mapscratch.documents import Document, document_head
from mapscratch.elf import FixupsPerPage, LibrarySurvey, fixups_per_page
from mapscratch.elf.headers import PAGE
from mapscratch.elf.survey import KINDS
from mapscratch.lab.survey.processes import HeldFile, ProcessSurvey
from mapscratch.lab.survey.take import Census
from mapscratch.lab.tables import Column, print_table
from mapscratch.text import counted, size

if TYPE_CHECKING:
    from rich.console import Console

NAME = "mapscratch.survey"
VERSION = 1

Order = Literal["dirtied", "saved", "fixups", "name"]
ORDERS: tuple[Order, ...] = get_args(Order)

LARGEST = 10
"""So many libraries are told apart from the others."""

_MEBIBYTE = 1 << 20
_BAR_COLUMNS = 30
_LONGEST_SKIPPED_LIST = 5


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


# --- for programs -------------------------------------------------------------------------------


def survey_document(
    census: Census,
    created: datetime,
    *,
    processes: int | None = None,
    order: Order = "dirtied",
) -> Document:
    """The document of a survey: nothing but what JSON has.

    Args:
        census: what was found.
        created: when, with a time zone.
        processes: adds the totals of so many processes that load all of the libraries.
        order: of libraries and processes.
    """
    whole = totals(census)
    document: Document = {
        **document_head(NAME, VERSION, created),
        "seconds": census.seconds,
        "libraries": [library_document(one) for one in sorted_libraries(census, order)],
        "skipped": [{"path": str(one.path), "reason": one.reason} for one in census.skipped],
        "processes": [_process_document(one) for one in sorted_processes(census, order)],
        "totals": {
            **asdict(whole),
            "fixups_per_page": _per_page(whole.fixups_per_page),
            "pages_by_fixups": _pages_by_fixups(census),
            "window_pages": sum(_window_pages(library) for library in census.libraries),
        },
    }
    if processes is not None:
        document["totals"]["for_processes"] = {
            "processes": processes,
            "dirtied_pages": whole.dirtied_pages * processes,
            "saved_pages": whole.saved_pages * processes,
        }
    return document


def library_document(library: LibrarySurvey) -> Document:
    """One library of a survey document."""
    return {
        "path": str(library.path),
        "file_size": library.file_size,
        "machine": library.machine,
        "build_id": library.build_id,
        "soname": library.soname,
        "bind_now": library.bind_now,
        "bind_mode": library.bind_mode,
        "kinds": dict(library.kinds),
        "fixups": library.fixups,
        "dirtied_pages": library.dirtied_pages,
        "saved_pages": library.saved_pages,
        "convertible": library.convertible,
        "not_convertible_because": library.not_convertible_because,
        "text_pages": library.text_pages,
        "fixups_per_page": _per_page(library.fixups_per_page),
        "relro_pages": library.relro_pages,
        "relro_dirtied_pages": library.relro_dirtied_pages,
        "plt_entries": library.plt_entries,
        "plt_pages": library.plt_pages,
    }


def _per_page(found: FixupsPerPage) -> Document:
    return {
        "median": found.median,
        "p95": found.p95,
        "maximum": found.maximum,
        "mean": found.mean,
        "histogram": [list(one) for one in found.histogram],
    }


def _window_pages(library: LibrarySurvey) -> int:
    """Pages from the first to the last that relocation dirties; 0 if there is none."""
    numbers = library.pages.numbers
    return int(numbers[-1] - numbers[0]) + 1 if len(numbers) else 0


def _pages_by_fixups(census: Census) -> list[list[int]]:
    """For each number of fixups that a page has: the number, and how many pages have so many."""
    pages = [library.pages.fixups for library in census.libraries]
    counted = np.bincount(np.concatenate(pages or [np.empty(0, dtype=np.int64)]))
    return [[int(number), int(counted[number])] for number in np.flatnonzero(counted)]


def _process_document(process: ProcessSurvey) -> Document:
    document: Document = asdict(process)
    del document["files"]
    document["libraries"] = [_held(one) for one in process.files]
    return document


def _held(held: HeldFile) -> Document:
    return {**asdict(held), "path": str(held.path)}


def survey_csv(census: Census, order: Order = "dirtied") -> str:
    """A line for each process if there are any, or else for each library; the first names columns.

    Nested figures have names such as ``kinds.RELATIVE``; lists are left to JSON.
    """
    if census.wanted.has_processes:
        rows = [_flat(_process_document(one)) for one in sorted_processes(census, order)]
    else:
        rows = [_flat(library_document(one)) for one in sorted_libraries(census, order)]
    output = io.StringIO()
    writer = csv.DictWriter(output, fieldnames=list(rows[0]) if rows else [])
    writer.writeheader()
    writer.writerows(rows)
    return output.getvalue()


def _flat(document: Document, prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, dict):
            result.update(_flat(value, f"{prefix}{name}."))
        elif not isinstance(value, list):
            result[prefix + name] = value
    return result


# --- order --------------------------------------------------------------------------------------


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


# --- in the terminal ----------------------------------------------------------------------------


def print_survey(
    console: Console,
    census: Census,
    *,
    processes: int,
    order: Order = "dirtied",
    top: int | None = None,
) -> None:
    """Print tables, the histogram, totals, and the answer last.

    Args:
        console: where to.
        census: what was found.
        processes: for how many processes to multiply.
        order: of the tables.
        top: how many lines of a table; None for all.
    """
    whole = totals(census)
    if census.processes:
        found = sorted_processes(census, order)
        _print_processes(console, found[:top])
        _print_rest(console, len(found) - len(found[:top]), "processes")
        console.print()
    if census.libraries:
        libraries = sorted_libraries(census, order)
        _print_libraries(console, libraries[:top])
        _print_rest(console, len(libraries) - len(libraries[:top]), "libraries")
        console.print()
        console.print("Fixups a page, over all pages that relocation dirties:")
        for line in _histogram(console, whole.fixups_per_page):
            console.print(line)
        console.print()
        console.print(_kinds_line(census.libraries))
    _print_skipped(console, census)
    for line in _total_lines(census, whole, processes):
        console.print(line)
    console.print()
    console.print(answer(whole))


def answer(whole: Totals) -> str:
    """A sentence or two: how many fixups a page, and how much of them is code's."""
    if not whole.dirtied_pages:
        return "Relocation dirties no page of what was surveyed."
    pages = whole.fixups_per_page
    return (
        f"A page that relocation dirties has {pages.median:,.0f} fixups in the median and "
        f"{pages.mean:,.0f} on average.{_by_library(whole)} PLT slots are on "
        f"{_share(whole.plt_pages, whole)} of these pages; {_share(whole.saved_pages, whole)} hold "
        "nothing else and are saved by `mapscratch run`; what dirties the others is data. "
        f"{_bound(whole)}"
    )


def _bound(whole: Totals) -> str:
    if whole.libraries == 1:
        is_bound = whole.bind_now_or_no_plt_share
        return f"The library {'is bound at load or has no PLT' if is_bound else 'is bound lazily'}."
    return (
        f"{whole.bind_now_or_no_plt_share:.0%} of {whole.libraries:,} libraries are bound at load "
        "or have no PLT."
    )


def _by_library(whole: Totals) -> str:
    """That large libraries have most of the pages; nothing where there are few."""
    if whole.libraries <= 2 * LARGEST:
        return ""
    return (
        f" {LARGEST} libraries have {whole.largest_share:.0%} of these pages; the library in the "
        f"middle has {whole.library_median:,.0f} fixups a page, and "
        f"{whole.library_symbolic_share:.0%} of its fixups look up a symbol."
    )


def _share(part: int, whole: Totals) -> str:
    share = part / whole.dirtied_pages
    return f"{share:.0%}" if share >= 0.1 or not share else f"{share:.1%}"


def _total_lines(census: Census, whole: Totals, processes: int) -> Iterator[str]:
    if whole.libraries:
        text = (
            f" Its entries take up to {_pages(whole.text_pages)} of text instead, which may be "
            "dropped."
        )
        yield (
            f"{counted(whole.libraries, 'library', 'libraries')}: "
            f"{counted(whole.fixups, 'fixup', 'fixups')}; saved {_pages(whole.saved_pages)} of "
            f"{_pages(whole.dirtied_pages)} dirtied, for each process that loads all of it."
            f"{text if whole.text_pages else ''}"
        )
    if census.wanted.has_files:
        yield (
            f"For {counted(processes, 'process', 'processes')}: saved "
            f"{size(whole.saved_pages * processes * PAGE)} of "
            f"{size(whole.dirtied_pages * processes * PAGE)} dirtied."
        )
    if whole.processes:
        each = statistics.median(process.relocated_pages for process in census.processes)
        yield (
            f"{counted(whole.processes, 'process holds', 'processes hold')} private copies: saved "
            f"{_pages(whole.saved_pages_in_processes)} of {_pages(whole.relocated_pages)} "
            f"relocated, {each:,.0f} in the median process. By Pss, where what forked processes "
            f"share counts once: {size(whole.relocated_pss_bytes)} relocated."
        )
    yield f"It took {census.seconds:.1f} s to look at this."


def _print_rest(console: Console, count: int, what: str) -> None:
    if count > 0:
        console.print(f"and {count:,} {what} more; --top 0 shows all", style="dim")


_LIBRARY_COLUMNS: dict[str, Callable[[LibrarySurvey], str]] = {
    "fixups": lambda one: f"{one.fixups:,}",
    "a page": lambda one: f"{one.fixups_per_page.median:,.0f}",
    "max": lambda one: f"{one.fixups_per_page.maximum:,}",
    "bound": lambda one: "-" if one.bind_mode == "no PLT" else one.bind_mode,
    "PLT": lambda one: f"{one.plt_entries:,}",
    "RELRO": lambda one: f"{one.relro_pages:,}",
    "saved": lambda one: f"{one.saved_pages:,}",
    "dirtied": lambda one: f"{one.dirtied_pages:,}",
}
_PROCESS_COLUMNS: dict[str, Callable[[ProcessSurvey], str]] = {
    "pid": lambda one: str(one.pid),
    "user": lambda one: one.user,
    "Pss": lambda one: _kibibytes(one.pss_bytes),
    "anonymous": lambda one: _kibibytes(one.anonymous_bytes),
    "other": lambda one: _kibibytes(one.other_file_pages * PAGE),
    "by Pss": lambda one: _kibibytes(one.relocated_pss_bytes),
    "saved": lambda one: _kibibytes(one.saved_pages * PAGE),
    "relocated": lambda one: _kibibytes(one.relocated_pages * PAGE),
}


def _print_libraries(console: Console, libraries: Sequence[LibrarySurvey]) -> None:
    names = Column("library", [one.path.name for one in libraries])
    figures = [
        Column(title, [said(one) for one in libraries]) for title, said in _LIBRARY_COLUMNS.items()
    ]
    print_table(console, [names], figures)
    console.print(
        "a page: fixups in the median. RELRO, saved by `mapscratch run` and dirtied by relocation "
        "in all: pages of 4 KiB.",
        style="dim",
    )


def _print_processes(console: Console, processes: Sequence[ProcessSurvey]) -> None:
    names = Column("process", [one.command for one in processes])
    figures = [
        Column(title, [said(one) for one in processes]) for title, said in _PROCESS_COLUMNS.items()
    ]
    print_table(console, [names], figures)
    console.print(
        "KiB. Private copies of file pages: relocated ones, those of them that `mapscratch run` "
        "saves, their part by Pss; and other ones. anonymous: memory of no file.",
        style="dim",
    )


def _histogram(console: Console, found: FixupsPerPage) -> Iterator[str]:
    unicode = (console.encoding or "").lower().replace("-", "") == "utf8"
    glyph, dash = ("█", "\N{EN DASH}") if unicode else ("#", "-")
    most = max((pages for _, _, pages in found.histogram), default=1)
    whole = sum(pages for _, _, pages in found.histogram)
    lines = []
    for low, high, pages in found.histogram:
        label = str(low) if low == high else f"{low}{dash}{high}"
        unit = "page " if pages == 1 else "pages"
        lines.append((f"  {label:>9} ", pages, f" {pages:>9,} {unit} {pages / whole:>4.0%}"))
    columns = min([_BAR_COLUMNS, *(console.width - len(a + b) for a, _, b in lines)])
    for before, pages, after in lines:
        bar = glyph * max(1, round(pages * columns / most)) if columns > 0 else ""
        yield f"{before}{bar:<{max(0, columns)}}{after}"


def _kinds_line(libraries: Sequence[LibrarySurvey]) -> str:
    counts: Counter[str] = Counter()
    for library in libraries:
        counts.update(library.kinds)
    whole = counts.total()
    listed = ", ".join(
        f"{kind} {counts[kind]:,} ({counts[kind] / whole:.1%})" for kind in KINDS if counts[kind]
    )
    return f"By kind: {listed or 'none'}."


def _print_skipped(console: Console, census: Census) -> None:
    for one in census.skipped[:_LONGEST_SKIPPED_LIST]:
        console.print(f"Skipped: {one.path}: {one.reason}", style="dim")
    more = len(census.skipped) - _LONGEST_SKIPPED_LIST
    if more > 0:
        console.print(f"and {more:,} more skipped; --json lists all", style="dim")


def _pages(number: int) -> str:
    return f"{counted(number, 'page', 'pages')} ({size(number * PAGE)})"


def _kibibytes(size: int) -> str:
    return f"{size / 1024:,.0f}"


def names_of(paths: Sequence[str | os.PathLike[str]]) -> str:
    """The names of files, some of them."""
    shown = ", ".join(Path(path).name for path in paths[:8])
    return f"{shown}, ..." if len(paths) > 8 else shown
