# SPDX-License-Identifier: Apache-2.0
"""A comparison in the terminal: what was done, the picture, a table, and the answer last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from mapscratch.lab.compare.charts import chart_of, print_chart, style_of
from mapscratch.lab.compare.verdict import judge
from mapscratch.lab.rig.results import Comparison, Settings, Spread, Summary, SwapDescription
from mapscratch.lab.rig.workload import Workload
from mapscratch.lab.tables import Column, print_table
from mapscratch.text import counted, decimal, whole

if TYPE_CHECKING:
    from rich.console import Console

_MEBIBYTE = 1 << 20
NOT_KNOWN = "n/a"

Format = Callable[[float], str]


def _mebibytes(value: float) -> str:
    return f"{value / _MEBIBYTE:,.1f}"


_LINES: tuple[tuple[str, str, Format], ...] = (
    ("pages fixed up", "pages", whole),
    ("fixups a page", "fixups_per_page", decimal),
    ("pages to swap", "swapped_out_pages", whole),
    ("MiB to swap", "swapped_out_bytes", _mebibytes),
    ("pages from swap", "swapped_in_pages", whole),
    ("MiB from swap", "swapped_in_bytes", _mebibytes),
    ("of them still in memory", "swap_cache_pages", whole),
    ("pages dropped by the kernel", "dropped_by_kernel_pages", whole),
    ("pages dropped by us", "dropped_by_us_pages", whole),
    ("pages kept in memory", "kept_pages", whole),
    ("MiB given back per MiB asked", "given_back_per_mib", decimal),
    ("file bytes read, MiB", "file_bytes_read", _mebibytes),
    ("storage bytes read, MiB", "storage_bytes_read", _mebibytes),
    ("Pss of clean pages, MiB", "clean_pss_bytes", _mebibytes),
    ("memory before, MiB", "before_resident_bytes", _mebibytes),
    ("  of it lazily freed", "before_lazily_freed_bytes", _mebibytes),
    ("  of it locked", "locked_bytes", _mebibytes),
    ("memory after, MiB", "after_resident_bytes", _mebibytes),
    ("  of it lazily freed", "after_lazily_freed_bytes", _mebibytes),
    ("fixup tables, MiB", "fixup_table_bytes", _mebibytes),
    ("µs a page: first page-in", "first_page_in_us", decimal),
    ("µs a page: first fixups", "first_fixups_us", decimal),
    ("µs a page: reclaim or drop", "reclaim_us", decimal),
    ("µs a page: page-in", "page_in_us", decimal),
    ("µs a page: fixups again", "fixups_us", decimal),
    ("µs a page: round trip", "round_trip_us", decimal),
    ("ns a fixup, page in memory", "fixup_ns", decimal),
    ("µs of CPU a page", "cpu_us", decimal),
    ("major faults at page-in", "major_faults", whole),
    ("fixups made at page-in", "fixups_at_page_in", whole),
    ("fixups made after page-in", "fixups_after_page_in", whole),
    ("words checked", "words_checked", whole),
    ("words wrong", "wrong_words", whole),
    ("words dropped before check", "lost_words", whole),
    ("machine: written (pswpout)", "machine_pages_written", whole),
    ("machine: read (pswpin)", "machine_pages_read", whole),
    ("machine: to zswap (zswpout)", "machine_pages_compressed", whole),
    ("machine: from zswap (zswpin)", "machine_pages_decompressed", whole),
    ("machine: pglazyfreed", "machine_pages_lazily_freed", whole),
)
"""Label, figure of `Round`, and how it is written: the verbose table, line by line."""

_SHORT = (
    "swapped_out_pages",
    "dropped_by_kernel_pages",
    "dropped_by_us_pages",
    "given_back_per_mib",
    "clean_pss_bytes",
    "reclaim_us",
    "page_in_us",
    "fixups_us",
    "round_trip_us",
    "wrong_words",
)


def print_plan(console: Console, workload: Workload, settings: Settings) -> None:
    """Says what is about to be done, the time first."""
    counts = ", ".join(map(str, settings.processes))
    unit = "process" if settings.processes == (1,) else "processes"
    console.print(
        f"At most {settings.seconds:g} s: {counts} {unit}; rounds for each: {settings.rounds}, or "
        "as many as there is time for."
    )
    once = workload.pages // workload.copies
    times = (
        f", mapped {workload.copies} times: {workload.pages:,} pages a process"
        if workload.copies > 1
        else " a process"
    )
    console.print(
        f"{len(workload.libraries)} libraries with {once:,} pages that relocation fixes up{times}, "
        f"{workload.fixups / workload.pages:.0f} fixups each."
    )
    console.print(
        f"  {', '.join(library.path.name for library in workload.libraries)}", style="dim"
    )
    if workload.skipped:
        skipped = ", ".join(f"{count:,} {reason}" for reason, count in workload.skipped.items())
        console.print(f"  not applied: {skipped}", style="dim")


def print_comparison(console: Console, comparison: Comparison, *, verbose: bool) -> None:
    """Prints what was found; the last line is the verdict."""
    console.print()
    for line in surroundings_lines(comparison):
        console.print(line)
    for name, reason in comparison.left_out.items():
        console.print(f"Left out: {name}; {reason}")
    for note in comparison.notes:
        console.print(f"Note: {note}")
    console.print()
    print_chart(console, chart_of(comparison))
    console.print()
    if verbose:
        _print_libraries(console, comparison)
    counts = comparison.processes if verbose else comparison.processes[-1:]
    for processes in counts:
        _print_results(console, comparison, processes, verbose=verbose)
        if verbose:
            console.print()
    console.print("Medians over rounds" + ("; ± is half the range." if verbose else "."))
    console.print(_check_line(comparison))
    console.print()
    console.print(judge(comparison).sentence)


def surroundings_lines(comparison: Comparison) -> Iterator[str]:
    """Where pages went, how they were made to go, and what a page-in from swap includes."""
    swap = comparison.swap
    if comparison.settings.pressure == "cgroup":
        yield (
            "Reclaim: a memory control group squeezed by as much as was fixed up; the kernel "
            "chooses. Its times are of reclaim in the whole group."
        )
    else:
        yield "Reclaim: MADV_PAGEOUT on the mappings, one process after the other."
    yield _swap_line(swap)
    if swap.kind != "none":
        yield _page_in_line(comparison)


def _swap_line(swap: SwapDescription) -> str:
    if swap.kind == "none":
        return "Swap: none."
    whose = "temporary, for this run" if swap.temporary else "as it was found"
    return (
        f"Swap: {swap.title} ({whose}), {swap.size / _MEBIBYTE:,.0f} MiB, "
        f"{swap.free / _MEBIBYTE:,.0f} free."
    )


def _page_in_line(comparison: Comparison) -> str:
    if comparison.swap.zswap or comparison.swap.kind == "zram":
        return "Page-in from swap decompresses from memory; no device is read."
    private = comparison.summary(max(comparison.processes, default=0), "private")
    held = (private.median("swap_cache_pages") or 0) if private else 0
    stayed = f" ({held:,.0f} stayed)" if held else ""
    if judge(comparison).case == "not read back":
        return (
            f"Swapped pages could not be made to leave memory{stayed}, so page-in hardly reads the "
            "device; is swap over half full?"
        )
    return (
        f"Swapped pages were made to leave memory altogether{stayed}, which is not timed, so that "
        "page-in reads the device, in ascending order and with the kernel's read-ahead."
    )


def _print_libraries(console: Console, comparison: Comparison) -> None:
    for library in comparison.libraries:
        console.print(
            f"{library.path}: {library.fixups:,} fixups on {library.pages:,} of "
            f"{library.mapped_pages:,} pages mapped ({_listed(library.kinds)}); not applied: "
            f"{_listed(library.skipped) or 'none'}."
        )
    console.print()


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in Counter(counts).most_common())


def _print_results(
    console: Console, comparison: Comparison, processes: int, *, verbose: bool
) -> None:
    found = [comparison.summary(processes, name) for name in comparison.strategies]
    summaries = [summary for summary in found if summary]
    rounds = max((summary.rounds for summary in summaries), default=0)
    title = f"{counted(processes, 'process', 'processes')}, {counted(rounds, 'round')}"
    labels: list[str] = []
    cells: list[list[str]] = []
    for label, figure, write in _LINES:
        spreads = [summary.figures[figure] for summary in summaries]
        # A line that no strategy knows, or that is nothing but "none in zswap", tells nothing.
        if not any(spreads) or (figure.endswith("compressed") and not any(map(_is_not_0, spreads))):
            continue
        if verbose or figure in _SHORT:
            labels.append(label)
            cells.append([_cell(spread, write, verbose) for spread in spreads])
        if figure == "round_trip_us":
            labels.append("  ratio to private")
            cells.append([_ratio(one, verbose) for one in summaries])
    columns = [
        Column(one.strategy, [row[number] for row in cells], style_of(one.strategy))
        for number, one in enumerate(summaries)
    ]
    print_table(console, [Column(title, labels)], columns)


def _is_not_0(spread: Spread | None) -> bool:
    return spread is not None and spread.maximum > 0


def _cell(spread: Spread | None, write: Format, verbose: bool) -> str:
    if spread is None:
        return NOT_KNOWN
    median = write(spread.median)
    if not verbose or spread.minimum == spread.maximum or not spread.median:
        return median
    half = (spread.maximum - spread.minimum) / 2 / abs(spread.median)
    return f"{median} ±{half:.0%}"


def _ratio(summary: Summary, verbose: bool) -> str:
    if summary.strategy == "private":
        return "1" if summary.ratio_to_private else NOT_KNOWN
    return _cell(summary.ratio_to_private, lambda value: f"{value:.2f}", verbose)


def _check_line(comparison: Comparison) -> str:
    readers = " and ".join(comparison.readers)
    return (
        f"{comparison.words_checked:,} words checked against {readers}, {comparison.wrong_words:,} "
        f"wrong. {comparison.seconds:.0f} s."
    )
