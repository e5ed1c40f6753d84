# SPDX-License-Identifier: Apache-2.0
"""A survey in the terminal: tables, the histogram, totals, and the answer last.

Wherever it is told what relocation dirties, it is told beside it what `mapscratch run` saves of it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mapscratch.elf import FixupsPerPage, LibrarySurvey
from mapscratch.elf.headers import PAGE
from mapscratch.elf.survey import KINDS
from mapscratch.lab.survey.census import Census
from mapscratch.lab.survey.totals import LARGEST, Totals, totals
from mapscratch.lab.tables import Column, print_table
from mapscratch.text import counted, size

if TYPE_CHECKING:
    from rich.console import Console

_BAR_COLUMNS = 30
_LONGEST_SKIPPED_LIST = 5

_LIBRARY_COLUMNS: dict[str, Callable[[Any], str]] = {
    "library": lambda one: one.path.name,
    "fixups": lambda one: f"{one.fixups:,}",
    "a page": lambda one: f"{one.fixups_per_page.median:,.0f}",
    "max": lambda one: f"{one.fixups_per_page.maximum:,}",
    "bound": lambda one: "-" if one.bind_mode == "no PLT" else one.bind_mode,
    "PLT": lambda one: f"{one.plt_entries:,}",
    "RELRO": lambda one: f"{one.relro_pages:,}",
    "saved": lambda one: f"{one.saved_pages:,}",
    "dirtied": lambda one: f"{one.dirtied_pages:,}",
}
_LIBRARY_NOTE = (
    "a page: fixups in the median. RELRO, saved by `mapscratch run` and dirtied by relocation in "
    "all: pages of 4 KiB."
)
_PROCESS_COLUMNS: dict[str, Callable[[Any], str]] = {
    "process": lambda one: one.command,
    "pid": lambda one: str(one.pid),
    "user": lambda one: one.user,
    "Pss": lambda one: _kibibytes(one.pss_bytes),
    "anonymous": lambda one: _kibibytes(one.anonymous_bytes),
    "other": lambda one: _kibibytes(one.other_file_pages * PAGE),
    "by Pss": lambda one: _kibibytes(one.relocated_pss_bytes),
    "saved": lambda one: _kibibytes(one.saved_pages * PAGE),
    "relocated": lambda one: _kibibytes(one.relocated_pages * PAGE),
}
_PROCESS_NOTE = (
    "KiB. Private copies of file pages: relocated ones, those of them that `mapscratch run` saves, "
    "their part by Pss; and other ones. anonymous: memory of no file."
)


def print_survey(console: Console, census: Census, processes: int | None, top: int | None) -> None:
    """Print tables of so many lines, the histogram, totals, and the answer last.

    What is dirtied is multiplied by a number of processes, unless no files were asked for.
    """
    whole = totals(census)
    tables = (
        ("processes", census.processes, _PROCESS_COLUMNS, _PROCESS_NOTE),
        ("libraries", census.libraries, _LIBRARY_COLUMNS, _LIBRARY_NOTE),
    )
    for what, rows, columns, note in tables:
        if rows:
            names, *figures = (
                Column(title, [said(one) for one in rows[:top]]) for title, said in columns.items()
            )
            print_table(console, [names], figures)
            console.print(note, style="dim")
            if more := len(rows) - len(rows[:top]):
                console.print(f"and {more:,} {what} more; --top 0 shows all", style="dim")
            console.print()
    if census.libraries:
        console.print("Fixups a page, over all pages that relocation dirties:")
        for line in _histogram(console, whole.fixups_per_page):
            console.print(line)
        console.print()
        console.print(_kinds_line(census.libraries))
    for one in census.skipped[:_LONGEST_SKIPPED_LIST]:
        console.print(f"Skipped: {one.path}: {one.reason}", style="dim")
    more = len(census.skipped) - _LONGEST_SKIPPED_LIST
    if more > 0:
        console.print(f"and {more:,} more skipped; --json lists all", style="dim")
    for line in _total_lines(census, whole, processes):
        console.print(line)
    console.print()
    console.print(answer(whole))


def answer(whole: Totals) -> str:
    """A sentence or two: how many fixups a page, and how much of them is code's."""
    if not whole.dirtied_pages:
        return "Relocation dirties no page of what was surveyed."
    pages = whole.fixups_per_page
    share = whole.bind_now_or_no_plt_share
    bound = f"{share:.0%} of {whole.libraries:,} libraries are bound at load or have no PLT."
    if whole.libraries == 1:
        bound = f"The library is bound {'at load or has no PLT' if share else 'lazily'}."
    by_library = ""
    if whole.libraries > 2 * LARGEST:  # Large ones have most of the pages.
        by_library = (
            f" {LARGEST} libraries have {whole.largest_share:.0%} of these pages; the library in "
            f"the middle has {whole.library_median:,.0f} fixups a page, and "
            f"{whole.library_symbolic_share:.0%} of its fixups look up a symbol."
        )
    return (
        f"A page that relocation dirties has {pages.median:,.0f} fixups in the median and "
        f"{pages.mean:,.0f} on average.{by_library} PLT slots are on "
        f"{_share(whole.plt_pages, whole)} of these pages; {_share(whole.saved_pages, whole)} hold "
        "nothing else and are saved by `mapscratch run`; what dirties the others is data. "
        f"{bound}"
    )


def _share(part: int, whole: Totals) -> str:
    share = part / whole.dirtied_pages
    return f"{share:.0%}" if share >= 0.1 or not share else f"{share:.1%}"


def _total_lines(census: Census, whole: Totals, processes: int | None) -> Iterator[str]:
    if whole.libraries:
        pages = _pages(whole.text_pages)
        taken = f" Its entries take up to {pages} of text instead, which may be dropped."
        yield (
            f"{counted(whole.libraries, 'library', 'libraries')}: "
            f"{counted(whole.fixups, 'fixup')}; saved {_pages(whole.saved_pages)} of "
            f"{_pages(whole.dirtied_pages)} dirtied, for each process that loads all of it."
            f"{taken if whole.text_pages else ''}"
        )
    if processes:
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


def _histogram(console: Console, found: FixupsPerPage) -> Iterator[str]:
    unicode = (console.encoding or "").lower().replace("-", "") == "utf8"
    glyph, dash = ("█", "\N{EN DASH}") if unicode else ("#", "-")
    counts = [pages for _, _, pages in found.histogram]
    lines = []
    for low, high, pages in found.histogram:
        label = str(low) if low == high else f"{low}{dash}{high}"
        unit = "page " if pages == 1 else "pages"
        share = f" {pages:>9,} {unit} {pages / sum(counts):>4.0%}"
        lines.append((f"  {label:>9} ", pages, share))
    columns = max(0, min([_BAR_COLUMNS, *(console.width - len(a + b) for a, _, b in lines)]))
    for before, pages, after in lines:
        bar = glyph * max(1, round(pages * columns / max(counts)))
        yield f"{before}{bar[:columns]:<{columns}}{after}"


def _kinds_line(libraries: Sequence[LibrarySurvey]) -> str:
    counts = {kind: sum(library.kinds[kind] for library in libraries) for kind in KINDS}
    whole = sum(counts.values())
    listed = ", ".join(
        f"{kind} {count:,} ({count / whole:.1%})" for kind, count in counts.items() if count
    )
    return f"By kind: {listed or 'none'}."


def _pages(number: int) -> str:
    return f"{counted(number, 'page')} ({size(number * PAGE)})"


def _kibibytes(size: int) -> str:
    return f"{size / 1024:,.0f}"
