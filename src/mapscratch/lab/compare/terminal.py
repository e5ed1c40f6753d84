# SPDX-License-Identifier: Apache-2.0
"""A comparison in the terminal: what was done, the picture, a table, and the answer last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from rich.console import Console

from mapscratch.lab.compare.charts import chart_of, print_chart, style_of
from mapscratch.lab.compare.verdict import Case, judge
from mapscratch.lab.rig.results import Comparison, Settings, Spread
from mapscratch.lab.rig.workload import Workload
from mapscratch.lab.tables import Column, print_table
from mapscratch.text import counted, decimal, whole

_MEBIBYTE = 1 << 20

Format = Callable[[float], str]


def _mebibytes(value: float) -> str:
    return f"{value / _MEBIBYTE:,.1f}"


_LINES: tuple[tuple[str, str, Format, bool], ...] = (
    ("pages fixed up", "pages", whole, False),
    ("fixups a page", "fixups_per_page", decimal, False),
    ("pages to swap", "swapped_out_pages", whole, True),
    ("MiB to swap", "swapped_out_bytes", _mebibytes, False),
    ("pages from swap", "swapped_in_pages", whole, False),
    ("MiB from swap", "swapped_in_bytes", _mebibytes, False),
    ("of them still in memory", "swap_cache_pages", whole, False),
    ("pages dropped by the kernel", "dropped_by_kernel_pages", whole, True),
    ("pages dropped by us", "dropped_by_us_pages", whole, True),
    ("pages kept in memory", "kept_pages", whole, False),
    ("MiB given back per MiB asked", "given_back_per_mib", decimal, True),
    ("file bytes read, MiB", "file_bytes_read", _mebibytes, False),
    ("storage bytes read, MiB", "storage_bytes_read", _mebibytes, False),
    ("Pss of clean pages, MiB", "clean_pss_bytes", _mebibytes, True),
    ("memory before, MiB", "before_resident_bytes", _mebibytes, False),
    ("  of it lazily freed", "before_lazily_freed_bytes", _mebibytes, False),
    ("  of it locked", "locked_bytes", _mebibytes, False),
    ("memory after, MiB", "after_resident_bytes", _mebibytes, False),
    ("  of it lazily freed", "after_lazily_freed_bytes", _mebibytes, False),
    ("fixup tables, MiB", "fixup_table_bytes", _mebibytes, False),
    ("µs a page: first page-in", "first_page_in_us", decimal, False),
    ("µs a page: first fixups", "first_fixups_us", decimal, False),
    ("µs a page: reclaim or drop", "reclaim_us", decimal, True),
    ("µs a page: page-in", "page_in_us", decimal, True),
    ("µs a page: fixups again", "fixups_us", decimal, True),
    ("µs a page: round trip", "round_trip_us", decimal, True),
    ("ns a fixup, page in memory", "fixup_ns", decimal, False),
    ("µs of CPU a page", "cpu_us", decimal, False),
    ("major faults at page-in", "major_faults", whole, False),
    ("fixups made at page-in", "fixups_at_page_in", whole, False),
    ("fixups made after page-in", "fixups_after_page_in", whole, False),
    ("words checked", "words_checked", whole, False),
    ("words wrong", "wrong_words", whole, True),
    ("words dropped before check", "lost_words", whole, False),
    ("machine: written (pswpout)", "machine_pages_written", whole, False),
    ("machine: read (pswpin)", "machine_pages_read", whole, False),
    ("machine: to zswap (zswpout)", "machine_pages_compressed", whole, False),
    ("machine: from zswap (zswpin)", "machine_pages_decompressed", whole, False),
    ("machine: pglazyfreed", "machine_pages_lazily_freed", whole, False),
)
"""Label, figure of `Round`, how it is written, and whether it is told without --verbose, too."""


def print_plan(console: Console, workload: Workload, settings: Settings) -> None:
    """Says what is about to be done, the time first."""
    counts = ", ".join(map(str, settings.processes))
    unit = "process" if settings.processes == (1,) else "processes"
    pages, copies = workload.pages, workload.copies
    times = f", mapped {copies} times: {pages:,} pages" if copies > 1 else ""
    names = ", ".join(library.plan.path.name for library in workload.libraries)
    console.print(
        f"At most {settings.seconds:g} s: {counts} {unit}; rounds for each: {settings.rounds}, or "
        "as many as there is time for.\n"
        f"{len(workload.libraries)} libraries with {pages // copies:,} pages that relocation fixes "
        f"up{times} a process, {workload.fixups / pages:.0f} fixups each."
    )
    console.print(f"  {names}", style="dim")
    if workload.skipped:
        skipped = ", ".join(f"{count:,} {reason}" for reason, count in workload.skipped.items())
        console.print(f"  not applied: {skipped}", style="dim")


def print_comparison(console: Console, comparison: Comparison, *, verbose: bool) -> None:
    """Prints what was found; the last line is the verdict."""
    verdict = judge(comparison)
    left_out = [f"Left out: {name}; {reason}" for name, reason in comparison.left_out.items()]
    notes = [f"Note: {note}" for note in comparison.notes]
    for line in ("", *_surroundings(comparison, verdict.case), *left_out, *notes, ""):
        console.print(line)
    print_chart(console, chart_of(comparison))
    console.print()
    if verbose:
        for one in comparison.libraries:
            console.print(
                f"{one.path}: {one.fixups:,} fixups on {one.pages:,} of {one.mapped_pages:,} pages "
                f"mapped ({_listed(one.kinds)}); not applied: {_listed(one.skipped) or 'none'}."
            )
        console.print()
    for processes in comparison.processes if verbose else comparison.processes[-1:]:
        _print_results(console, comparison, processes, verbose=verbose)
        if verbose:
            console.print()
    readers = " and ".join(comparison.readers)
    console.print(
        f"Medians over rounds{'; ± is half the range' if verbose else ''}.\n"
        f"{comparison.words_checked:,} words checked against {readers}, {comparison.wrong_words:,} "
        f"wrong. {comparison.seconds:.0f} s.\n\n{verdict.sentence}"
    )


def _surroundings(comparison: Comparison, case: Case) -> Iterator[str]:
    """Where pages went, how they were made to go, and what a page-in from swap includes."""
    swap = comparison.swap
    if comparison.settings.pressure == "cgroup":
        yield (
            "Reclaim: a memory control group squeezed by as much as was fixed up; the kernel "
            "chooses. Its times are of reclaim in the whole group."
        )
    else:
        yield "Reclaim: MADV_PAGEOUT on the mappings, one process after the other."
    if swap.kind == "none":
        yield "Swap: none."
        return
    whose = "temporary, for this run" if swap.temporary else "as it was found"
    size, free = (whole(amount / _MEBIBYTE) for amount in (swap.size, swap.free))
    yield f"Swap: {swap.title} ({whose}), {size} MiB, {free} free."
    private = comparison.summary(max(comparison.processes, default=0), "private")
    held = private.median("swap_cache_pages") if private else 0
    stayed = f" ({held:,.0f} stayed)" if held else ""
    if swap.zswap or swap.kind == "zram":
        yield "Page-in from swap decompresses from memory; no device is read."
    elif case == "not read back":
        yield (
            f"Swapped pages could not be made to leave memory{stayed}, so page-in hardly reads the "
            "device; is swap over half full?"
        )
    else:
        yield (
            f"Swapped pages were made to leave memory altogether{stayed}, which is not timed, so "
            "that page-in reads the device, in ascending order and with the kernel's read-ahead."
        )


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in Counter(counts).most_common())


def _print_results(
    console: Console, comparison: Comparison, processes: int, *, verbose: bool
) -> None:
    found = [comparison.summary(processes, name) for name in comparison.strategies]
    summaries = [summary for summary in found if summary]
    rounds = max((summary.rounds for summary in summaries), default=0)
    title = f"{counted(processes, 'process', 'processes')}, {counted(rounds, 'round')}"
    rows: list[list[str]] = []
    for label, figure, write, always in _LINES:
        spreads = [summary.figures[figure] for summary in summaries]
        largest = max((spread.maximum for spread in spreads if spread), default=None)
        # A line that no strategy knows, or that is nothing but "none in zswap", tells nothing.
        if largest is None or (figure.endswith("compressed") and not largest):
            continue
        if verbose or always:
            rows.append([label, *(_cell(spread, write, verbose) for spread in spreads)])
        if figure == "round_trip_us":
            ratios = (_cell(one.ratio_to_private, "{:.2f}".format, verbose) for one in summaries)
            rows.append(["  ratio to private", *ratios])
    labels, *columns = zip(*rows, strict=True)
    figures = [
        Column(one.strategy, cells, style_of(one.strategy))
        for one, cells in zip(summaries, columns, strict=True)
    ]
    print_table(console, [Column(title, labels)], figures)


def _cell(spread: Spread | None, write: Format, verbose: bool) -> str:
    if spread is None:
        return "n/a"
    median = write(spread.median)
    if not verbose or spread.minimum == spread.maximum or not spread.median:
        return median
    half = (spread.maximum - spread.minimum) / 2 / abs(spread.median)
    return f"{median} ±{half:.0%}"
