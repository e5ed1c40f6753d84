# SPDX-License-Identifier: Apache-2.0
"""What `mapscratch code` says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

from rich.console import Console
from rich.table import Table

from mapscratch.lab.code.measure import STARTS, CodeComparison, CodeRound, Footprint, Start
from mapscratch.run.launch import ResolverCounts

_Figure = Callable[[CodeRound], float]


def print_code(console: Console, comparison: CodeComparison) -> None:
    """Print the tables, and first what converted entries lose."""
    for line in verdict(comparison):
        console.print(line)
    for start in STARTS:
        console.print()
        console.print(_table(comparison, start))
    console.print()
    console.print(
        "Private pages of file mappings: converted / stock, and the ratio. Medians over rounds of "
        "the mean over workers. "
        + ("WRONG: workers computed different things." if comparison.is_wrong else "0 wrong.")
    )
    if comparison.no_pressure:
        console.print(f"Without pressure only: {comparison.no_pressure}.")
    console.print(_counts(comparison))


def verdict(comparison: CodeComparison) -> list[str]:
    """A few sentences, the unfavourable first."""
    workers = max(one.workers for one in comparison.rounds)

    def of(strategy: str, figure: _Figure) -> float:
        return comparison.median("spawned", workers, strategy, figure)  # type: ignore[arg-type]

    stock, converted = (of(one, lambda r: r.calm.dirty) for one in ("stock", "converted"))
    worse = "more" if converted >= stock else "less"
    lines = [
        f"{comparison.libraries} libraries of {comparison.interpreter} with "
        f"{comparison.entries:,} PLT entries run converted.",
        f"Without pressure a worker has {abs(converted - stock) / 1024:,.0f} KiB {worse} private "
        f"file pages with converted entries: {converted / 1024:,.0f} against {stock / 1024:,.0f}, "
        f"{converted / stock:.2f} times as many.",
    ]
    if comparison.no_pressure:
        return lines
    before = of("converted", lambda r: r.calm.text)
    text = of("converted", lambda r: _pressed(r).text)
    swapped = of("converted", lambda r: _pressed(r).text_swapped)
    whole = (
        of("stock", lambda r: _pressed(r).swapped),
        of("converted", lambda r: _pressed(r).swapped),
    )
    lines.append(
        f"Under pressure, of {before / 1024:,.0f} KiB of text with fixups {text / 1024:,.0f} stay "
        f"and {swapped / 1024:,.0f} go to swap ({comparison.swap.title}); the rest is dropped "
        f"and bound again by the next calls. Of all private file pages {whole[1] / 1024:,.0f} KiB "
        f"a worker go to swap, against {whole[0] / 1024:,.0f} as they are."
    )
    return lines


def _pressed(one: CodeRound) -> Footprint:
    assert one.squeezed
    return one.squeezed


def _again(one: CodeRound) -> Footprint:
    assert one.again
    return one.again


def _table(comparison: CodeComparison, start: Start) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(f"{start}, KiB a worker", no_wrap=True)
    numbers = sorted({one.workers for one in comparison.rounds})
    for number in numbers:
        table.add_column(f"{number} worker{'s' if number > 1 else ''}", justify="right")
    for label, figure in _rows(comparison):
        cells = []
        for number in numbers:
            converted, stock = (
                comparison.median(start, number, strategy, figure) / 1024
                for strategy in ("converted", "stock")
            )
            ratio = f"{converted / stock:5.2f}" if stock else "    -"
            cells.append(f"{converted:,.0f} / {stock:,.0f} {ratio}")
        table.add_row(label, *cells)
    return table


def _rows(comparison: CodeComparison) -> list[tuple[str, _Figure]]:
    rows: list[tuple[str, _Figure]] = [
        ("dirty, without pressure", lambda r: r.calm.dirty),
        ("  of these text", lambda r: r.calm.text),
    ]
    if comparison.no_pressure:
        return rows
    return [
        *rows,
        ("dirty, under pressure", lambda r: _pressed(r).dirty),
        ("  of these text", lambda r: _pressed(r).text),
        ("in swap", lambda r: _pressed(r).swapped),
        ("  of these text", lambda r: _pressed(r).text_swapped),
        ("dirty, working again", lambda r: _again(r).dirty),
        ("in swap", lambda r: _again(r).swapped),
    ]


def _counts(comparison: CodeComparison) -> str:
    all_counts = [one.counts for one in comparison.rounds if one.counts]
    total = ResolverCounts(
        *(sum(getattr(one, field.name) for one in all_counts) for field in fields(ResolverCounts))
    )
    dropped = (
        "dropped by the kernel (MAP_SCRATCH)"
        if comparison.kernel_drops
        else f"{total.dropped:,} pages dropped by the drop policy"
    )
    return (
        f"In all converted rounds: {total.resolved:,} entries bound by ld.so, "
        f"{total.remembered:,} from memory; {total.patched + total.batched:,} words stored, "
        f"{total.busy + total.unwritable:,} calls not fixed; {dropped}."
    )
