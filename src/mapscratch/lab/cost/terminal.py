# SPDX-License-Identifier: Apache-2.0
"""Costs in the terminal: the figures, the picture, break-even, other ways, and the answer last."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from mmap import PAGESIZE
from typing import TYPE_CHECKING

from mapscratch.lab.compare.charts import print_chart
from mapscratch.lab.cost.answer import CostReport, answer, without_latency
from mapscratch.lab.cost.chart import cost_chart
from mapscratch.lab.cost.costs import Check, Costs
from mapscratch.lab.cost.fleet import Fleet, Plan
from mapscratch.lab.cost.lines import SWAP_NOTE
from mapscratch.lab.cost.model import WORDS_A_PAGE, BreakEven, read_ahead
from mapscratch.lab.rig.results import Spread
from mapscratch.lab.tables import Column, print_table
from mapscratch.text import counted, decimal, microseconds, size

if TYPE_CHECKING:
    from rich.console import Console

_MOST_SWAPS_WITH_BRACKETS = 3
_NOT_MEASURED = "n/a"


def print_costs(console: Console, report: CostReport) -> None:
    """Prints a report; the last sentence is the answer."""
    costs = report.costs
    console.print()
    if costs.measurements:
        _print_measurements(console, costs)
    for reason, names in _reasons(costs.left_out).items():
        console.print(f"Left out: {', '.join(names)}; {reason}", style="dim")
    for check in costs.checks:
        console.print(_check_line(check))
    for note in costs.notes:
        console.print(note if note.startswith(SWAP_NOTE) else f"Note: {note}")
    console.print()
    print_chart(console, cost_chart(report))
    if report.break_even:
        console.print()
        console.print("Up to how many fixups a page dropping it takes less time than swapping it")
        console.print()
        _print_break_even(console, report)
        for line in _explanations(report):
            console.print(line)
    console.print()
    _print_baselines(console, report)
    if report.fleet:
        _print_fleet(console, report.fleet)
    console.print(answer(report))


def _reasons(left_out: Mapping[str, str]) -> dict[str, list[str]]:
    """What was left out, by the reason why."""
    names: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        names.setdefault(reason, []).append(name)
    return names


def _print_measurements(console: Console, costs: Costs) -> None:
    found = costs.measurements
    figures = [
        Column(title, [decimal(getattr(one, name)) for one in found])
        for title, name in (("median", "median"), ("least", "minimum"), ("most", "maximum"))
    ]
    title = f"ns, medians over {counted(costs.rounds, 'round')}"
    per = Column("for each", [one.per for one in found])
    print_table(console, [Column(title, [one.title for one in found])], [*figures, per])


def _check_line(check: Check) -> str:
    tolerance = check.note.rpartition("; ")[2].removesuffix(".")
    agrees = tolerance if tolerance.startswith("agrees") else f"agrees ({tolerance})"
    result = agrees if check.agrees else f"DOES NOT AGREE: {check.note.removesuffix('.')}"
    return (
        f"Check: {check.what}: ours {decimal(check.ours)}, theirs {decimal(check.theirs)} "
        f"({check.ratio:.2f} x): {result}."
    )


def _print_break_even(console: Console, report: CostReport) -> None:
    found = {(one.scratch.what, one.fixup.title, one.swap.what): one for one in report.break_even}
    swaps = {one.what: without_latency(one.title) for one in report.swaps}
    rows = list(dict.fromkeys((engine, fixup) for engine, fixup, _ in found))
    engines = [engine for engine, _ in rows]
    shown = [
        "" if former == engine else engine
        for former, engine in zip(["", *engines], engines, strict=False)
    ]
    limits = [
        Column(title, [_limit(found[engine, fixup, swap], report) for engine, fixup in rows])
        for swap, title in swaps.items()
    ]
    labels = [Column("engine", shown), Column("fixups", [fixup for _, fixup in rows])]
    print_table(console, labels, limits)


def _has_brackets(report: CostReport) -> bool:
    """Whether there is room for the least and the most."""
    return len(report.swaps) <= _MOST_SWAPS_WITH_BRACKETS


def _limit(one: BreakEven, report: CostReport) -> str:
    """The number, and in brackets the least and the most."""
    never = one.pays == "never"
    median = "none" if never else _bounded(one.fixups.median)
    least, most = _bounded(one.fixups.minimum), _bounded(one.fixups.maximum)
    if not _has_brackets(report) or least == most:
        return median
    if never:
        return median if one.fixups.maximum <= 0 else f"none (-{most})"
    return f"{median} ({least}-{most.removeprefix('>')}{'+' if most.startswith('>') else ''})"


def _bounded(fixups: float) -> str:
    if fixups > WORDS_A_PAGE:
        return f">{WORDS_A_PAGE}"
    return f"{max(0.0, fixups):,.0f}"


def _explanations(report: CostReport) -> Iterator[str]:
    pages = report.pages
    brackets = ""
    if _has_brackets(report):
        brackets = "In brackets the least and the most that the figures of any rounds allow. "
    share = (
        f", {pages.relative_share:.0%} of them relative" if pages.relative_share is not None else ""
    )
    yield (
        f">{WORDS_A_PAGE}: more than fit in a page. {brackets}Relative and symbolic fixups count "
        "as what ld.so takes for them, mixed ones as it takes in the mean for those of the pages "
        "below."
    )
    trips = {one.title: one.bare_us for one in (*report.swaps, *report.scratches)}
    yield (
        "A page's round trip without fixups: "
        f"{', '.join(f'{title} {microseconds(us)}' for title, us in trips.items())}."
    )
    yield (
        f"Pages: {pages.title}: {pages.total_pages:,} with fixups, {pages.median:.0f} on the one "
        f"in the middle, {pages.mean:.0f} in the mean, at most {pages.quantile(0.95):.0f} on 95 %"
        f"{share}."
    )
    cold = _cold(report)
    if cold:
        yield cold
    if report.device:
        ahead = read_ahead(report.costs)
        part = (
            f"; or {ahead.median:.0%} of it, which is what a page waited for with the kernel's "
            "read-ahead here"
            if ahead
            else ""
        )
        yield (
            f"{report.device.title}: assumed, not measured. The kernel's part is this machine's "
            "(the call that reclaims, to a swapfile, if that was measured; a page fault that gets "
            f"a page), and the latency comes once, for a page that is read alone{part}."
        )


def _cold(report: CostReport) -> str:
    """What dropping costs if the file has left memory as well."""
    order, disk, swap = (
        report.costs.measurement(name)
        for name in ("fault.disk.sequential", "fault.disk", "swap.file.in")
    )
    ways = [
        f"{microseconds(one.median / 1e3)} {how}"
        for one, how in ((order, "in order"), (disk, "at random"))
        if one
    ]
    if not ways:
        return ""
    beside = f" (swap-in from a file, in order: {microseconds(swap.median / 1e3)})" if swap else ""
    return (
        "The file's page is in the page cache here. Where it was dropped too, it is read again: "
        f"{', '.join(ways)}{beside}; the fixups come on top."
    )


def _print_baselines(console: Console, report: CostReport) -> None:
    from rich.padding import Padding

    console.print("What else there is, and when it beats us")
    for one in report.baselines:
        how = "" if one.measured else " (not measured here)"
        console.print(f"  {one.title}{how}", style="bold")
        console.print(Padding(one.sentence, (0, 0, 0, 4)))
        if one.source:
            console.print(Padding(f"Source: {one.source}", (0, 0, 0, 4)), style="dim")
    console.print()


def _print_fleet(console: Console, fleet: Fleet) -> None:
    processes = counted(fleet.processes, "process", "processes")
    hosts = f"each of {fleet.hosts:,} hosts" if fleet.hosts > 1 else "one host"
    console.print(f"{processes} on {hosts}")
    console.print()
    names = Column("", [without_latency(plan.title) for plan in fleet.plans])
    figures = [
        Column(title, [said(plan) for plan in fleet.plans])
        for title, said in _FLEET_COLUMNS.items()
    ]
    print_table(console, [names], figures)
    console.print(
        f"{counted(fleet.pages, 'page')} with fixups, {size(fleet.pages * PAGESIZE)}; the files' "
        f"own pages: {size(fleet.page_cache_bytes)} of page cache, shared. Each page leaves memory "
        "once and comes back once, on hosts as fast as this one, and no device is kept waiting by "
        f"another page; in zram and zswap a page takes {fleet.compression:.0%} of its size. "
        "docs/cost.md says what else is assumed."
    )
    console.print()


def _seconds(spread: Spread) -> str:
    """A time, with half the range in per cent."""
    if not spread.median:
        return _NOT_MEASURED
    value = spread.median
    size, unit = next(
        ((size, unit) for size, unit in _TIME_UNITS if value >= 2 * size), _TIME_UNITS[-1]
    )
    value /= size
    text = f"{value:,.0f}" if value >= 9.95 else f"{value:.1f}"
    half = (spread.maximum - spread.minimum) / 2 / spread.median
    return f"{text} {unit} ±{half:.0%}"


_TIME_UNITS = (
    (365.25 * 86_400, "years"),
    (86_400, "days"),
    (3600, "h"),
    (1, "s"),
    (1e-3, "ms"),
    (1e-6, "µs"),
)
_FLEET_COLUMNS: dict[str, Callable[[Plan], str]] = {
    "to swap": lambda plan: size(plan.written_bytes),
    "memory": lambda plan: size(plan.private_bytes),
    "left after": lambda plan: size(plan.kept_bytes),
    "waiting": lambda plan: _seconds(plan.seconds),
    "processor": lambda plan: _seconds(plan.cpu_seconds),
}
