# SPDX-License-Identifier: Apache-2.0
"""What `mapscratch code` says."""

from __future__ import annotations

from dataclasses import astuple
from functools import partial

from rich.console import Console

from mapscratch.lab.code.measure import STARTS, CodeComparison, Start
from mapscratch.lab.tables import Column, print_table
from mapscratch.run.launch import ResolverCounts
from mapscratch.text import counted

_ROWS = (
    ("dirty, without pressure", "calm.dirty"),
    ("  of these text", "calm.text"),
    ("dirty, under pressure", "squeezed.dirty"),
    ("  of these text", "squeezed.text"),
    ("in swap", "squeezed.swapped"),
    ("  of these text", "squeezed.text_swapped"),
    ("dirty, working again", "again.dirty"),
    ("in swap", "again.swapped"),
)
"""Label, and figure of a `CodeRound`; the first two are known without pressure, too."""


def print_code(console: Console, comparison: CodeComparison) -> None:
    """Prints the tables, and first what converted entries lose."""
    console.print("\n".join(verdict(comparison)))
    for start in STARTS:
        console.print()
        _print_table(console, comparison, start)
    wrong = "WRONG: workers computed different things" if comparison.is_wrong else "0 wrong"
    console.print(
        "\nPrivate pages of file mappings: converted / stock, and the ratio. Medians over rounds "
        f"of the mean over workers. {wrong}."
    )
    if comparison.no_pressure:
        console.print(f"Without pressure only: {comparison.no_pressure}.")
    console.print(_counts(comparison))


def verdict(comparison: CodeComparison) -> list[str]:
    """A few sentences, the unfavourable first."""
    workers = max(one.workers for one in comparison.rounds)
    stock = partial(comparison.median, "spawned", workers, "stock")
    converted = partial(comparison.median, "spawned", workers, "converted")
    without, with_them = stock("calm.dirty"), converted("calm.dirty")
    worse = "more" if with_them >= without else "less"
    lines = [
        f"{comparison.libraries} libraries of {comparison.interpreter} with "
        f"{comparison.entries:,} PLT entries run converted.",
        f"Without pressure a worker has {abs(with_them - without):,.0f} KiB {worse} private "
        f"file pages with converted entries: {with_them:,.0f} against {without:,.0f}, "
        f"{with_them / without:.2f} times as many.",
    ]
    if not comparison.no_pressure:
        lines.append(
            f"Under pressure, of {converted('calm.text'):,.0f} KiB of text with fixups "
            f"{converted('squeezed.text'):,.0f} stay and {converted('squeezed.text_swapped'):,.0f} "
            f"go to swap ({comparison.swap.title}); the rest is dropped and bound again by the "
            f"next calls. Of all private file pages {converted('squeezed.swapped'):,.0f} KiB a "
            f"worker go to swap, against {stock('squeezed.swapped'):,.0f} as they are."
        )
    return lines


def _print_table(console: Console, comparison: CodeComparison, start: Start) -> None:
    rows = _ROWS[:2] if comparison.no_pressure else _ROWS
    columns = []
    for number in sorted({one.workers for one in comparison.rounds}):
        cells = []
        for _, figure in rows:
            converted = comparison.median(start, number, "converted", figure)
            stock = comparison.median(start, number, "stock", figure)
            ratio = f"{converted / stock:5.2f}" if stock else "    -"
            cells.append(f"{converted:,.0f} / {stock:,.0f} {ratio}")
        columns.append(Column(counted(number, "worker"), cells, breaks=False))
    labels = Column(f"{start}, KiB a worker", [label for label, _ in rows])
    print_table(console, [labels], columns)


def _counts(comparison: CodeComparison) -> str:
    each = [astuple(one.counts) for one in comparison.rounds if one.counts]
    total = ResolverCounts(*map(sum, zip(*each, strict=True)))
    dropped = f"{total.dropped:,} pages dropped by the drop policy"
    if comparison.kernel_drops:
        dropped = "dropped by the kernel (MAP_SCRATCH)"
    return (
        f"In all converted rounds: {total.resolved:,} entries bound by ld.so, "
        f"{total.remembered:,} from memory; {total.patched + total.batched:,} words stored, "
        f"{total.busy + total.unwritable:,} calls not fixed; {dropped}."
    )
