# SPDX-License-Identifier: Apache-2.0
"""A survey in the terminal: tables, the histogram, totals, and the answer last.

Wherever it is told what relocation dirties, it is told beside it what `mapscratch run` saves of it.
"""

from __future__ import annotations

import os
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mapscratch.elf import FixupsPerPage, LibrarySurvey
from mapscratch.elf.headers import PAGE
from mapscratch.elf.survey import KINDS
from mapscratch.lab.survey.processes import ProcessSurvey
from mapscratch.lab.survey.take import Census
from mapscratch.lab.survey.totals import (
    LARGEST,
    Order,
    Totals,
    sorted_libraries,
    sorted_processes,
    totals,
)
from mapscratch.lab.tables import Column, print_table
from mapscratch.text import counted, size

if TYPE_CHECKING:
    from rich.console import Console

_BAR_COLUMNS = 30
_LONGEST_SKIPPED_LIST = 5


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
